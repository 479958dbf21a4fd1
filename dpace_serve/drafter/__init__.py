"""What a drafter is on disk: the one contract that training and serving share."""
