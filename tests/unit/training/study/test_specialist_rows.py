"""The table of specialists, from a result made by hand, and the study that is committed."""

from pathlib import Path

from dpace_serve.config import load_config
from dpace_training.config import SpecialistsConfig
from dpace_training.study.config import StudyConfig
from dpace_training.study.specialists import specialist_position_rows, specialist_rows

STUDY = Path(__file__).parents[4] / "training" / "configs" / "studies" / "specialists.yaml"


def arm(name, taus, *, steps=20, parameters=1000):
    record = {"tau": sum(taus) / len(taus), "tau_by_seed": list(taus)}
    return {"name": name, "steps": steps, "parameters": parameters, "sets": {"in_domain": record}}


RESULT = {
    "seeds": [0, 1],
    "confidence": 0.95,
    "arms": [
        arm("dpace", (2.0, 2.5)),
        arm("dpace_low_rank", (2.2, 2.75), parameters=1030),
        arm("dpace_last_layer_equal_time", (2.4, 2.25), steps=18, parameters=2075),
        arm("dflash", (1.6, 1.6)),
        arm("dflash_low_rank", (1.44, 1.44), parameters=1030),
    ],
}


def test_each_arm_stands_against_the_plain_one_of_its_objective():
    # Low rank has one ratio with both seeds, 1.1 and 0.9: their intervals have no width.
    # 1.2 and 0.9: mean sqrt(1.08); half the log of 4 / 3, times t(0.975, 1) = 12.7062.
    assert specialist_rows(RESULT).splitlines() == [
        "| tau / tau without specialists | steps | parameters | in domain |",
        "|---|---|---|---|",
        "| dpace_low_rank | 20 | +3.0 % | **1.100** [1.100, 1.100] |",
        "| dpace_last_layer_equal_time | 18 | +107.5 % | 1.039 [0.167, 6.463] |",
        "| dflash_low_rank | 20 | +3.0 % | **0.900** [0.900, 0.900] |",
        "",
        "Geometric mean over the seeds 0, 1 [95 % over seeds]; bold where the interval excludes 1.",
        "Tau of dpace (1,000 parameters, 20 steps): in domain 2.25. "
        "Tau of dflash (1,000 parameters, 20 steps): in domain 1.60.",
    ]


def test_acceptance_by_position_is_shown_with_its_interval():
    record = {
        "accepted_per_position": [0.5, 0.25],
        "accepted_across_seeds": [[0.4, 0.6], [0.2, 0.301]],
    }
    arms = [{"name": "dpace", "sets": {"in_domain_greedy": record, "other": {}}}]
    assert specialist_position_rows({"arms": arms, "confidence": 0.95}).splitlines() == [
        "| accepted at position, in domain greedy | 1 | 2 |",
        "|---|---|---|",
        "| dpace | 50.0 [40.0, 60.0] | 25.0 [20.0, 30.1] |",
        "",
        "Percent of drafts, [95 % over seeds].",
    ]


def test_the_committed_study_compares_three_drafters_under_two_objectives():
    study = load_config(StudyConfig, STUDY, [])
    last = study.run("dflash_last_layer", 2)
    assert last.drafter.specialists == SpecialistsConfig(kind="last_layer", group_size=2)
    assert last.loss.recipe == "dflash"
    assert study.run("dpace", 0).drafter.specialists is None
    assert study.run("dpace_low_rank", 0).fit.max_steps is None
    assert study.run("dpace_low_rank_equal_time", 0).fit.max_steps == 1025
    assert {arm: run.recipe for arm, run in study.arms.items()} == {
        arm: arm.partition("_")[0] for arm in study.arms
    }
