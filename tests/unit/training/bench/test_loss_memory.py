from dpace_training.bench.loss_memory import Size, compare


def test_a_chunk_at_a_time_needs_a_fraction_of_the_memory_for_the_same_gradient():
    # 512 blocks in chunks of 64: an eighth, plus what does not depend on the vocabulary.
    result = compare(Size(blocks=512, positions=15, hidden=64, vocab=16384))
    assert result["peak_bytes"]["materialised"] > 512 * 15 * 16384 * 4
    assert result["ratio"] < 0.25
    assert result["largest_difference"] < 1e-5 * result["largest_gradient"]
