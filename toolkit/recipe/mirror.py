"""`trainer:` checked against TRL's own configuration classes, by name, type and range, without importing TRL.

Importing DPOConfig takes 4 to 5 seconds, so its fields come from `trl_fields.json`, written for the versions
named in it by `python -m toolkit.recipe.mirror`. With another version of TRL the class itself is asked:
right, and slow. Only the keys that a recipe sets are passed on: upstream defaults stay upstream's.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.recipe.messages import listed, repair, shown, suggestion

CONFIGS = {"sft": "SFTConfig", "reward": "RewardConfig", "dpo": "DPOConfig"}
SNAPSHOT = Path(__file__).with_name("trl_fields.json")

_BATCH = "follows from batch_examples and micro_batch_examples at the top of the recipe"
_PRECISION = "set precision at the top of the recipe"
_LOG = "set log_every_steps at the top of the recipe"
_SAVE = "set checkpoint_every_steps at the top of the recipe; checkpoints are complete, the newest is kept"
_EVALUATE = "held-out data is measured when the training ends"
_TRACK = "metrics go to metrics.jsonl in the run directory; it prints its own progress"
_UPLOAD = "training uploads nothing; use `toolkit publish` on the finished run"
_DATA = "the toolkit prepares the data; set data at the top of the recipe"
_MODEL = "the toolkit loads model and tokenizer; set model at the top of the recipe"
_LAUNCH = "belongs in an Accelerate configuration; give it with `toolkit run --launch FILE`"
_RESUME = "the same command resumes an unfinished run by itself, exactly"
_ROWS = "one row is one conversation: packed, GPT-2's attention would look into the one before"
_FIXED = "the toolkit sets it: the result must not depend on the number of processes"

OWNED: dict[str, str] = {
    "output_dir": "the run directory decides; set run at the top of the recipe",
    "seed": "set seed at the top of the recipe", "data_seed": "set seed at the top of the recipe",
    "use_cpu": "set device at the top of the recipe", "full_determinism": "runs are deterministic already",
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size",
                     "gradient_accumulation_steps", "auto_find_batch_size"), _BATCH),
    **dict.fromkeys(("bf16", "fp16", "bf16_full_eval", "fp16_full_eval"), _PRECISION),
    **dict.fromkeys(("logging_steps", "logging_strategy", "logging_first_step", "log_on_each_node",
                     "logging_nan_inf_filter"), _LOG),
    **dict.fromkeys(("save_steps", "save_strategy", "save_total_limit", "save_only_model",
                     "save_on_each_node", "enable_jit_checkpoint"), _SAVE),
    **dict.fromkeys(("do_train", "do_eval", "do_predict", "eval_strategy", "eval_steps", "eval_delay",
                     "eval_on_start", "eval_accumulation_steps", "eval_do_concat_batches",
                     "eval_use_gather_object", "prediction_loss_only", "include_for_metrics",
                     "batch_eval_metrics", "load_best_model_at_end", "metric_for_best_model",
                     "greater_is_better"), _EVALUATE),
    **dict.fromkeys(("report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id",
                     "trackio_static_space_id", "disable_tqdm", "log_level", "log_level_replica",
                     "include_num_input_tokens_seen", "debug", "skip_memory_metrics"), _TRACK),
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy",
                     "hub_always_push", "hub_revision"), _UPLOAD),
    **dict.fromkeys(("dataset_num_proc", "dataset_text_field", "dataset_kwargs", "label_names",
                     "remove_unused_columns", "length_column_name", "shuffle_dataset"), _DATA),
    **dict.fromkeys(("model_init_kwargs", "trust_remote_code", "chat_template_path", "eos_token", "pad_token",
                     "use_cache"), _MODEL),
    **dict.fromkeys(("deepspeed", "fsdp", "fsdp_config", "parallelism_config", "accelerator_config",
                     "local_rank", "ddp_backend", "ddp_timeout", "ddp_bucket_cap_mb", "ddp_static_graph",
                     "ddp_broadcast_buffers", "ddp_find_unused_parameters"), _LAUNCH),
    **dict.fromkeys(("resume_from_checkpoint", "ignore_data_skip",
                     "restore_callback_states_from_checkpoint"), _RESUME),
    **dict.fromkeys(("packing", "packing_strategy", "padding_free", "eval_packing"), _ROWS),
    "truncation_mode": "a row that is too long loses the oldest turns of its prompt first",
    **dict.fromkeys(("average_tokens_across_devices", "dataloader_in_order", "dataloader_drop_last"), _FIXED),
}
"""Keys that the toolkit sets, each with what to write instead."""

RENAMED = {"warmup_ratio": "warmup_steps (below 1 it is a share of the training)", "lr": "learning_rate",
           "max_seq_length": "max_length", "max_prompt_length": "max_length", "epochs": "num_train_epochs",
           "lr_scheduler": "lr_scheduler_type", "scheduler": "lr_scheduler_type", "optimizer": "optim",
           "batch_size": "batch_examples at the top of the recipe", "kl_coef": "beta",
           "peft_config": "lora at the top of the recipe", "use_peft": "lora at the top of the recipe"}

# key: (lowest, is it allowed itself, highest, is it allowed itself)
RANGES: dict[str, tuple[float | None, bool, float | None, bool]] = {
    **dict.fromkeys(("learning_rate", "num_train_epochs", "beta", "adam_epsilon", "discopop_tau",
                     "neftune_noise_alpha"), (0, False, None, False)),
    **dict.fromkeys(("weight_decay", "warmup_steps", "max_grad_norm", "dataloader_num_workers",
                     "center_rewards_coefficient", "router_aux_loss_coef"), (0, True, None, False)),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), (0, True, 1, False)),
    **dict.fromkeys(("ld_alpha", "ref_model_mixup_alpha"), (0, True, 1, True)),
    **dict.fromkeys(("max_length", "ref_model_sync_steps", "precompute_ref_batch_size", "pad_to_multiple_of",
                     "torch_empty_cache_steps", "dataloader_prefetch_factor"), (1, True, None, False)),
    "label_smoothing": (0, True, 0.5, False),
}

# Values that the class accepts and that fail later, or that cannot work here.
REFUSED_VALUES = {
    "lr_scheduler_type": ("reduce_lr_on_plateau", "greedy"),  # need evaluation during training
    "train_sampling_strategy": ("batch_rebalance",),  # its order depends on the number of processes
}
TEXT_VALUES = {"pad_to_multiple_of": ("auto",)}
PACKAGES = {**dict.fromkeys(("bnb", "paged", "adamw_8bit", "lion", "ademamix"), "bitsandbytes"),
            "galore": "galore_torch", "apollo": "apollo_torch", "lomo": "lomo_optim",
            "grokadamw": "grokadamw", "schedule_free": "schedulefree", "stable_adamw": "optimi",
            "torch_4bit": "torchao", "torch_8bit": "torchao", "anyprecision": "torchdistx",
            "xla": "torch_xla", "npu": "torch_npu"}
"""Part of an optimizer's name -> the package that it needs (transformers/trainer_optimizer.py)."""


def check(stage: str, trainer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, sentence) for every entry of `trainer` that TRL would refuse, ignore, or fail on later."""
    known = fields(stage)
    found = [(key, what) for key, value in trainer.items() if (what := _wrong(stage, key, value, known))]
    wrong = {key for key, _ in found}
    right = {key: value for key, value in trainer.items() if key not in wrong}
    return found + _together(right, set(trainer))


def settable(stage: str) -> list[str]:
    """The keys that a recipe may set."""
    return [key for key in fields(stage) if key not in OWNED]


def choices(key: str, described: Mapping[str, Any]) -> list[str]:
    """The words that a key may be; empty where any text will do."""
    known = TEXT_VALUES.get(key) or described.get("choices", ())
    return [one for one in known if one not in REFUSED_VALUES.get(key, ())]


def defaults(stage: str) -> dict[str, Any]:
    """The value of every key where a recipe does not set it."""
    return {key: described["default"] for key, described in fields(stage).items()}


def fields(stage: str) -> dict[str, dict[str, Any]]:
    """`{key: {types, default, choices?}}` of the configuration class of a stage."""
    return _description()["stages"][stage]


@functools.cache
def _description() -> dict[str, Any]:
    try:
        installed = {name: importlib.metadata.version(name) for name in ("trl", "transformers")}
    except importlib.metadata.PackageNotFoundError:
        installed = {}
    snapshots = read_snapshots()
    for snapshot in snapshots:
        if not installed or _matches(snapshot, installed):
            return snapshot
    from toolkit.recipe.upstream import describe

    return describe()


def _matches(snapshot: Mapping[str, str], installed: Mapping[str, str]) -> bool:
    """TRL's version exactly, transformers' up to the patch level (which adds no arguments)."""
    minor = [one["transformers"].split(".")[:2] for one in (snapshot, installed)]
    return snapshot["trl"] == installed["trl"] and minor[0] == minor[1]


def read_snapshots() -> list[dict[str, Any]]:
    """The stored descriptions, newest first, each as `upstream.describe()` gives it."""
    stored = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else []
    for one in stored:
        common = one.pop("common")
        one["stages"] = {stage: {**common, **own} for stage, own in one["stages"].items()}
    return stored


def _wrong(stage: str, key: str, value: Any, known: Mapping[str, Mapping[str, Any]]) -> str | None:
    if key in OWNED:
        return f"cannot be set here: {OWNED[key]}"
    if key not in known:
        close = f"; did you mean {RENAMED[key]}?" if key in RENAMED else suggestion(key, settable(stage))
        return f"unknown key: not a setting of trl.{CONFIGS[stage]}{close}"
    if key == "label_smoothing_factor" and stage != "sft":
        return f"has no effect: trl's {stage} loss does not read it"
    return _wrong_type(value, known[key]) or _wrong_choice(key, value, known[key]) or _wrong_range(key, value)


def _wrong_type(value: Any, described: Mapping[str, Any]) -> str | None:
    kinds = [kind for kind in described["types"] if not (kind == "text" and "mapping" in described["types"])]
    if any(_fits(value, kind) for kind in kinds):
        return None
    words = {"bool": "true or false", "int": "a whole number", "float": "a number", "text": "text",
             "null": "null", "mapping": "a mapping (key: value)"}
    words |= {"list of text": "a list of texts", "list of float": "a list of numbers"}
    plain = {"bool": bool, "int": int, "float": float, "text": str}
    hint = repair([plain[kind] for kind in kinds if kind in plain], value)
    return f"must be {listed(words[kind] for kind in kinds)}, not {shown(value)}{hint}"


def _fits(value: Any, kind: str) -> bool:
    if kind.startswith("list of "):
        return isinstance(value, list) and all(_fits(item, kind[8:]) for item in value)
    if kind in ("int", "float"):
        allowed = (int, float) if kind == "float" else int
        return isinstance(value, allowed) and not isinstance(value, bool)
    return isinstance(value, {"bool": bool, "text": str, "null": type(None), "mapping": dict}[kind])


def _wrong_choice(key: str, value: Any, described: Mapping[str, Any]) -> str | None:
    allowed = choices(key, described)
    if isinstance(value, list) and not value:
        return "must not be empty"
    for item in value if isinstance(value, list) else [value]:
        if allowed and isinstance(item, str) and item not in allowed:
            usable = [one for one in allowed if key != "optim" or _package_missing(one) is None]
            words = f"one of {', '.join(usable)}" if len(usable) > 1 else f"{usable[0]} or a whole number"
            return f"must be {words}, not {shown(item)}{suggestion(item, usable)}"
    if key == "optim" and (package := _package_missing(value)):
        return f"{shown(value)} needs the package {package}, which is not installed"
    return None


def _package_missing(optimizer: str) -> str | None:
    for part, package in PACKAGES.items():
        if part in optimizer:
            return None if importlib.util.find_spec(package) else package
    return None


def _wrong_range(key: str, value: Any) -> str | None:
    if key == "max_steps" and value != -1 and value < 1:
        return f"must be at least 1 (or -1 for num_train_epochs), not {shown(value)}"
    if key not in RANGES or not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    low, low_itself, high, high_itself = RANGES[key]
    if low is not None and (value < low or (value == low and not low_itself)):
        return f"must be {'at least' if low_itself else 'greater than'} {low:g}, not {shown(value)}"
    if high is not None and (value > high or (value == high and not high_itself)):
        return f"must be {'at most' if high_itself else 'less than'} {high:g}, not {shown(value)}"
    return None


def _together(given: Mapping[str, Any], names: set[str]) -> list[tuple[str, str]]:
    """Settings that contradict each other, or that act only together with another one.

    Args:
        given: the entries that are right by themselves.
        names: every key of the recipe; where one of them is wrong by itself its partner is left alone.
    """
    found = []
    for key, (partner, values) in _NEEDS.items():
        if key in given and given[key] is not None and (partner in given or partner not in names):
            actual = given.get(partner)
            if not any(one in values for one in (actual if isinstance(actual, list) else [actual])):
                found.append((key, f"has an effect only with {partner}: {listed(values)}"))
    if given.get("max_steps", -1) > 0 and "num_train_epochs" in given:
        found.append(("num_train_epochs", "has no effect: max_steps decides"))
    if given.get("dataloader_prefetch_factor") and not given.get("dataloader_num_workers"):
        found.append(("dataloader_prefetch_factor", "has an effect only with dataloader_num_workers above 0"))
    return found + _schedule(given) + _losses(given)


_NEEDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "ref_model_mixup_alpha": ("sync_ref_model", (True,)), "ref_model_sync_steps": ("sync_ref_model", (True,)),
    "precompute_ref_batch_size": ("precompute_ref_log_probs", (True,)),
    "f_alpha_divergence_coef": ("f_divergence_type", ("alpha_divergence",)),
    "discopop_tau": ("loss_type", ("discopop",)),
    "label_smoothing": ("loss_type", ("robust", "exo_pair", "aot", "aot_unpaired")),
    "torch_compile_backend": ("torch_compile", (True,)), "torch_compile_mode": ("torch_compile", (True,)),
}


def _schedule(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    kind, options = given.get("lr_scheduler_type", "linear"), given.get("lr_scheduler_kwargs") or {}
    allowed = _description()["schedulers"].get(kind, [])
    where = "lr_scheduler_kwargs" if options else "lr_scheduler_type"
    takes = f"unknown key: the schedule {kind} takes {', '.join(allowed) or 'none'}"
    found = [(f"lr_scheduler_kwargs.{key}", takes + suggestion(key, allowed))
             for key in options if key not in allowed]
    if kind == "warmup_stable_decay" and "num_decay_steps" not in options:
        found.append((where, f"the schedule {kind} needs lr_scheduler_kwargs: {{num_decay_steps: ...}}"))
    if kind.endswith("min_lr") and not {"min_lr", "min_lr_rate"} & set(options):
        found.append((where, f"the schedule {kind} needs lr_scheduler_kwargs: {{min_lr_rate: ...}}"))
    return found


def _losses(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Raised by trl/trainer/dpo_trainer.py, after model and data are loaded."""
    losses = given.get("loss_type", ["sigmoid"])
    losses = [losses] if isinstance(losses, str) else losses
    found = []
    weights = given.get("loss_weights")
    if weights is not None and len(weights) != len(losses):
        what = f"must have one number for each loss_type ({len(losses)}), not {len(weights)}"
        found.append(("loss_weights", what))
    shaped = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"}
    if given.get("f_divergence_type", "reverse_kl") != "reverse_kl" and not set(losses) <= shaped:
        found.append(("f_divergence_type", f"is not defined for loss_type {', '.join(set(losses) - shaped)}"))
    if given.get("use_weighting") and {"aot", "aot_unpaired"} & set(losses):
        found.append(("use_weighting", "is not defined for loss_type aot and aot_unpaired"))
    if "exo_pair" in losses and not given.get("label_smoothing"):
        found.append(("loss_type", "exo_pair needs label_smoothing above 0, for instance 1e-3"))
    if given.get("sync_ref_model") and given.get("precompute_ref_log_probs"):
        found.append(("sync_ref_model", "contradicts precompute_ref_log_probs: the reference would change"))
    return found


def write_snapshot() -> None:
    """Store the description of the installed TRL beside those of other versions."""
    from toolkit.recipe.upstream import describe

    new = describe()
    others = [one for one in read_snapshots() if not _matches(one, new)]
    SNAPSHOT.write_text("[\n" + ",\n".join(_compact(one) for one in [new, *others]) + "\n]\n")


def _compact(described: Mapping[str, Any]) -> str:
    """One line for each key; what the three classes share only once."""
    stages = described["stages"]
    common = {key: value for key, value in stages["sft"].items()
              if all(one.get(key) == value for one in stages.values())}
    own = {stage: {key: value for key, value in one.items() if key not in common}
           for stage, one in stages.items()}

    def block(entries: Mapping[str, Any], indent: str) -> str:
        lines = (f"{indent}  {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"

    body = ",\n".join(f'    "{stage}": {block(one, "    ")}' for stage, one in own.items())
    return (f'{{\n  "trl": "{described["trl"]}",\n  "transformers": "{described["transformers"]}",\n'
            f'  "schedulers": {json.dumps(described["schedulers"])},\n'
            f'  "common": {block(common, "  ")},\n  "stages": {{\n{body}\n  }}\n}}')


if __name__ == "__main__":
    write_snapshot()
