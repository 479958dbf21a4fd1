"""Benchmarks of the training half; `make bench` runs them."""
