"""What a disk that is full, or refuses, makes of a run: one line, and the last state stays."""

import errno
import resource
import signal
from contextlib import contextmanager

import pytest

from dpace_serve.config import build_config
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_training.config import TrainConfig
from dpace_training.data.prepare import prepare
from dpace_training.fit import resume, run
from dpace_training.fit.checkpoint import is_finished
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.report import write_report
from dpace_training.fit.resume import saved_states
from dpace_training.fit.tracking import complete_lines
from dpace_training.fit.trainer import Trainer


@pytest.fixture
def values(target_folder, write_jsonl, tmp_path):
    def chats(name, count):
        lines = [{"messages": [{"role": "user", "content": f"{name} {i}"}]} for i in range(count)]
        return str(write_jsonl(f"{name}.jsonl", lines))

    return {
        "target": str(target_folder),
        "output": str(tmp_path / "drafter"),
        "data": {
            "conversations": chats("say", 10),
            "work": str(tmp_path / "work"),
            "regenerate": {"max_new_tokens": 16},
        },
        "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2},
        "fit": {"epochs": 4, "batch_size": 4, "num_anchors": 6, "log_every": 1, "save_every": 1},
        "evaluation": {"every": 4, "max_new_tokens": 12},
    }


def build(values, **fit):
    return build_config(TrainConfig, values | {"fit": values["fit"] | fit}, source="the test")


def fresh(config):
    return Trainer(config, prepare(config), Ranks())


@contextmanager
def disk_full_after(num_bytes):
    """The kernel refuses to write behind this size of a file, as it does on a full disk."""
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, old_limit[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)


def test_a_full_disk_is_one_clear_error_and_the_last_state_stays(values):
    config = build(values)
    trainer = fresh(config)
    trainer.train_step()
    trainer.save()
    trainer.train_step()
    said = r"step-00000002.*cannot be written .*Free space"
    with disk_full_after(50_000), pytest.raises(CheckpointError, match=said):
        trainer.save()
    assert [path.name for path in (config.output / "resume").iterdir()] == [
        "step-00000001.safetensors"
    ]
    assert fresh(config).step == 1


def test_what_was_written_before_the_disk_filled_is_removed(values, monkeypatch):
    config = build(values)
    trainer = fresh(config)
    trainer.train_step()

    def write_a_part(tensors, path, metadata):
        path.write_bytes(b"the first part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(resume, "save_file", write_a_part)
    with pytest.raises(CheckpointError, match="No space left"):
        trainer.save()
    assert not list((config.output / "resume").iterdir())


def test_a_disk_that_is_full_at_the_end_costs_no_step(values):
    config = build(values, max_steps=2)
    trainer = fresh(config)
    for _ in range(2):
        trainer.train_step()
    trainer.save()
    said = r"drafter: cannot be written .*Free space .* run the same command again"
    with disk_full_after(10_000), pytest.raises(CheckpointError, match=said):
        run.train(config)
    assert not list(config.output.glob("model*"))
    assert run.train(config)["steps"] == 2


def content(output):
    names = ("model.safetensors", "config.json", "log.jsonl", "training.json")
    return {name: (output / name).read_bytes() for name in names}


def cut_at(step, config, monkeypatch):
    train_step = Trainer.train_step

    def cut(trainer):
        if trainer.step == step:
            raise KeyboardInterrupt
        return train_step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", cut)
        with pytest.raises(KeyboardInterrupt):
            run.train(config)


def test_a_log_line_that_finds_no_space_is_one_clear_error_and_costs_no_saved_step(
    values, tmp_path, monkeypatch
):
    whole = build(values, save_every=4)
    run.train(whole)
    config = build(values | {"output": str(tmp_path / "full")}, save_every=4)
    cut_at(9, config, monkeypatch)
    log = config.output / "log.jsonl"
    saved = [path.read_bytes() for path in saved_states(config.output)]
    # Room for the configuration and the log's lines up to the saved step 8, and for half a line.
    up_to_saved = sum(len(line) for line in complete_lines(log)[:8])
    room = up_to_saved + up_to_saved // 16
    assert room > (config.output / "train.yaml").stat().st_size
    said = r"full/log\.jsonl: cannot be written \(.*File too large.*\)\. Free space .* same command"
    with disk_full_after(room), pytest.raises(CheckpointError, match=said) as refused:
        run.train(config)
    assert "\n" not in str(refused.value)
    assert not log.read_bytes().endswith(b"\n")  # half a line
    assert [path.read_bytes() for path in saved_states(config.output)] == saved
    run.train(config)
    assert content(config.output) == content(whole.output)


def test_an_evaluation_that_finds_no_space_in_the_log_is_taken_again(
    values, write_jsonl, tmp_path, monkeypatch
):
    held_out = write_jsonl("held.jsonl", [{"prompt": f"abc {i}"} for i in range(3)])
    values["evaluation"] |= {"conversations": str(held_out), "every": 8}
    whole = build(values, save_every=12)
    run.train(whole)
    # Right behind the line of step 8 comes its evaluation; no state is saved before.
    lines = complete_lines(whole.output / "log.jsonl")
    room = sum(len(line) for line in lines[:8]) + 10
    config = build(values | {"output": str(tmp_path / "full" / "drafter")}, save_every=12)
    assert room > (whole.output / "train.yaml").stat().st_size
    with disk_full_after(room), pytest.raises(CheckpointError, match=r"log\.jsonl: cannot be wri"):
        run.train(config)
    assert saved_states(config.output) == []
    run.train(config)
    assert content(config.output) == content(whole.output)


def test_the_configuration_that_finds_no_space_is_one_clear_error(values):
    config = build(values, max_steps=2)
    prepare(config)
    with disk_full_after(100), pytest.raises(CheckpointError, match=r"train\.yaml: cannot be writ"):
        run.train(config)
    assert list(config.output.iterdir()) == []
    assert run.train(config)["steps"] == 2


def test_an_output_that_cannot_be_a_folder_is_one_clear_error(values, tmp_path):
    (tmp_path / "file").write_text("no folder")
    config = build(values | {"output": str(tmp_path / "file" / "drafter")}, max_steps=1)
    with pytest.raises(
        CheckpointError, match=r"file/drafter/train\.yaml: cannot be written \(.*Not"
    ):
        run.train(config)


def test_a_folder_of_states_that_cannot_be_made_is_one_clear_error(values):
    config = build(values)
    config.output.mkdir()
    (config.output / "resume").write_text("no folder")
    with pytest.raises(CheckpointError, match=r"resume/step-00000001.*: cannot be written \(.*exi"):
        run.train(config)


def test_a_tracker_that_finds_no_space_is_one_clear_error(values):
    config = build(values, max_steps=1, trackers=["tensorboard"])
    config.output.mkdir()
    (config.output / "tensorboard").write_text("no folder")
    with pytest.raises(CheckpointError, match=r"drafter/tensorboard: cannot be written \(.*exists"):
        run.train(config)
    (config.output / "tensorboard").unlink()
    assert run.train(config)["steps"] == 1


def test_a_report_that_finds_no_space_leaves_the_finished_run_and_no_half_file(values):
    config = build(values, max_steps=2)
    run.train(config)
    with (
        disk_full_after(10_000),
        pytest.raises(ConfigError, match=r"cannot be written .*Free spac"),
    ):
        write_report(config.output)
    assert is_finished(config.output)
    assert not [path for path in config.output.rglob("*") if path.suffix in (".tmp", ".png")]
    assert write_report(config.output).exists()


def test_answers_that_find_no_space_are_one_clear_error_and_go_on(values):
    config = build(values, max_steps=1)
    with (
        disk_full_after(1500),
        pytest.raises(CheckpointError, match=r"answers\.partial: cannot be"),
    ):
        run.train(config)
    assert run.train(config)["documents"] == 10


@pytest.mark.parametrize("damage", ["no json\n", '{"loss": 1}\n', "[]\n", "\xff\n"])
def test_a_damaged_log_is_one_clear_error_and_stays(values, damage, monkeypatch):
    config = build(values)
    cut_at(2, config, monkeypatch)
    log = config.output / "log.jsonl"
    log.write_bytes(damage.encode("latin-1"))
    with pytest.raises(
        CheckpointError, match=r"log\.jsonl: holds a line that is none .* delete it"
    ):
        run.train(config)
    assert log.read_bytes() == damage.encode("latin-1")


def test_a_run_is_finished_when_all_its_files_are(values, monkeypatch):
    config = build(values, max_steps=2)
    facts = run.train(config)
    whole = content(config.output)

    def killed(*arguments):
        raise KeyboardInterrupt

    # Killed right before the drafter is replaced, and right before the facts are written.
    for place in ("drafter_checkpoint.write", "write_config"):
        with monkeypatch.context() as patch:
            patch.setattr(f"dpace_training.fit.checkpoint.{place}", killed)
            with pytest.raises(KeyboardInterrupt):
                run.train(config)
        assert not is_finished(config.output)
        assert run.train(config) == facts
        assert is_finished(config.output)
        assert content(config.output) == whole
