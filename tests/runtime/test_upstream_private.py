"""Upstream's private names exist and behave as `upstream_private` expects.

A failure after an update of transformers, TRL or torch shows which function of `upstream_private` to adapt.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers
import trl
import trl.trainer.utils
from transformers import Trainer

import toolkit
from toolkit.runtime import upstream_private
from toolkit.runtime.upstream_private import TokenizedRows, TrainerHooks

PACKAGE = Path(toolkit.__file__).parent
TRAINER_HOOKS = {
    "_maybe_log_save_evaluate": ("log_save_evaluate", "_run_epoch"),
    "_clip_grad_norm": ("clip_gradient_norm", "_run_epoch"),
    "_save": ("write_model", "save_model"),
    "_save_optimizer_and_scheduler": ("write_optimizer", "_save_checkpoint"),
    "_load_best_model": ("load_best_model", "_finalize_training"),
    "_load_from_checkpoint": ("load_checkpoint", "train"),
}
"""Private method of Trainer -> (public name in TrainerHooks, a method of Trainer that calls it)."""


def names_used_by(function: Callable) -> set[str]:
    """Return the attributes and globals that the code of a function reads."""
    return {*inspect.unwrap(function).__code__.co_names}


def accepts(function: Callable, **arguments: object) -> bool:
    try:
        inspect.signature(function).bind(None, **arguments)
    except TypeError:
        return False
    return True


def test_attention_implementation_follows_the_public_setter(tiny_model):
    before = upstream_private.attention_implementation(tiny_model)
    tiny_model.set_attn_implementation("eager")
    assert upstream_private.attention_implementation(tiny_model) == "eager"
    tiny_model.set_attn_implementation(before)
    assert upstream_private.attention_implementation(tiny_model) == before == "sdpa"


def test_block_classes_are_those_of_the_blocks(tiny_model):
    assert upstream_private.block_classes(tiny_model) == {type(tiny_model.transformer.h[0]).__name__}


def test_exit_functions_run_before_an_immediate_exit():
    program = """
import atexit, os
from toolkit.runtime import upstream_private
atexit.register(print, "registered", flush=True)
upstream_private.run_exit_functions()
os._exit(3)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (3, "registered\n"), ended.stderr


def test_graph_break_raises_the_dynamo_error():
    def broken(values):
        torch._dynamo.graph_break()
        return values + 1

    with pytest.raises(upstream_private.graph_break_error()):
        torch.compile(broken, backend="eager", fullgraph=True)(torch.zeros(1))
    torch.compiler.reset()


def test_trl_asks_use_triton_whether_to_skip_positions():
    original = trl.trainer.utils._use_triton
    cpu, gpu = torch.device("cpu"), torch.device("meta")
    assert not original(cpu)
    with upstream_private.scored_positions_only():
        assert trl.trainer.utils._use_triton(cpu)
        assert trl.trainer.utils._use_triton(gpu) == original(gpu)
    assert trl.trainer.utils._use_triton is original
    assert "_use_triton(hidden_states.device)" in inspect.getsource(trl.trainer.utils)


@pytest.mark.parametrize("trainer_class", [trl.GRPOTrainer, trl.RLOOTrainer])
def test_online_trainers_count_micro_batches_and_collect_metrics(trainer_class):
    assert {"_step", "_metrics"} <= names_used_by(trainer_class.__init__)
    assert "_step" in names_used_by(trainer_class.training_step)
    assert "_metrics" in names_used_by(trainer_class.log)
    assert "self._step += 1" in inspect.getsource(trainer_class.training_step)
    assert 'self._metrics = {"train": defaultdict(list)' in inspect.getsource(trainer_class.__init__)


@pytest.mark.parametrize("trainer_class", [trl.SFTTrainer, trl.DPOTrainer, trl.RewardTrainer])
def test_trl_prepares_its_dataset_and_sends_telemetry_in_methods_of_the_trainer(trainer_class):
    assert "_prepare_dataset" in names_used_by(trainer_class.__init__)
    assert next(iter(inspect.signature(trainer_class._prepare_dataset).parameters)) == "self"
    assert list(inspect.signature(trainer_class._prepare_dataset).parameters)[1] == "dataset"
    assert list(inspect.signature(trainer_class._send_telemetry).parameters) == ["self"]
    quiet = type("Quiet", (TokenizedRows, trainer_class), {})
    rows = [{"input_ids": [1]}]
    assert quiet._prepare_dataset(None, rows, "tokenizer", None) is rows
    assert quiet._send_telemetry(None) is None


@pytest.mark.parametrize("private", TRAINER_HOOKS)
def test_trainer_calls_its_private_hooks(private):
    _, caller = TRAINER_HOOKS[private]
    assert private in names_used_by(getattr(Trainer, caller)), f"Trainer.{caller} no longer calls {private}"


def test_trainer_hooks_have_the_signatures_of_trainer():
    assert accepts(Trainer._clip_grad_norm, model=None)
    assert accepts(Trainer._save, output_dir="", state_dict={})
    assert accepts(Trainer._save_optimizer_and_scheduler, output_dir="")
    assert accepts(Trainer._load_best_model)
    assert accepts(Trainer._load_from_checkpoint, resume_from_checkpoint="", model=None)
    for private in TRAINER_HOOKS.keys() - {"_maybe_log_save_evaluate"}:  # forwards its arguments
        ours, theirs = (inspect.signature(getattr(cls, private)) for cls in (TrainerHooks, Trainer))
        assert list(ours.parameters) == list(theirs.parameters), private


@pytest.mark.parametrize("private", TRAINER_HOOKS)
def test_public_hook_calls_trainer_and_override_replaces_it(private, monkeypatch):
    public, _ = TRAINER_HOOKS[private]
    calls = []
    arguments = {"_clip_grad_norm": ("model",), "_save_optimizer_and_scheduler": ("folder",),
                 "_load_from_checkpoint": ("folder",)}.get(private, ())  # fmt: skip
    monkeypatch.setattr(Trainer, private, lambda self, *args, **kwargs: calls.append("upstream"))

    class Plain(TrainerHooks, Trainer):
        def __init__(self):
            pass

    class Overridden(Plain):
        pass

    setattr(Overridden, public, lambda self, *args, **kwargs: calls.append("override"))
    getattr(Plain(), private)(*arguments)
    getattr(Overridden(), private)(*arguments)
    assert calls == ["upstream", "override"]


@pytest.mark.parametrize("trainer_class", [Trainer, trl.GRPOTrainer, trl.RLOOTrainer])
def test_upstream_has_no_method_with_the_public_name_of_a_hook(trainer_class):
    assert [public for public, _ in TRAINER_HOOKS.values() if hasattr(trainer_class, public)] == []


def private_attributes(path: Path) -> list[str]:
    """Return the private names that a module reads on other objects than `self` and `cls`,
    except for attributes that upstream's trainers give to `self`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and (
            not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
            or node.attr in ("_step", "_metrics")
        )
    ]


def overridden_methods(path: Path) -> list[str]:
    """Return the methods of a module's subclasses that have the name of a private hook of Trainer or TRL."""
    hooks = TRAINER_HOOKS.keys() | {"_prepare_dataset", "_send_telemetry"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.bases]
    return [
        method.name
        for node in classes
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name in hooks
    ]


def test_no_other_module_uses_private_names_of_upstream():
    modules = [path for path in PACKAGE.rglob("*.py") if path.name != "upstream_private.py"]
    sources = {path: path.read_text(encoding="utf-8") for path in modules}
    defined = {
        node.name
        for source in sources.values()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    } | {"_exit"}  # os._exit is a documented name
    used = {
        str(path.relative_to(PACKAGE)): names
        for path in modules
        if (names := [*{*private_attributes(path)} - defined, *overridden_methods(path)])
    }
    assert used == {}


def test_private_name_in_another_module_is_detected(tmp_path):
    module = tmp_path / "module.py"
    module.write_text(
        "class Loud(Trainer):\n"
        "    def _save(self):\n"
        "        torch._dynamo.reset()\n"
        "        self._own = self._step\n"
    )
    assert sorted(private_attributes(module)) == ["_dynamo", "_step"]
    assert overridden_methods(module) == ["_save"]


def test_module_imports_without_torch():
    code = "import sys, toolkit.runtime.upstream_private; print('torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert output == "False\n"
    assert transformers.__version__ and trl.__version__


def test_missing_weights_are_told_unless_they_are_tied(tiny_model, monkeypatch):
    """A checkpoint holds tied weights once, and Trainer would warn of the other name at every resumption."""

    class Loaded(NamedTuple):
        missing_keys: list[str]
        unexpected_keys: list[str]

    class Resumed(TokenizedRows, Trainer):
        def __init__(self):
            self.model = tiny_model

    told = []
    monkeypatch.setattr(transformers.trainer.logger, "warning", told.append)
    Resumed()._issue_warnings_after_load(Loaded(["lm_head.weight"], []))
    assert told == []
    Resumed()._issue_warnings_after_load(Loaded(["lm_head.weight", "transformer.ln_f.bias"], ["x"]))
    assert told == [
        "There were missing keys in the checkpoint model loaded: ['transformer.ln_f.bias'].",
        "There were unexpected keys in the checkpoint model loaded: ['x'].",
    ]


@pytest.mark.parametrize("trainer_class", [trl.SFTTrainer, trl.DPOTrainer, trl.RewardTrainer])
def test_resumed_trainer_goes_on_counting_tokens(trainer_class):
    assert "self._total_train_tokens += " in inspect.getsource(trainer_class)
    trainer = types.SimpleNamespace(
        _total_train_tokens=0, state=types.SimpleNamespace(log_history=[{"num_tokens": 5.0}, {"loss": 1.0}])
    )
    upstream_private.continue_token_count(trainer)
    assert trainer._total_train_tokens == 5
