from dpace_training.bench.report import loss_memory_line, peer_rows, step_time_rows

MACHINE = {"cpu": "A CPU", "num_cores": 2, "python": "3.11.7"}


def test_a_row_of_step_times_has_milliseconds_and_the_ratio():
    result = {
        "machine": MACHINE,
        "threads": 1,
        "rounds": 20,
        "baseline": "dpace",
        "steps": {
            "dpace": {"seconds": 0.25, "ratio": {"median": 1.0, "low": 1.0, "high": 1.0}},
            "auf": {"seconds": 0.2, "ratio": {"median": 0.801, "low": 0.75, "high": 0.9}},
        },
    }
    assert step_time_rows(result).splitlines() == [
        "| | ms a step | / dpace, median [middle half] |",
        "|---|---|---|",
        "| dpace | 250 | 1.00 [1.00, 1.00] |",
        "| auf | 200 | 0.80 [0.75, 0.90] |",
        "",
        "20 rounds, 1 thread, A CPU, 2 cores.",
    ]


def test_a_peer_that_does_not_run_is_shown_beside_those_that_do():
    def measured(seconds, ratio):
        ran = {"ratio": {"median": ratio, "low": 1.1, "high": 1.4}, "versions": {"peer": "2.0"}}
        return {
            "own": {"seconds": {"median": seconds}},
            "peers": {"peer sdpa": ran, "peer flex": {"stopped_by": "no backward on a CPU"}},
        }

    result = {
        "machine": MACHINE,
        "threads": 1,
        "rounds": 20,
        "precisions": {"float32": measured(0.2, 1.25), "bfloat16": measured(0.1, 1.3)},
    }
    assert peer_rows(result).splitlines() == [
        "| step time / ours, median [middle half] | float32 | bfloat16 |",
        "|---|---|---|",
        "| peer sdpa | 1.25 [1.10, 1.40] | 1.30 [1.10, 1.40] |",
        "| peer flex | does not run | does not run |",
        "",
        "Ours: 200 ms in float32, 100 ms in bfloat16; peer 2.0. "
        "20 rounds, 1 thread, A CPU, 2 cores.",
    ]


def test_memory_is_told_in_megabytes_with_the_share_and_the_difference_of_gradients():
    result = {
        "peak_bytes": {"chunked": 1_500_000_000, "materialised": 12_000_000_000},
        "ratio": 0.125,
        "largest_difference": 2e-9,
        "largest_gradient": 0.0003,
    }
    assert loss_memory_line(result) == (
        "1,500 MB at the peak, with all logits at once 12,000 MB: a share of **0.125**. "
        "Largest difference of a gradient: 2e-09, of gradients up to 0.0003."
    )
