"""Timings of the training package on the bundled models, each with its own command."""
