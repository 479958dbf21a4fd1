"""One look for all figures: colours that the colour-blind tell apart, on light and on dark."""

from matplotlib import colormaps
from matplotlib.colors import to_hex

# Okabe and Ito (2008), without black and yellow, which vanish on a dark or a light page.
CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
FIRST, HIGHLIGHT = CATEGORIES[0], CATEGORIES[1]
NEUTRAL = "#808080"

# The ends of viridis are too dark for a dark page and too light for a light one.
_DARKEST, _LIGHTEST = 0.3, 0.8


def ordered_colours(count: int) -> tuple[str, ...]:
    """Colours for things that have an order, such as positions or steps, dark to light."""
    span = _LIGHTEST - _DARKEST
    places = (_DARKEST + span * index / max(count - 1, 1) for index in range(count))
    return tuple(to_hex(colormaps["viridis"](place)) for place in places)
