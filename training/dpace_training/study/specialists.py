"""What position specialists bring and cost: each arm that has them against the plain one."""

from typing import Any

from dpace_training.study.summary import ratio_across_seeds

PLAIN_ARMS = ("dpace", "dflash")
"""The plain arms of the study; one with specialists has its plain arm's name and more."""


def specialist_rows(result: dict[str, Any]) -> str:
    """A Markdown table: for each arm with specialists its steps, size and ratios to the plain arm.

    Args:
        result: The result of the study, which has the plain arms.
    """
    arms = {arm["name"]: arm for arm in result["arms"]}
    sets = list(result["arms"][0]["sets"])
    columns = ("tau / tau without specialists", "steps", "parameters", *sets)
    rows = [
        "| " + " | ".join(name.replace("_", " ") for name in columns) + " |",
        "|---" * len(columns) + "|",
    ]
    for plain in PLAIN_ARMS:
        for name, arm in arms.items():
            if name.startswith(f"{plain}_"):
                share = arm["parameters"] / arms[plain]["parameters"] - 1
                cells = (_ratio(arm, arms[plain], held_out) for held_out in sets)
                rows.append(
                    f"| {name} | {arm['steps']} | {100 * share:+.1f} % | {' | '.join(cells)} |"
                )
    rows += [
        "",
        f"Geometric mean over the seeds {', '.join(map(str, result['seeds']))} "
        f"[{100 * result['confidence']:.0f} % over seeds]; bold where the interval excludes 1.",
        ". ".join(_plain_line(arms[plain]) for plain in PLAIN_ARMS) + ".",
    ]
    return "\n".join(rows)


def specialist_position_rows(result: dict[str, Any]) -> str:
    """A Markdown table: of each arm, the share of drafts accepted at each position.

    Args:
        result: The result of the study; its first held-out set is shown.
    """
    held_out = next(iter(result["arms"][0]["sets"]))
    positions = range(len(result["arms"][0]["sets"][held_out]["accepted_per_position"]))
    rows = [
        f"| accepted at position, {held_out.replace('_', ' ')} | "
        + " | ".join(str(1 + position) for position in positions)
        + " |",
        "|---" * (len(positions) + 1) + "|",
    ]
    for arm in result["arms"]:
        record = arm["sets"][held_out]
        cells = (_share(record, position) for position in positions)
        rows.append(f"| {arm['name']} | {' | '.join(cells)} |")
    rows += ["", f"Percent of drafts, [{100 * result['confidence']:.0f} % over seeds]."]
    return "\n".join(rows)


def _share(record: dict[str, Any], position: int) -> str:
    low, high = record["accepted_across_seeds"][position]
    share = record["accepted_per_position"][position]
    return f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _ratio(arm: dict[str, Any], plain: dict[str, Any], held_out: str) -> str:
    taus = (one["sets"][held_out]["tau_by_seed"] for one in (arm, plain))
    ratio, low, high = ratio_across_seeds([own / base for own, base in zip(*taus, strict=True)])
    text = f"**{ratio:.3f}**" if low > 1 or high < 1 else f"{ratio:.3f}"
    return f"{text} [{low:.3f}, {high:.3f}]"


def _plain_line(arm: dict[str, Any]) -> str:
    taus = ", ".join(
        f"{name.replace('_', ' ')} {record['tau']:.2f}" for name, record in arm["sets"].items()
    )
    return f"Tau of {arm['name']} ({arm['parameters']:,} parameters, {arm['steps']} steps): {taus}"
