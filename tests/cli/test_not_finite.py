"""A model whose logits are not finite is an error of every command that reads it, and no empty answer."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from toolkit.cli import main
from toolkit.models import loading


@pytest.fixture(scope="module")
def diverged(model, tokenizer, tmp_path_factory):
    """A folder of a model whose last layer norm is NaN, as after a diverged training."""
    broken, path = copy.deepcopy(model), tmp_path_factory.mktemp("models") / "diverged"
    with torch.no_grad():
        broken.transformer.ln_f.weight[0] = float("nan")
    loading.save_model(broken, tokenizer, path)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "the fox"],
        ["generate", "the fox", "--temperature", "0", "--json"],
        ["chat"],
        ["next", "the fox"],
        ["next", "the fox", "--json"],
    ],
)
def test_commands_fail_and_say_so(arguments, diverged, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("the fox\n"))
    verb, *rest = arguments
    assert main.main([verb, str(diverged), *rest]) == 1
    printed = capsys.readouterr()
    assert "logits are not finite" in printed.err and "fix: use an earlier checkpoint" in printed.err
    assert printed.out.strip() == ""


def test_evaluate_fails_and_says_so(diverged, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the fox and the bear. " * 30)
    assert main.main(["evaluate", str(diverged), "--data", str(text), "--part", "all", "--json"]) == 1
    printed = capsys.readouterr()
    assert "not finite" in printed.err and printed.out.strip() == ""
