"""Results of the benchmarks as Markdown."""

from typing import Any


def step_time_rows(result: dict[str, Any]) -> str:
    """What `bench.step_time` measured, one row per arm."""
    baseline = result["baseline"]
    rows = [f"| | ms a step | / {baseline}, median [middle half] |", "|---|---|---|"]
    for arm, step in result["steps"].items():
        rows.append(f"| {arm} | {1000 * step['seconds']:.0f} | {_ratio(step['ratio'])} |")
    rows += ["", f"{result['rounds']} rounds, {result['threads']} thread, {_machine(result)}."]
    return "\n".join(rows)


def specialist_cost_rows(result: dict[str, Any]) -> str:
    """What `bench.specialist_cost` measured, one row per drafter."""
    forwards = result["forwards"]
    sizes = " | ".join(f"batch {row['batch_size']}" for row in forwards)
    rows = [
        f"| forward pass / plain, median [middle half] | {sizes} | parameters | memory |",
        "|---" * (len(forwards) + 3) + "|",
    ]
    for arm in forwards[0]["arms"]:
        cells = " | ".join(
            f"{_ratio(row['arms'][arm]['ratio'])}, {row['arms'][arm]['milliseconds']:.2f} ms"
            for row in forwards
        )
        own = result[arm]
        rows.append(f"| {arm} | {cells} | {own['parameters']:,} | {own['megabytes']:,.2f} MB |")
    which = "Bundled models" if result["size"] == "bundled" else f"Size {result['size']}"
    how = "compiled" if result["compiled"] else "eager"
    rows += ["", f"{which}, {how}, bfloat16, {result['rounds']} rounds, {_machine(result)}."]
    return "\n".join(rows)


def peer_rows(result: dict[str, Any]) -> str:
    """What `bench.peers` measured: each attention of each peer, in each precision."""
    precisions = list(result["precisions"])
    rows = [
        "| step time / ours, median [middle half] | " + " | ".join(precisions) + " |",
        "|---" * (len(precisions) + 1) + "|",
    ]
    for name in result["precisions"][precisions[0]]["peers"]:
        cells = (_peer(result["precisions"][each]["peers"][name]) for each in precisions)
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    own = ", ".join(
        f"{1000 * result['precisions'][each]['own']['seconds']['median']:.0f} ms in {each}"
        for each in precisions
    )
    versions = sorted(
        {
            f"{peer} {side['versions'][peer]}"
            for measured in result["precisions"].values()
            for name, side in measured["peers"].items()
            if "versions" in side
            for peer in [name.split()[0]]
        }
    )
    rows += [
        "",
        f"Ours: {own}; {', '.join(versions)}. {result['rounds']} rounds, {result['threads']} "
        f"thread, {_machine(result)}.",
    ]
    return "\n".join(rows)


def loss_memory_line(result: dict[str, Any]) -> str:
    """What `bench.loss_memory` measured."""
    peak = {name: size / 1e6 for name, size in result["peak_bytes"].items()}
    return (
        f"{peak['chunked']:,.0f} MB at the peak, with all logits at once "
        f"{peak['materialised']:,.0f} MB: a share of **{result['ratio']:.3f}**. Largest difference "
        f"of a gradient: {result['largest_difference']:.1g}, of gradients up to "
        f"{result['largest_gradient']:.1g}."
    )


def _peer(side: dict[str, Any]) -> str:
    return _ratio(side["ratio"]) if "ratio" in side else "does not run"


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def _machine(result: dict[str, Any]) -> str:
    cores = result["machine"]["num_cores"]
    return f"{result['machine']['cpu']}, {cores} core{'s' if cores > 1 else ''}"
