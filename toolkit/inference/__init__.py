"""Opening a model, sampling from it, log-probabilities, reward scores, and tokens as text."""
