"""Measuring models: perplexity on held-out text, win rate on unseen prompts, both with intervals."""
