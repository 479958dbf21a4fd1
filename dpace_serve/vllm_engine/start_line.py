"""The line that says at start who serves, who is compared, and what can be loaded."""

from dpace_serve.live.fleet import Fleet
from dpace_serve.live.hosted import HostedDrafter
from dpace_serve.serve_config import ServeConfig


def start_line(fleet: Fleet, config: ServeConfig, *, has_admin_key: bool) -> str:
    """One line for the log.

    Args:
        fleet: The drafters as they were given.
        config: What is served.
        has_admin_key: Whether there is a key that the drafters can be changed with.
    """
    return (
        f"champion {_named(fleet.champion)}; {_compared(fleet, config)}; "
        f"{_loadable(config, has_admin_key=has_admin_key)}"
    )


def _named(drafter: HostedDrafter) -> str:
    return f"{drafter.name} (revision {drafter.revision})"


def _compared(fleet: Fleet, config: ServeConfig) -> str:
    names = ", ".join(map(_named, fleet.challengers)) or "none"
    if config.mode == "split":
        return f"challengers {names}; mode split, each serves {config.share:.0%} of the requests"
    return f"challengers {names}; mode shadow, along with {config.shadow_share:.0%} of the requests"


def _loadable(config: ServeConfig, *, has_admin_key: bool) -> str:
    num_spare_slots = config.num_spare_slots(has_admin_key=has_admin_key)
    missing = [
        what
        for what, is_there in (
            ("drafter_root", config.drafter_root is not None),
            ("an admin key", has_admin_key),
            ("spare_drafter_slots", num_spare_slots > 0),
        )
        if not is_there
    ]
    if missing:
        return f"no drafters can be loaded, which needs {' and '.join(missing)}"
    return f"{num_spare_slots} more can be loaded from {config.drafter_root}"
