"""What every Dockerfile here keeps to, as sentences about what does not."""

import json
import re
from dataclasses import dataclass

FULL_VERSION = re.compile(r":[^:@]*\d+\.\d+\.\d+[^:@]*(@sha256:[0-9a-f]{64})?$")
ROOT_USERS = frozenset({"", "0", "root"})
NEEDED_LABELS = ("title", "description", "licenses", "version", "revision")


@dataclass(frozen=True)
class Instruction:
    name: str
    words: str

    def array(self) -> list[str] | None:
        """The words of the JSON form; None where it is the shell's form."""
        found = re.search(r"\[.*\]$", self.words)
        try:
            return json.loads(found[0]) if found else None
        except ValueError:
            return None


def instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    pairs = (line.split(None, 1) for line in joined.splitlines())
    return [Instruction(name, words.strip()) for name, words in pairs]


def final_stage(text: str) -> list[Instruction]:
    found = instructions(text)
    last = max(i for i, instruction in enumerate(found) if instruction.name == "FROM")
    return found[last:]


def environment(text: str) -> dict[str, str]:
    """Variables of the final stage."""
    words = " ".join(one.words for one in final_stage(text) if one.name == "ENV")
    return dict(word.split("=", 1) for word in words.split())


def the(name: str, stage: list[Instruction]) -> Instruction:
    """The instruction that counts: the last of its name."""
    return [one for one in stage if one.name == name][-1]


def faults(text: str) -> list[str]:
    """Each rule that a Dockerfile breaks, in words."""
    stage = final_stage(text)
    names = {one.name for one in stage}
    missing = {"USER", "HEALTHCHECK", "ENTRYPOINT", "CMD", "STOPSIGNAL", "LABEL"} - names
    found = [f"the final stage has no {name}" for name in sorted(missing)]
    return found + _of_bases(text) + _of_installs(text) + _of_final(stage, names)


def _of_bases(text: str) -> list[str]:
    arguments = dict(
        one.words.split("=", 1)
        for one in instructions(text)
        if one.name == "ARG" and "=" in one.words
    )
    bases = (one.words.split()[0] for one in instructions(text) if one.name == "FROM")
    named = {re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], base) for base in bases}
    return [f"{base} is not pinned" for base in sorted(named) if not FULL_VERSION.search(base)]


def _of_installs(text: str) -> list[str]:
    runs = " && ".join(one.words for one in instructions(text) if one.name == "RUN")
    commands = re.sub(r'[\[\]",]', " ", runs).split("&&")
    return [
        f"installed without hashes: {' '.join(command.split())}"
        for command in commands
        if re.search(r"\bpip\s+install\b", command)
        and not re.search(r"--require-hashes|--no-index", command)
    ]


def _of_final(stage: list[Instruction], names: set[str]) -> list[str]:
    found = []
    if "USER" in names and not re.fullmatch(r"[1-9]\d*:[1-9]\d*", the("USER", stage).words):
        found.append("the user is no number, or root")
    found += [
        f"{name} is a line for a shell"
        for name in ("ENTRYPOINT", "CMD")
        if name in names and the(name, stage).array() is None
    ]
    if "HEALTHCHECK" in names:
        check = the("HEALTHCHECK", stage)
        if check.words != "NONE" and check.array() is None:
            found.append("HEALTHCHECK is a line for a shell")
    if "STOPSIGNAL" in names and the("STOPSIGNAL", stage).words != "SIGTERM":
        found.append("the server drains at SIGTERM only")
    labels = " ".join(one.words for one in stage if one.name == "LABEL")
    found += [f"no label {name}" for name in NEEDED_LABELS if f"image.{name}=" not in labels]
    if any(one.name in {"ADD", "VOLUME"} for one in stage):
        found.append("ADD fetches, and VOLUME hides what is written")
    return found
