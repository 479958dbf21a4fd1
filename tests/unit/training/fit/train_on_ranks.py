"""Run by `torchrun` from test_ranks.py: train each run of a JSON file and write what was seen."""

import json
import sys
from pathlib import Path

from dpace_serve.config import build_config
from dpace_training.config import TrainConfig
from dpace_training.data.prepare import prepare
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.trainer import Trainer


def train_runs(plans: dict, ranks: Ranks) -> dict:
    """Results by name, empty on all but the first rank; a run's later legs resume the first."""
    results = {}
    for name, plan in plans.items():
        config = build_config(TrainConfig, plan["config"], source=name)
        with ranks.first_alone():
            data = prepare(config)
        steps = []
        for num_steps in plan["legs"]:
            trainer = Trainer(config, data, ranks)
            steps += [trainer.train_step() for _ in range(num_steps)]
            trainer.save()
        drafter = trainer.whole_drafter()
        if drafter is not None:
            results[name] = {
                "size": ranks.size,
                "step": trainer.step,
                "loss": [step.loss for step in steps],
                "gradient_norm": [step.gradient_norm for step in steps],
                "blocks": [float(step.statistics.blocks) for step in steps],
                "weights": {k: v.sum().item() for k, v in drafter.state_dict().items()},
            }
    return results


if __name__ == "__main__":
    runs_file, result_file = map(Path, sys.argv[1:])
    this_run = Ranks()
    seen = train_runs(json.loads(runs_file.read_text(encoding="utf-8")), this_run)
    if this_run.is_first:
        result_file.write_text(json.dumps(seen), encoding="utf-8")
    this_run.leave()
