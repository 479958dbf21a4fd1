"""Whether the generator itself was too slow for its times to mean what they say."""

from dpace_loadtest.run_record import RunRecord


def saturation(record: RunRecord, max_send_lag_ms: float) -> str | None:
    """Why the times of a run cannot be trusted; none if they can."""
    late = record.saturated(max_send_lag_ms)
    if not late:
        return None
    worst = max(late, key=lambda cell: cell.p99_send_lag_ms or 0.0)
    return (
        f"generator saturated: p99 of the lag of sending must be at most {max_send_lag_ms:g} ms, "
        f"was {worst.p99_send_lag_ms:.0f} ms at load {worst.load:g} (busiest worker: "
        f"{100 * worst.cpu_share:.0f} % of a core). "
        "Use more workers, a quieter machine or less load."
    )
