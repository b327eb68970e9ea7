"""Environment variables that must be set before torch, the Hugging Face libraries and CUDA are loaded."""

from __future__ import annotations

import os
import sys

_ALWAYS = {
    # TRL and transformers ask huggingface_hub to send telemetry; its constant is read once, at import.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    # The tokenizer's threads deadlock after a fork (DataLoader workers), and it warns about it each time.
    "TOKENIZERS_PARALLELISM": "false",
    # transformers draws a bar for every weight file that it reads or writes, between our lines.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # cuBLAS sums in a fixed order only with a workspace of fixed size; read when CUDA starts.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def set_variables(device: str = "auto") -> None:
    """Set the variables for this process and its children; variables that are set already keep their values.

    Args:
        device: the recipe's setting; `cpu` keeps Accelerate from taking a GPU, and so does `auto` on a Mac.
            With `mps`, PyTorch computes on the CPU what MPS lacks.
    """
    for name, value in _ALWAYS.items():
        os.environ.setdefault(name, value)
    if device == "mps":
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    if device == "cpu" or (device == "auto" and sys.platform == "darwin"):
        os.environ["ACCELERATE_USE_CPU"] = "true"
