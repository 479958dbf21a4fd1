"""The drafter as a trainable module; its `state_dict` is the checkpoint that engines load."""
