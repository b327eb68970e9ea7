"""Pretraining: a GPT-2 from random weights on token shards."""
