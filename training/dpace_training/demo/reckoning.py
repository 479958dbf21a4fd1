"""Reckoning tasks: dates, units and short arithmetic, each answered step by step."""

import random

from dpace_training.demo import words

UNITS = (  # larger unit, smaller unit, how many of the smaller make one of the larger
    ("km", "m", 1000), ("m", "cm", 100), ("cm", "mm", 10), ("kg", "g", 1000),
    ("l", "ml", 1000), ("hours", "minutes", 60), ("minutes", "seconds", 60),
    ("days", "hours", 24), ("weeks", "days", 7), ("years", "months", 12),
)  # fmt: skip


def dates_task(rng: random.Random) -> tuple[str, str]:
    """Return a question and its answer: dates rewritten in another form, or moved by days."""
    return rng.choice((_rewrite_dates, _rewrite_dates, _move_date))(rng)


def units_task(rng: random.Random) -> tuple[str, str]:
    """Return a question and its answer: a conversion with its factor spelled out."""
    larger, smaller, factor = rng.choice(UNITS)
    count = rng.randint(2, 99) if factor in (10, 100, 1000) else rng.randint(2, 12)
    total = count * factor
    if rng.random() < 0.5:
        question = f"Convert {count} {larger} to {smaller}."
        answer = (
            f"1 {_one(larger)} = {factor} {smaller}, so {count} {larger} = "
            f"{count} x {factor} {smaller} = {total} {smaller}."
        )
    else:
        question = f"Convert {total} {smaller} to {larger}."
        answer = (
            f"{factor} {smaller} = 1 {_one(larger)}, so {total} {smaller} = "
            f"{total} / {factor} {larger} = {count} {larger}."
        )
    return question, answer


def arithmetic_task(rng: random.Random) -> tuple[str, str]:
    """Return a question and its answer: written addition, or a short story with two steps."""
    return rng.choice((_written_addition, _story))(rng)


def _rewrite_dates(rng: random.Random) -> tuple[str, str]:
    dates = [_draw_date(rng) for _ in range(rng.randint(1, 3))]
    forms = {
        "in long form": lambda y, m, d: f"{d} {words.MONTHS[m - 1]} {y}",
        "in ISO form": lambda y, m, d: f"{y}-{m:02d}-{d:02d}",
        "with slashes": lambda y, m, d: f"{d:02d}/{m:02d}/{y}",
    }
    given, wanted = rng.sample(list(forms), 2)
    listed = ", ".join(forms[given](*date) for date in dates)
    ask = rng.choice((f"Write {wanted}: {listed}", f"Write {listed} {wanted}."))
    return ask, "\n".join(forms[wanted](*date) for date in dates)


def _move_date(rng: random.Random) -> tuple[str, str]:
    year, month, day = _draw_date(rng)
    moved = rng.randint(1, 28)
    name, last = words.MONTHS[month - 1], words.DAYS_IN_MONTH[month - 1]
    question = f"Which date is {moved} days after {day} {name} {year}?"
    total = day + moved
    steps = f"{day} + {moved} = {total}. {name} has {last} days. "
    if total <= last:
        return question, f"{steps}The date is {total} {name} {year}."
    year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    name = words.MONTHS[month - 1]
    rest = total - last
    return question, f"{steps}{total} - {last} = {rest}. The date is {rest} {name} {year}."


def _draw_date(rng: random.Random) -> tuple[int, int, int]:
    month = rng.randint(1, 12)
    return rng.randint(2010, 2029), month, rng.randint(1, words.DAYS_IN_MONTH[month - 1])


def _written_addition(rng: random.Random) -> tuple[str, str]:
    left, right = rng.randint(10, 99), rng.randint(10, 99)
    ask = rng.choice((f"Add {left} and {right}.", f"What is {left} + {right}?"))
    ones = left % 10 + right % 10
    carry = ones // 10
    tens = left // 10 + right // 10 + carry
    carried = f", carry {carry}" if carry else ""
    added = f" + {carry}" if carry else ""
    return ask, (
        f"Ones: {left % 10} + {right % 10} = {ones}, write {ones % 10}{carried}. "
        f"Tens: {left // 10} + {right // 10}{added} = {tens}. "
        f"The answer is {left + right}."
    )


def _story(rng: random.Random) -> tuple[str, str]:
    name, thing = rng.choice(words.FIRST_NAMES), rng.choice(words.COUNTED_THINGS)
    start, more = rng.randint(3, 20), rng.randint(2, 20)
    less = rng.randint(1, start + more - 1) if start + more < 20 else rng.randint(1, 18)
    total = start + more
    question = (
        f"{name} has {start} {thing}, gets {more} more and gives away {less}. "
        f"How many {thing} are left?"
    )
    return question, (
        f"{name} starts with {start} {thing}. {start} + {more} = {total}. "
        f"{total} - {less} = {total - less}. {name} has {total - less} {thing} left."
    )


def _one(unit: str) -> str:
    return unit.removesuffix("s") if unit not in ("s", "cm", "mm") and len(unit) > 2 else unit
