"""The run directory: its inputs, outputs, and resumption after an interruption."""
