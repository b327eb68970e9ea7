"""From plain text to an aligned, evaluated, published language model, reproducibly."""
