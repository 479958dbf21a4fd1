"""What our hooks rely on in SGLang 0.5.23, without a model; make test-sglang runs it."""

import importlib
import inspect
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest

from dpace_serve.errors import EngineError
from dpace_serve.gate.draining import Drain
from dpace_serve.sglang_engine import front, hooking, plugin, weight_updates
from dpace_serve.sglang_engine.draining import drain_at_sigterm

pytestmark = [pytest.mark.sglang]

# SGLang's other routes with "weight" in their path; none of them writes one here.
READING_ROUTES = {
    "/get_weights_by_name",
    "/init_weights_send_group_for_remote_instance",
    "/send_weights_to_remote_instance",
    "/update_weight_version",
}
LOAD_AND_REPORT = """
import sys
from sglang.srt.plugins import load_plugins
load_plugins()
from dpace_serve.sglang_engine import hooking, hooks
sys.stdout.write("not applied: %d of %d" % (
    len(hooking.not_applied(hooks.all_hooks())), len(hooks.all_hooks())))
"""


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """SGLang warns of all that a CPU lacks while it is imported, and only then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (
            "sglang.srt.entrypoints.http_server",
            "sglang.srt.managers.scheduler",
            "sglang.srt.speculative.dflash_worker_v2",
        ):
            importlib.import_module(name)


def run(program, **environment):
    """Run a program in a fresh process, which SGLang's plugins have not touched."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_it_is_the_supported_version():
    import sglang

    plugin.require_version(sglang.__version__)
    with pytest.raises(EngineError, match=r"needs SGLang 0\.5\.23, got 0\.5\.24"):
        plugin.require_version("0.5.24")


def test_every_hook_takes_hold_of_the_function_it_was_written_for():
    done = run(LOAD_AND_REPORT, SGLANG_PLUGINS="dpace")
    assert done.stdout.endswith("not applied: 0 of 14"), done.stdout + done.stderr


def test_an_environment_that_only_has_the_package_is_left_alone():
    environment = {name: value for name, value in os.environ.items() if name != "SGLANG_PLUGINS"}
    assert "SGLANG_PLUGINS" not in environment
    done = run(LOAD_AND_REPORT)
    assert done.stdout.endswith("not applied: 14 of 14"), done.stdout + done.stderr


def test_sglang_cannot_swallow_our_refusal_of_another_version():
    done = run(f"import sglang\nsglang.__version__ = '0.5.24'{LOAD_AND_REPORT}",
               SGLANG_PLUGINS="dpace")  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(
        "dpace: the serving plugin needs SGLang 0.5.23, got 0.5.24. Install that version, or leave "
        "dpace out of SGLANG_PLUGINS."
    )
    assert "not applied" not in done.stdout


def test_sglang_still_swallows_ordinary_errors_of_a_plugin():
    # Once it does not, SystemExit can go.
    from sglang.srt import plugins

    assert "except Exception" in inspect.getsource(plugins.load_plugins)
    assert issubclass(EngineError, Exception)


def test_a_function_with_another_parameter_is_refused(monkeypatch):
    from sglang.srt.managers.schedule_batch import Req

    hook = hooking.Hook(
        "sglang.srt.managers.schedule_batch.Req.update_spec_correct_drafts_histogram",
        ("self", "num_correct_drafts"),
        around=print,
    )
    hooking.require_expected(hook)
    monkeypatch.setattr(
        Req, "update_spec_correct_drafts_histogram", lambda self, num_correct_drafts, tree: None
    )
    with pytest.raises(EngineError, match="num_correct_drafts, tree"):
        hooking.require_expected(hook)


def test_everything_that_writes_weights_in_the_scheduler_is_ours():
    from sglang.srt.managers.scheduler_components.weight_updater import (
        SchedulerWeightUpdaterManager,
    )

    writing = {
        name
        for name in vars(SchedulerWeightUpdaterManager)
        if name.startswith(("update_weights_", "begin_weight_", "init_weights_update"))
    }
    assert writing == {"update_weights_from_tensor", *weight_updates.refusals()}


@pytest.mark.parametrize("name", sorted(weight_updates.refusals()))
def test_the_scheduler_refuses_sglangs_own_update(name):
    def written(*asked):
        raise AssertionError("SGLang's own update was reached")

    answer = weight_updates.refusals()[name](written, object(), object())
    assert not answer.success
    assert "dpace drafter swap" in answer.message


@pytest.mark.parametrize("load_format", [None, "direct", "flattened_bucket"])
def test_the_scheduler_takes_tensors_from_nobody(load_format):
    def written(*asked):
        raise AssertionError("SGLang's own update was reached")

    asked = SimpleNamespace(load_format=load_format, serialized_named_tensors=[b"tensors"])
    answer = weight_updates.load_drafter_only(written, object(), asked)
    assert not answer.success
    assert "dpace drafter swap" in answer.message


def test_every_route_that_writes_weights_is_closed():
    from sglang.srt.entrypoints.http_server import app

    paths = {getattr(route, "path", "") for route in app.routes}
    about_weights = {path for path in paths if "weight" in path}
    assert about_weights == READING_ROUTES | front.WEIGHT_PATHS


def test_the_update_from_a_folder_still_cannot_choose_the_drafter():
    # Once it can, our own way to the drafter's weights may go.
    from sglang.srt.managers.io_struct import UpdateWeightFromDiskReqInput

    assert "selector" not in UpdateWeightFromDiskReqInput.__struct_fields__


def test_sglang_still_casts_a_drafts_embeddings_to_bfloat16():
    # Once it does not, embedding_dtype can go.
    from sglang.srt.model_executor.model_runner import ModelRunner

    source = inspect.getsource(inspect.unwrap(ModelRunner._extend_forward_kwargs))
    assert "forward_batch.input_embeds.bfloat16()" in source


def test_the_fused_projection_still_keeps_copies_of_the_drafters_weights():
    # Once it does not, refreshing them after a swap can go.
    from sglang.kernels.ops.speculative.fused_kv_materialize import FusedKVMaterializeHelper
    from sglang.srt.speculative.dflash_worker_v2 import DFlashWorkerV2

    assert "torch.stack(kv_weights)" in inspect.getsource(FusedKVMaterializeHelper.__init__)
    assert list(inspect.signature(DFlashWorkerV2._init_fused_kv_helper).parameters) == ["self"]


def test_requests_are_streamed_by_the_functions_that_the_recorder_replaces():
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

    def parameters(function):
        return list(inspect.signature(function).parameters)

    assert parameters(TokenizerManager.generate_request) == ["self", "obj", "request"]
    assert parameters(TokenizerManager._stream_one_response) == ["self", "obj", "state", "request"]
    waiting = inspect.getsource(TokenizerManager._wait_one_response)
    assert "self._stream_one_response(obj=obj, state=state, request=request)" in waiting


def test_sglang_is_given_the_same_blocks_masks_and_taps_as_we_read():
    from dpace_serve.demo import bundle
    from dpace_serve.sglang_engine.server import require_same_reading

    require_same_reading(bundle.drafter_folder("dpace"))


async def test_sglang_0_5_23_takes_sigterm_by_a_handler_that_can_be_replaced():
    from sglang.srt.managers.tokenizer_manager import SignalHandler, TokenizerManager

    # What the manager does with it: it is made of the manager, and asked for these two methods.
    source = inspect.getsource(TokenizerManager.auto_create_handle_loop)
    assert "signal_handler = self.signal_handler_class(self)" in source
    assert "loop.add_signal_handler(signal.SIGTERM, signal_handler.sigterm_handler)" in source
    assert "self.signal_handler_class = SignalHandler" in inspect.getsource(
        TokenizerManager.init_request_dispatcher
    )
    manager = SimpleNamespace(signal_handler_class=SignalHandler, gracefully_exit=False)
    drain = Drain()
    drain_at_sigterm(manager, drain, limit_seconds=60)
    manager.signal_handler_class(manager).sigterm_handler()
    assert manager.gracefully_exit
    assert drain.is_draining


def test_sglang_0_5_23_ends_a_stream_with_done_after_an_error_too():
    from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
    from sglang.srt.entrypoints.openai.serving_completions import OpenAIServingCompletion

    for generator in (
        OpenAIServingChat._generate_chat_stream,
        OpenAIServingCompletion._generate_completion_stream,
    ):
        source = inspect.getsource(generator).rstrip()
        assert source.endswith('yield "data: [DONE]\\n\\n"')
        # On the level of the function's own body, and so after every error.
        assert source.splitlines()[-1].index("yield") == 8
