"""Letter tasks: a few facts fill a fixed letter."""

import random

from dpace_training.demo import words


def letters_task(rng: random.Random) -> tuple[str, str]:
    """Return a question and its answer: a reminder, an invitation, thanks or a delay notice."""
    return rng.choice((_reminder, _invitation, _thanks, _delay))(rng)


def _people(rng: random.Random) -> tuple[str, str]:
    to, sender = rng.sample(words.FIRST_NAMES, 2)
    return f"{to} {rng.choice(words.LAST_NAMES)}", sender


def _day(rng: random.Random) -> str:
    return f"{rng.randint(1, 28)} {rng.choice(words.MONTHS)}"


def _reminder(rng: random.Random) -> tuple[str, str]:
    to, sender = _people(rng)
    amount, day = rng.randint(10, 990), _day(rng)
    question = f"Write a payment reminder to {to}: {amount} euros, due {day}, from {sender}."
    return question, (
        f"Dear {to},\nthis is a friendly reminder that your payment of {amount} euros "
        f"is due on {day}.\nPlease send the {amount} euros before that date.\n"
        f"Kind regards,\n{sender}"
    )


def _invitation(rng: random.Random) -> tuple[str, str]:
    to, sender = _people(rng)
    event = rng.choice(("dinner", "party", "meeting", "concert", "lunch"))
    city, day = rng.choice(words.CITIES), _day(rng)
    question = f"Invite {to} to a {event} in {city} on {day}, from {sender}."
    return question, (
        f"Dear {to},\nyou are warmly invited to a {event} in {city} on {day}.\n"
        f"Please tell me if you can come to the {event}.\nBest wishes,\n{sender}"
    )


def _thanks(rng: random.Random) -> tuple[str, str]:
    to, sender = _people(rng)
    item, color = rng.choice(words.ITEMS), rng.choice(words.COLORS)
    question = f"Thank {to} for the {color} {item}, from {sender}."
    return question, (
        f"Dear {to},\nthank you very much for the {color} {item}.\n"
        f"I like the {item} and I use it every day.\nBest wishes,\n{sender}"
    )


def _delay(rng: random.Random) -> tuple[str, str]:
    to, sender = _people(rng)
    item, old = rng.choice(words.ITEMS), rng.choice(words.WEEKDAYS)
    new = rng.choice([day for day in words.WEEKDAYS if day != old])
    question = f"Tell {to} that the {item} comes on {new}, not on {old}, from {sender}."
    return question, (
        f"Dear {to},\nwe are sorry that the {item} will not arrive on {old}.\n"
        f"It will arrive on {new}.\nKind regards,\n{sender}"
    )
