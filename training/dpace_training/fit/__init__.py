"""Fitting the drafter's weights: batches, optimizer, log, checkpoints and the loop over them."""
