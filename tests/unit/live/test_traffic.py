"""Draws: stable for ever, uniform, and independent of each other."""

import hashlib
import math
import random

import pytest

from dpace_serve.errors import SwapError
from dpace_serve.live.traffic import Traffic, draw

IDS = [f"chatcmpl-{random.Random(seed).getrandbits(128):032x}" for seed in range(20_000)]


SALT = "0123456789abcdef"


def traffic(mode="split", share=0.1, shadow_share=1.0, draw_salt=SALT):
    return Traffic(mode=mode, share=share, shadow_share=shadow_share, draw_salt=draw_salt)


@pytest.mark.parametrize(
    ("request_id", "purpose", "digest"),
    [
        ("", "split", "62cf6fe14c46"),
        ("chatcmpl-1", "split", "a23a399b6368"),
        ("chatcmpl-1", "shadow", "7d56934d1e8d"),
        ("ü", "split", "e988bb3d209d"),
    ],
)
def test_a_draw_is_the_documented_hash_and_never_changes(request_id, purpose, digest):
    computed = hashlib.blake2b(
        request_id.encode(), digest_size=6, key=SALT.encode(), person=f"dpace-{purpose}".encode()
    )
    assert computed.hexdigest() == digest
    assert draw(request_id, purpose, salt=SALT) == int(digest, 16) / 2**48


def test_any_text_can_be_drawn_for():
    assert 0 <= draw("\ud800", "split", salt=SALT) < 1


@pytest.mark.parametrize("purpose", ["split", "shadow"])
def test_draws_are_uniform(purpose):
    counts = [0] * 20
    for request_id in IDS:
        counts[int(draw(request_id, purpose, salt=SALT) * 20)] += 1
    expected = len(IDS) / 20
    chi_squared = sum((found - expected) ** 2 / expected for found in counts)
    assert chi_squared < 43.8  # 99.9 % point of chi-squared with 19 degrees of freedom


def test_draws_for_both_purposes_are_independent():
    table = [[0, 0], [0, 0]]
    for request_id in IDS:
        is_split = draw(request_id, "split", salt=SALT) < 0.1
        table[is_split][draw(request_id, "shadow", salt=SALT) < 0.3] += 1
    chi_squared = sum(
        (table[row][column] - len(IDS) * low * high) ** 2 / (len(IDS) * low * high)
        for row, low in enumerate((0.9, 0.1))
        for column, high in enumerate((0.7, 0.3))
    )
    assert chi_squared < 16.3  # 99.9 % point with 3 degrees of freedom


def test_each_challenger_serves_its_own_part_of_the_draws():
    parts = {0: (0.0, 0.2), 1: (0.2, 0.4), None: (0.4, 1.0)}
    for request_id in IDS[:2000]:
        low, high = parts[traffic(share=0.2).serving_challenger(request_id, 2)]
        assert low <= draw(request_id, "split", salt=SALT) < high


def test_servers_of_one_salt_draw_alike_and_draws_of_another_cannot_be_foreseen():
    def served(salt, mode="split"):
        drawing = traffic(mode, share=0.5, shadow_share=0.5, draw_salt=salt)
        if mode == "shadow":
            return [drawing.is_shadowed(one) for one in IDS[:4000]]
        return [drawing.serving_challenger(one, 1) is None for one in IDS[:4000]]

    for mode in ("split", "shadow"):
        ours = served(SALT, mode)
        assert served(SALT, mode) == ours
        num_alike = sum(map(bool.__eq__, ours, served("another", mode)))
        assert abs(num_alike - 2000) < 4 * math.sqrt(1000)  # binomial: as good as a coin


def test_the_salt_is_in_no_log_of_the_settings():
    assert SALT not in repr(traffic())


def test_nobody_serves_instead_of_the_champion_in_shadow_mode():
    served = {traffic("shadow", share=0.9).serving_challenger(one, 1) for one in IDS[:100]}
    assert served == {None}


def test_the_shadowed_are_the_configured_share_and_none_in_split_mode():
    share = 0.3
    found = sum(traffic("shadow", shadow_share=share).is_shadowed(one) for one in IDS) / len(IDS)
    assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / len(IDS))
    assert all(traffic("shadow").is_shadowed(one) for one in IDS[:100])
    assert not any(traffic("shadow", shadow_share=0).is_shadowed(one) for one in IDS[:100])
    assert not any(traffic("split").is_shadowed(one) for one in IDS[:100])


def test_the_champion_keeps_a_share():
    traffic(share=0.3).require_share_for(3)
    with pytest.raises(SwapError, match=r"4 of 0\.3 do not") as caught:
        traffic(share=0.3).require_share_for(4)
    assert caught.value.status == 409
    traffic("shadow", share=0.9).require_share_for(4)
