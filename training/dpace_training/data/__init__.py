"""From conversations to the tensors that one training step reads."""
