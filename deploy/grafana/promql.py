"""Sums of counters, in the two ways in which panels need them."""


def per_second(metric: str, filters: str, *by: str) -> str:
    """Events per second around each point of a line."""
    return f"{_sum(by)} (rate({metric}{{{filters}}}[$__rate_interval]))"


def in_range(metric: str, filters: str, *by: str) -> str:
    """Events in the whole time range of the board."""
    return f"{_sum(by)} (increase({metric}{{{filters}}}[$__range]))"


def _sum(by: tuple[str, ...]) -> str:
    return f"sum by ({', '.join(by)})" if by else "sum"
