"""Rows of the tables on serving, from results with few numbers."""

from dpace_training.demo.live_tables import cost_rows, schedule_rows, swap_rows, truth_rows

MACHINE = {"cpu": "a CPU", "num_cores": 2}


def arm(tau):
    return {"tau": tau, "tau_low": tau - 0.25, "tau_high": tau + 0.25}


def test_truth_names_the_drafter_its_champion_and_the_largest_shift():
    rows = [
        {
            "drafter": drafter,
            "champion": champion,
            "temperature": 0.0,
            "num_prompts": 9,
            "shadow": arm(2.5),
            "alone": arm(2.75),
            "ratio": {"ratio": ratio, "low": ratio - 0.01, "high": ratio + 0.01},
        }
        for drafter, champion, ratio in (("a", "b", 0.975), ("b", "a", 1.01))
    ]
    text = truth_rows({"truth": {"settings": {"confidence": 0.95}, "rows": rows}})
    assert "| a | b | 0 | 2.50 [2.25, 2.75] | 2.75 [2.50, 3.00] | 0.975 [0.965, 0.985] |" in text
    assert "9 held-out prompts, 95 % intervals" in text
    assert "moved tau by 2.5 % at most" in text


def test_cost_says_which_share_is_shadowed():
    row = {"batch_size": 4, "ratio": 1.125, "ratio_low": 1.0, "ratio_high": 1.25}
    rows = [row | {"shadow_share": share} for share in (1.0, 0.5)]
    text = cost_rows({"machine": MACHINE, "cost": {"rows": rows}})
    assert "| 4 | all | 1.12 [1.00, 1.25] |\n| 4 | 50% | 1.12 [1.00, 1.25] |" in text
    assert "float32, eager, a CPU, 2 cores." in text


def swaps(**changed):
    gaps = {"p50_ms": 10.4, "p99_ms": 20.0, "longest_ms": 31.0, "num_gaps": 1234}
    return {
        "machine": MACHINE,
        "swaps": {
            "settings": {"streams": 16},
            "num_swaps": 200,
            "num_requests": 10430,
            "num_failed": 0,
            "num_different": 0,
            "resident_before_bytes": 1_763_000_000,
            "resident_after_bytes": 1_764_000_000,
            "load_seconds": {"median": 0.064, "low": 0.05, "high": 0.163},
            "total_seconds": {"median": 3.94, "low": 3.0, "high": 5.0},
            **dict.fromkeys(
                ("gaps_loading", "gaps_as_long", "gaps_otherwise", "gaps_control"), gaps
            ),
            **changed,
        },
    }


def test_swaps_say_what_failed_and_what_the_streams_waited():
    text = swap_rows(swaps())
    assert "of 10,430 requests none failed, and none had other tokens" in text
    assert "from 1,763 to 1,764 MB" in text
    assert "64 ms in the median, 163 ms at most; a swap took 3.9 s" in text
    assert "| without swaps | 10 ms | 20 ms | 31 ms | 1,234 |" in text
    assert "of 10,430 requests 3 failed" in swap_rows(swaps(num_failed=3))


def test_a_schedule_stands_beside_the_best_fixed_length():
    verified = [
        {
            "batch_size": 16,
            "tokens_per_second": 472.4,
            "fixed": {"7": 300.0, "3": 470.2},
            "best_fixed": 3,
            "ratio": 1.005,
            "low": 0.9,
            "high": 1.1,
        }
    ]
    assert "| 16 | 472 | 3 | 470 | 1.00 [0.90, 1.10] |" in schedule_rows({"verified": verified})
