"""The names of the files in a run directory, relative to it."""

from __future__ import annotations

RECIPE = "recipe.yaml"
"""The recipe as it was given."""

RESOLVED = "resolved.yaml"
"""Every effective setting."""

MANIFEST = "manifest.json"
"""What went into the run."""

METRICS = "metrics.jsonl"
"""One line per log step."""

STEPS = "steps.jsonl"
"""Pretraining: one line per optimizer step."""

INCIDENTS = "incidents"
"""Pretraining: folder of the steps that the anomaly guard stopped."""

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints."""

CHECKPOINT_SEAL = "seal.json"
"""In a checkpoint folder: the hashes of its files."""

KEPT_STEPS = "steps"
"""Pretraining: folder of the weights that `keep_weights_at_steps` keeps, such as `steps/000010/`."""

SAMPLES = "samples.json"
"""In a folder of kept weights: the step and what the model wrote."""

JOURNAL = "journal.json"
"""Corpus: where an interrupted part resumes, or that it is complete; removed when the corpus is."""

TOKEN_INDEX = "index.json"
"""Corpus: in a folder of token shards, sizes and digests; written last."""

MODEL = "model"
"""Folder of the model: safetensors, config, tokenizer, chat template."""

CORPUS = "corpus"
"""Corpus: folder of the token shards, with `train/`, `held_out/` and `tokenizer/`."""

EVALUATION = "evaluation.json"
"""The numbers that the stage measured."""

ANSWERS = "answers.jsonl"
"""Evaluate: every answer of every model."""

PREFERENCES = "preferences.jsonl"
"""Preferences: prompt, chosen and rejected answer, one pair a line."""

TIES = "ties.jsonl"
"""Preferences: pairs without a preference."""

BEST = "best.jsonl"
"""Preferences: the best answer to each prompt, as conversations."""

TIMING = "timing.json"
"""Seconds, summed over interruptions."""

LOCK = "lock.json"
"""The SHA-256 of every output and of the manifest; written last."""

IN_USE = ".in-use"
"""The file that holds the OS lock while a process uses the run."""

SCRATCH = ".scratch"
"""Folder of temporary files; removed when the run is sealed."""

SAMPLED_ANSWERS = f"{SCRATCH}/answers"
"""Preferences: folder of the batches of answers that an unfinished run has sampled."""
