"""Studies: the same target, data, steps and seeds under several objectives."""
