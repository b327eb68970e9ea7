"""Keys of TRL's configurations that the toolkit sets, and other names of the remaining keys."""

from __future__ import annotations

_BATCH = "follows from batch_examples and micro_batch_examples at the top of the recipe"
_PRECISION = "set precision at the top of the recipe"
_LOG = "set log_every_steps at the top of the recipe"
_SAVE = "set checkpoint_every_steps at the top of the recipe; checkpoints are complete, the newest is kept"
_EVALUATE = "held-out data is measured when the training ends"
_TRACK = "metrics go to metrics.jsonl in the run directory, and the toolkit prints progress itself"
_UPLOAD = "training uploads nothing; use `toolkit publish` on the finished run"
_DATA = "the toolkit prepares the data; set data at the top of the recipe"
_MODEL = "the toolkit loads model and tokenizer; set model at the top of the recipe"
_LAUNCH = "belongs in an Accelerate configuration; give it with `toolkit run --launch FILE`"
_RESUME = "the same command resumes an unfinished run automatically, exactly"
_ROWS = "one row is one conversation: packed, GPT-2 would attend to the conversation before"
_LIGER = "is not supported: Liger replaces a model's forward pass, and so does TRL to compute the loss"
_FIXED = "the toolkit sets it: the result must not depend on the number of processes"

OWNED: dict[str, str] = {
    "output_dir": "the run directory decides; set run at the top of the recipe",
    "seed": "set seed at the top of the recipe",
    "data_seed": "set seed at the top of the recipe",
    "use_cpu": "set device at the top of the recipe",
    "full_determinism": "runs are deterministic already",
    **dict.fromkeys(
        (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "auto_find_batch_size",
        ),
        _BATCH,
    ),
    **dict.fromkeys(("bf16", "fp16", "bf16_full_eval", "fp16_full_eval"), _PRECISION),
    **dict.fromkeys(
        (
            "logging_steps",
            "logging_strategy",
            "logging_first_step",
            "log_on_each_node",
            "logging_nan_inf_filter",
        ),
        _LOG,
    ),
    **dict.fromkeys(
        (
            "save_steps",
            "save_strategy",
            "save_total_limit",
            "save_only_model",
            "save_on_each_node",
            "enable_jit_checkpoint",
        ),
        _SAVE,
    ),
    **dict.fromkeys(
        (
            "do_train",
            "do_eval",
            "do_predict",
            "eval_strategy",
            "eval_steps",
            "eval_delay",
            "eval_on_start",
            "eval_accumulation_steps",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "prediction_loss_only",
            "include_for_metrics",
            "batch_eval_metrics",
            "load_best_model_at_end",
            "metric_for_best_model",
            "greater_is_better",
        ),
        _EVALUATE,
    ),
    **dict.fromkeys(
        (
            "report_to",
            "run_name",
            "project",
            "trackio_space_id",
            "trackio_bucket_id",
            "trackio_static_space_id",
            "disable_tqdm",
            "log_level",
            "log_level_replica",
            "include_num_input_tokens_seen",
            "debug",
            "skip_memory_metrics",
        ),
        _TRACK,
    ),
    **dict.fromkeys(
        (
            "push_to_hub",
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
        ),
        _UPLOAD,
    ),
    **dict.fromkeys(
        (
            "dataset_num_proc",
            "dataset_text_field",
            "dataset_kwargs",
            "label_names",
            "remove_unused_columns",
            "length_column_name",
            "shuffle_dataset",
        ),
        _DATA,
    ),
    **dict.fromkeys(
        (
            "model_init_kwargs",
            "trust_remote_code",
            "chat_template_path",
            "eos_token",
            "pad_token",
            "use_cache",
        ),
        _MODEL,
    ),
    **dict.fromkeys(
        (
            "deepspeed",
            "fsdp",
            "fsdp_config",
            "parallelism_config",
            "accelerator_config",
            "local_rank",
            "ddp_backend",
            "ddp_timeout",
            "ddp_bucket_cap_mb",
            "ddp_static_graph",
            "ddp_broadcast_buffers",
            "ddp_find_unused_parameters",
        ),
        _LAUNCH,
    ),
    **dict.fromkeys(
        ("resume_from_checkpoint", "ignore_data_skip", "restore_callback_states_from_checkpoint"), _RESUME
    ),
    **dict.fromkeys(("packing", "packing_strategy", "padding_free", "eval_packing"), _ROWS),
    **dict.fromkeys(("use_liger_kernel", "liger_kernel_config"), _LIGER),
    "dataloader_persistent_workers": "the workers start once: the whole training is one pass over its rows",
    "truncation_mode": "a row that is too long is truncated from the oldest turns of its prompt",
    **dict.fromkeys(("average_tokens_across_devices", "dataloader_in_order", "dataloader_drop_last"), _FIXED),
}
"""Keys that the toolkit sets, each with the setting to use instead."""

RENAMED: dict[str, str] = {
    "warmup_ratio": "warmup_steps (below 1 it is a share of the training)",
    "lr": "learning_rate",
    "max_seq_length": "max_length",
    "max_prompt_length": "max_length",
    "epochs": "num_train_epochs",
    "lr_scheduler": "lr_scheduler_type",
    "scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "batch_size": "batch_examples at the top of the recipe",
    "kl_coef": "beta",
    "peft_config": "lora at the top of the recipe",
    "use_peft": "lora at the top of the recipe",
}
"""Other names of keys -> names in TRL or in the recipe."""
