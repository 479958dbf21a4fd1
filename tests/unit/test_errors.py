"""An error is one line of bounded length, whatever it quotes."""

import pytest

from dpace_serve.errors import BusyError, ConfigError, DpaceError, EngineError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\u2028d", "a b c d"),
        ("red \x1b[31m", "red \\x1b[31m"),
        ("\0", "\\x00"),
        ("half \ud800", "half \\ud800"),
        ("turned \u202e", "turned \\u202e"),
        ("τ is 2.5 – gut", "τ is 2.5 – gut"),
    ],
)
def test_what_is_not_printable_is_written_out(text, shown):
    for kind in (DpaceError, ConfigError, BusyError):
        assert str(kind(text)) == shown


def test_a_long_text_keeps_its_rule_and_its_cure():
    text = str(ConfigError("The rule. " + "x" * 1_000_000 + " The cure."))
    assert len(text) == 1300 + len(" [...] ") + 600
    assert text.startswith("The rule. x")
    assert text.endswith("x The cure.")


def test_lines_of_a_log_stand_below_it_each_a_line_of_its_own():
    error = EngineError("It stopped.", log_lines=["first\x1b[0m", "second"])
    assert str(error) == "It stopped.\n  first\\x1b[0m\n  second"
