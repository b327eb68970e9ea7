"""What proves a run: verifying, replaying, reproducing, the batch of a step, incidents."""
