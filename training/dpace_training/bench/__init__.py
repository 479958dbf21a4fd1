"""Benchmarks of the training package, each with its own command; `make bench` runs them."""
