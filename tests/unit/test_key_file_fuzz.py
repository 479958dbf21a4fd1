"""Files of keys that nobody meant: printable words, or one line that quotes none of them."""

from hypothesis import given

from dpace_serve.key_file import read_keys
from tests.fuzzing import FUZZ, SECRET, damaged, outcome


@FUZZ
@given(raw=damaged(f"{SECRET}\n\nanother-key\n".encode()))
def test_any_file_holds_keys_that_can_travel_or_is_refused(tmp_path, raw):
    path = tmp_path / "keys"
    path.write_bytes(raw)
    path.chmod(0o600)
    keys = outcome(lambda: read_keys(path, "an API key"), hides_secret=True)
    for key in keys or ():
        assert key.isascii()
        assert key.isprintable()
        assert 0 < len(key) <= 4096
        assert key.split() == [key]
    assert keys != ()
