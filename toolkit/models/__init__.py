"""Building and loading models, their kernels, size and memory."""
