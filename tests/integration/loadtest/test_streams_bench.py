import pytest

from dpace_loadtest.bench.streams import MAX_TTFT_ERROR_MS, measure_streams


@pytest.mark.bench
@pytest.mark.slow
def test_a_small_run_of_the_streams_benchmark_reads_in_time():
    result = measure_streams(num_streams=60, seconds=3.0)
    assert result.num_measured == 60
    assert result.num_failed == 0
    assert result.ttft_error_ms_p95 <= MAX_TTFT_ERROR_MS
    assert result.tpot_ms_p50 == pytest.approx(50, rel=0.02)
    assert 0 < result.cpu_share < 1
