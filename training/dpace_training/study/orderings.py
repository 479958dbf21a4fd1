"""Whether a study came out in the orders that were published, arm against arm over its seeds."""

from typing import Any

from dpace_training.study.summary import ratio_across_seeds

PUBLISHED = (
    ("dpace", "dflash", "arXiv 2605.18810"),
    ("dpace", "dpace_cumulative", "arXiv 2605.18810"),
    ("dpace_cumulative", "dflash", "arXiv 2605.18810"),
    ("dpace_cumulative", "dpace_continuation", "arXiv 2605.18810"),
    ("dpace_continuation", "dflash", "arXiv 2605.18810, from the second epoch on"),
    ("dflash", "uniform", "arXiv 2602.06036"),
    ("positional", "uniform", "arXiv 2606.11552"),
    ("left_to_right", "uniform", "arXiv 2606.11552"),
    ("left_to_right", "positional", "arXiv 2606.11552"),
    ("auf", "dflash", "arXiv 2607.01893"),
    ("lk", "uniform", "arXiv 2602.23881"),
)
"""(The better one, the worse one, where it says so)."""


def ordering_rows(result: dict[str, Any]) -> str:
    """A Markdown table: each published order, the ratio of tau found, and whether it held.

    It held "clearly" where the interval over seeds lies above 1, and "in the mean" where only the
    geometric mean does. Orders between arms that the study lacks are left out.
    """
    arms = {arm["name"]: arm for arm in result["arms"]}
    sets = [name for name in result["arms"][0]["sets"] if name.startswith("in_domain")]
    rows = [
        "| published order | "
        + " | ".join(name.replace("_", " ") for name in sets)
        + " | source |",
        "|---" * (len(sets) + 2) + "|",
    ]
    for better, worse, source in PUBLISHED:
        if better in arms and worse in arms:
            cells = (_verdict(arms[better], arms[worse], name) for name in sets)
            rows.append(f"| {better} > {worse} | " + " | ".join(cells) + f" | {source} |")
    return "\n".join(rows)


def _verdict(better: dict[str, Any], worse: dict[str, Any], held_out: str) -> str:
    taus = (arm["sets"][held_out]["tau_by_seed"] for arm in (better, worse))
    ratio, low, high = ratio_across_seeds([a / b for a, b in zip(*taus, strict=True)])
    held = "clearly" if low > 1 else "in the mean" if ratio > 1 else "no"
    return f"{held}: {ratio:.3f} [{low:.3f}, {high:.3f}]"
