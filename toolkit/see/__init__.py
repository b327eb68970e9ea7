"""Seeing what a model does: the next-token distribution, answers, a conversation."""
