"""Which machine a measurement was made on."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware and interpreter behind a number.

    Attributes:
        cpu: Model of the processor.
        num_cores: Cores that this process may use.
        python: Version of the interpreter; code prompts are read from its own library.
    """

    cpu: str
    num_cores: int
    python: str


def this_machine(cpu_info: Path) -> Machine:
    """Describe the machine that runs this.

    Args:
        cpu_info: The kernel's description of the processors, /proc/cpuinfo on Linux.
    """
    return Machine(
        cpu=_cpu_model(cpu_info) or platform.processor() or platform.machine() or "unknown CPU",
        num_cores=_usable_cores(),
        python=platform.python_version(),
    )


def _cpu_model(cpu_info: Path) -> str | None:
    if not cpu_info.is_file():
        return None
    for line in cpu_info.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return " ".join(value.split())
    return None


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
