"""Quantiles of Student's t, for intervals of means over few prompts."""

import math

MAX_DEGREES = 1000
"""Degrees above are taken as these: the interval is then wider by 0.2 % at most."""
_HALVINGS = 80


def student_t_quantile(confidence: float, degrees: int) -> float:
    """Half-width, in standard errors, of the two-sided interval with this coverage.

    Args:
        confidence: In (0, 1), for example 0.95.
        degrees: Degrees of freedom, at least 1.

    Raises:
        ValueError: If one of them is out of bounds.
    """
    if not 0 < confidence < 1 or degrees < 1:
        raise ValueError(
            "confidence must lie between 0 and 1 and degrees be at least 1, got "
            f"{confidence} and {degrees}. Use 0.95, and more values."
        )
    degrees = min(degrees, MAX_DEGREES)
    # The angle, not t itself: it has an end.
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _central_probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _central_probability(angle: float, degrees: int) -> float:
    """Chance that |t| < sqrt(degrees) * tan(angle).

    Source:
        Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2 == 1
    term = cosine if is_odd else 1.0
    total = term if degrees > 1 else 0.0
    for power in range(3 if is_odd else 2, degrees - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    if is_odd:
        return 2 / math.pi * (angle + sine * total)
    return sine * total
