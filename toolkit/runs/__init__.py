"""The run directory: what went in, what came out, and how to go on after an interruption."""
