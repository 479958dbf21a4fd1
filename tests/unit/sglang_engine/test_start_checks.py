"""What is refused before SGLang is even imported, in one line each."""

import json
import shutil

import pytest

from dpace_serve.demo.bundle import drafter_folder, target_folder
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_serve.serve_config import ServeConfig
from dpace_serve.sglang_engine import server, start_checks


def settings(**given):
    return ServeConfig(
        engine="sglang",
        target=str(target_folder()),
        **{"drafter": drafter_folder("dpace"), **given},
    )


@pytest.fixture
def drafter(tmp_path):
    folder = tmp_path / "a-drafter"
    shutil.copytree(drafter_folder("dpace"), folder)
    return folder


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"challengers": (drafter_folder("dflash"),)}, "challengers"),
        ({"mode": "split"}, "mode split"),
        ({"allow_drafter_choice": True}, "allow_drafter_choice"),
        ({"spare_drafter_slots": 1}, "spare_drafter_slots"),
        ({"block_schedule": "schedule.json"}, "block_schedule"),
        ({"num_draft_tokens": 3}, "num_draft_tokens"),
        ({"step_times": "times.json"}, "step_times"),
        ({"verdict": {"step_times": {"dpace": "times.json"}}}, "verdict.step_times"),
        (
            {"tls": {"certificate_file": "c", "key_file": "k", "client_ca_file": "a"}},
            "tls.client_ca_file",
        ),
        ({"capture": {"folder": "kept", "workloads": ("json",)}}, "capture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_sglang_cannot_do_is_named_and_refused(given, name):
    with pytest.raises(ConfigError, match=f"^{name} cannot be had with SGLang: ") as refusal:
        start_checks.require_possible(settings(**given))
    assert "\n" not in str(refusal.value)


def test_what_it_can_do_is_not():
    start_checks.require_possible(settings())
    start_checks.require_possible(settings(drafter=None, shutdown_timeout_seconds=5))
    start_checks.require_possible(settings(num_draft_tokens=7, spare_drafter_slots=0, eager=True))
    start_checks.require_possible(settings(tls={"certificate_file": "c", "key_file": "k"}))


def test_the_bundled_drafter_is_served_with_its_whole_block():
    assert start_checks.require_servable(settings()) == 7
    assert start_checks.require_servable(settings(drafter=None)) is None


def test_an_absent_tensor_is_seen_before_the_start(drafter):
    from safetensors.torch import load_file, save_file

    tensors = load_file(drafter / "model.safetensors")
    del tensors["layers.1.mlp.down_proj.weight"]
    save_file(tensors, drafter / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.down_proj\.weight"):
        start_checks.require_servable(settings(drafter=drafter))


def test_a_file_that_sglang_would_write_into_the_target_is_refused(drafter):
    (drafter / "mask_embedding.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"mask_embedding\.pt"):
        start_checks.require_readable_by_engine(drafter)


def test_layers_with_a_window_are_refused(drafter):
    values = json.loads((drafter / "config.json").read_text())
    values |= {
        "layer_types": ["sliding_attention"] * 2,
        "sliding_window": 64,
        "use_sliding_window": True,
    }
    (drafter / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="window"):
        start_checks.require_readable_by_engine(drafter)


def test_specialists_are_not_refused(drafter):
    values = json.loads((drafter / "config.json").read_text())
    values |= {
        "architectures": ["DPaceSpecialistDraftModel"],
        "specialists": {"kind": "low_rank", "group_size": 2, "rank": 4},
    }
    (drafter / "config.json").write_text(json.dumps(values))
    start_checks.require_readable_by_engine(drafter)


@pytest.mark.parametrize(
    ("tp_size", "quantization", "said"),
    [
        (2, None, r"--tp-size 1, .* got 2\. Serve it on one device"),
        (1, "fp8", r"own number format, got quantization fp8\. Give .* unquant\.$"),
    ],
)
def test_specialists_are_neither_divided_nor_quantized(drafter, tp_size, quantization, said):
    with pytest.raises(ConfigError, match=said) as refusal:
        start_checks.require_undivided(drafter, tp_size=tp_size, quantization=quantization)
    assert str(refusal.value).startswith(str(drafter))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("quantization", [None, "unquant"])
def test_whole_specialists_in_their_own_format_are_taken(drafter, quantization):
    start_checks.require_undivided(drafter, tp_size=1, quantization=quantization)


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="drafter_root must be a folder"):
        start_checks.require_servable(settings(drafter_root=tmp_path / "none"))


def test_the_configuration_becomes_sglangs_flags():
    arguments = server.our_arguments(
        settings(port=8001, dtype="float32", eager=True, served_model_name="tiny"), 7
    )
    assert set(arguments) == {
        f"--model-path={target_folder()}",
        "--served-model-name=tiny",
        "--host=127.0.0.1",
        "--port=8001",
        "--dtype=float32",
        "--enable-metrics",
        "--disable-cuda-graph",
        "--speculative-algorithm=DFLASH",
        f"--speculative-draft-model-path={drafter_folder('dpace')}",
        "--speculative-dflash-block-size=8",
    }


def test_without_a_drafter_nothing_is_speculated():
    arguments = server.our_arguments(settings(drafter=None), None)
    assert not [argument for argument in arguments if "speculative" in argument]
    assert "--served-model-name=target" in arguments


def test_a_certificate_becomes_sglangs_own():
    tls = {"certificate_file": "/run/tls.crt", "key_file": "/run/tls.key"}
    arguments = server.our_arguments(settings(tls=tls), 7)
    assert [argument for argument in arguments if "ssl" in argument] == [
        "--ssl-certfile=/run/tls.crt",
        "--ssl-keyfile=/run/tls.key",
    ]


@pytest.mark.parametrize(
    "key", [["--api-key", "K"], ["--api-key=K"], ["--api-k", "K"], ["--api=K"], ["--api-key="]]
)
def test_an_api_key_is_kept_from_sglang_however_it_is_given(key):
    assert server.without_api_key(["--device=cpu", *key, "--dtype", "auto"]) == [
        "--device=cpu",
        "--dtype",
        "auto",
    ]


def test_the_last_of_several_keys_goes_too():
    assert server.without_api_key(["--api-key", "K", "--api-key=L", "--api-key"]) == []


@pytest.mark.parametrize("other", [["--api-keys=K"], ["--"], ["-a", "K"], ["K"], ["api-key"]])
def test_what_is_no_api_key_is_passed_on(other):
    assert server.without_api_key(other) == other
