import pytest

from dpace_serve.redaction import without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'http://me:pw@host:80/v1'", "'http://***@host:80/v1'"),
        ("https://token@host/v1", "https://***@host/v1"),
        ("https://me:p@w/d@host/v1", "https://***@host/v1"),
        ("me:pw@host/v1", "***@host/v1"),
        ("{'url': 'http://me:pw@h', 'x': 'm'}", "{'url': 'http://***@h', 'x': 'm'}"),
        ("https://host/v1?key=abc&x=1", "https://host/v1?***"),
        ("('--api-key', 'sk-1', '--eager')", "('--api-key', '***', '--eager')"),
        ("--api-key=sk-1 --eager", "--api-key=*** --eager"),
        ("{'password': 'pw', 'a': 1}", "{'password': '***', 'a': 1}"),
        ("Authorization: Bearer sk-1", "Authorization: Bearer ***"),
    ],
)  # fmt: skip
def test_what_a_server_would_accept_as_a_key_is_hidden(text, shown):
    assert without_credentials(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8000/v1",
        "data.regenerate.openai.api_key_file=keys/mine",
        "mask_token_id=5",
        "org/name@main",
        "{'alpha': 0.5, 'steps': [1, 2]}",
    ],
)
def test_other_text_stays_as_it_is(text):
    assert without_credentials(text) == text
