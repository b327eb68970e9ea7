"""Inference with one model: opening it, sampling, log-probabilities, reward scores and token text."""
