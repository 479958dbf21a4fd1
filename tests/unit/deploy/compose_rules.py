"""What deploy/compose.yaml keeps to, as sentences about what does not."""

import re
from pathlib import Path

import yaml

from tests.unit.deploy.dockerfile_rules import FULL_VERSION, final_stage, the

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
OWN_IMAGES = re.compile(r"dpace-(serve:(cpu|cuda)|loadtest)$")
LIMITS = ("mem_limit", "cpus", "pids_limit")
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def filled(text: str, **variables: str) -> str:
    """The file as compose reads it, with its variables given or at their defaults."""
    return VARIABLE.sub(lambda found: variables.get(found[1]) or found[3], text)


def read(text: str, **variables: str) -> dict:
    """A filled file without its lines for reuse."""
    values = yaml.safe_load(filled(text, DPACE_UID="10001", DPACE_GID="10001", **variables))
    return {name: value for name, value in values.items() if not name.startswith("x-")}


def mounts(service: dict) -> dict[str, str | None]:
    """What a service mounts: its path in the container, and the host's; none is a tmpfs."""
    found: dict[str, str | None] = {}
    for volume in service.get("volumes", []):
        if isinstance(volume, dict):
            found[volume["target"]] = None
        else:
            source, target = volume.split(":")[:2]
            found[target] = source
    return found | dict.fromkeys((one.split(":")[0] for one in service.get("tmpfs", [])), None)


def health_check(service: dict) -> list[str] | None:
    """The command that decides on health: the service's own, or its image's."""
    if "healthcheck" in service:
        return service["healthcheck"]["test"]
    if "build" not in service:
        return None
    dockerfile = (ROOT / service["build"]["dockerfile"]).read_text(encoding="utf-8")
    return the("HEALTHCHECK", final_stage(dockerfile)).array()


def seconds(duration: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([sm])", duration).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def faults(text: str) -> list[str]:
    """Each rule that the compose file breaks, in words."""
    file = read(text)
    services, secrets = file["services"], file.get("secrets", {})
    found = [
        f"{name}: {fault}"
        for name, service in services.items()
        for fault in _of_service(service, secrets, services)
    ]
    grace = seconds(services["server"].get("stop_grace_period", "10s"))
    config = yaml.safe_load((DEPLOY / "serve" / "cpu.yaml").read_text(encoding="utf-8"))
    if grace <= config["shutdown_timeout_seconds"]:
        found.append("server: is killed before its running answers may end")
    return found


def _of_service(service: dict, secrets: dict, services: dict) -> list[str]:
    return [
        *_of_image(service),
        *_of_privileges(service),
        *_of_ports(service),
        *_of_paths(service, secrets),
        *_of_dependencies(service, services),
        *(f"no {limit}" for limit in LIMITS if limit not in service),
    ]


def _of_image(service: dict) -> list[str]:
    image = service["image"]
    if "build" in service:
        return [] if OWN_IMAGES.match(image) else [f"{image} is none of ours"]
    return [] if FULL_VERSION.search(image) else [f"{image} is not pinned"]


def _of_privileges(service: dict) -> list[str]:
    wanted = {
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "user": "10001:10001",
    }
    found = [f"{key} is not {value}" for key, value in wanted.items() if service.get(key) != value]
    return found + [f"has {key}" for key in ("privileged", "cap_add", "network_mode", "pid", "ipc")
                    if key in service]  # fmt: skip


def _of_ports(service: dict) -> list[str]:
    return [
        f"port {port} is open to others"
        for port in service.get("ports", [])
        if not str(port).startswith("127.0.0.1:")
    ]


def _of_paths(service: dict, secrets: dict) -> list[str]:
    generated = (DEPLOY / "data", DEPLOY / "secrets")
    sources = [source for source in mounts(service).values() if source is not None]
    found = []
    for source in (source for source in sources if source.startswith(".")):
        path = (DEPLOY / source).resolve()
        if not path.exists() and not any(path.is_relative_to(folder) for folder in generated):
            found.append(f"{source} is not in the repository")
    for volume in service.get("volumes", []):
        if isinstance(volume, str) and volume.startswith("./data/") != (not volume.endswith(":ro")):
            found.append(f"{volume} is writable")
    named = service.get("secrets", [])
    found += [f"secret {name} is not declared" for name in named if name not in secrets]
    return found + [
        f"secret {name} is not in deploy/secrets"
        for name in named
        if not str(secrets.get(name, {}).get("file", "./secrets/")).startswith("./secrets/")
    ]


def _of_dependencies(service: dict, services: dict) -> list[str]:
    found = []
    for name, how in service.get("depends_on", {}).items():
        if how.get("condition") != "service_healthy":
            found.append(f"does not wait until {name} is healthy")
        elif not health_check(services[name]):
            found.append(f"waits for {name}, which has no health check")
    return found
