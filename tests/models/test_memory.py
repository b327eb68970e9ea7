"""The memory estimate matches the measured memory of processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from toolkit.config.schema import ModelSettings, PretrainRecipe, SftRecipe
from toolkit.execution import memory_shortage
from toolkit.models import memory
from toolkit.models.architectures import build
from toolkit.models.shape import block_weights, num_parameters
from toolkit.pretrain.loss import TrainingLoss, use_training_kernels
from toolkit.runs.decisions import Decisions

ROOT = Path(__file__).parent.parent.parent
TOLERANCE = 0.35
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


def recipe(layers=2, width=256, architecture="gpt2", **settings):
    shape = {"n_layer": layers, "n_head": 4, "n_embd": width, "n_positions": 256}
    model = {"architecture": architecture, **shape}
    settings = {"batch_tokens": 4096, "model": model, "speed": {"background_saves": False}} | settings
    return PretrainRecipe(stage="pretrain", tokens="runs/x", train_tokens=10**6, **settings)


GROWTH = """
import json, sys
import numpy as np, torch
from toolkit.models import memory
from toolkit.runs.decisions import Decisions
from toolkit.models.architectures import build
from toolkit.models.shape import head_block
from toolkit.config.schema import PretrainRecipe
from toolkit.inference.logprobs import score_documents
from toolkit.pretrain import loss as training_loss
from toolkit.pretrain import optimizer
from toolkit.runtime import host_memory
question = json.loads(sys.argv[1])
recipe, size, bf16 = PretrainRecipe(**question["recipe"]), question["vocab_size"], question["bf16"]
torch.set_num_threads(1)
before = host_memory.process_memory("VmRSS")
model = build(recipe.model, vocab_size=size, seed=0, end_id=0)
tokens, length = memory.micro_batch(recipe), recipe.row_tokens()
block = head_block("auto", positions=tokens, vocabulary=model.lm_head.weight.shape[0])
loss = training_loss.TrainingLoss(model, bf16=bf16, head_block=block)
optimizers = optimizer.build(model, recipe.optimizer, bf16=bf16)
with training_loss.use_training_kernels(model):
    for step in range(2):
        for part in range(min(2, recipe.batch_tokens // tokens)):
            loss(torch.randint(0, size, (tokens // length, length + 1))).backward()
        for each in optimizers:
            each.step()
            each.zero_grad(set_to_none=True)
score_documents(model, [np.ones(length // 2)] * 64, prefix_id=0, end_id=0, window=length)
# not ru_maxrss, which starts with the peak of the parent process
print(host_memory.process_memory("VmHWM") - before)
"""


@linux
@pytest.mark.parametrize("settings,vocab_size,bf16", [
    ({"micro_batch_tokens": 2048}, 4096, False),  # activations and logits
    pytest.param(
        {"micro_batch_tokens": 2048, "architecture": "llama", "layers": 4}, 1024, False,
        marks=pytest.mark.slow,
    ),
    pytest.param(
        {"layers": 4, "width": 640, "batch_tokens": 256, "optimizer": {"name": "muon"},
         "architecture": "llama"}, 512, False, marks=pytest.mark.slow,
    ),
    pytest.param(  # the optimizer's update
        {"layers": 4, "width": 640, "batch_tokens": 256, "optimizer": {"name": "muon"}}, 512, False,
        marks=pytest.mark.slow,
    ),
    pytest.param(  # blocks of logits
        {"width": 64, "batch_tokens": 8192}, 32768, False, marks=pytest.mark.slow
    ),
])  # fmt: skip
def test_memory_estimate_is_close_to_measured_growth(settings, vocab_size, bf16):
    chosen = recipe(**settings)
    need = memory.estimate(chosen, vocab_size=vocab_size, bf16=bf16)
    question = {"recipe": chosen.model_dump(exclude_unset=True), "vocab_size": vocab_size, "bf16": bf16}
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, json.dumps(question)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    measured = int(done.stdout)
    print(f"measured {measured / 2**20:.0f} MiB, estimated {(need.peak - need.libraries) / 2**20:.0f} MiB")
    assert need.peak - need.libraries == pytest.approx(measured, rel=TOLERANCE)


def test_optimizer_state_memory():
    """AdamW keeps two moments per weight; Muon keeps one for the 12 w^2 matrix weights of a block."""
    adamw, muon = (
        memory.estimate(recipe(optimizer={"name": name}), vocab_size=4096, bf16=False)
        for name in ("adamw", "muon")
    )
    assert adamw.optimizer == 2 * adamw.weights
    assert adamw.optimizer - muon.optimizer == 4 * (2 * 12 * 256 * 256)


def test_muon_keeps_one_moment_for_the_matrices_of_a_llama():
    found = [
        memory.estimate(recipe(optimizer={"name": name}, architecture="llama"), vocab_size=4096, bf16=False)
        for name in ("adamw", "muon")
    ]
    # 4 w^2 of attention and 3 w * 688 of the MLP in each of 2 blocks
    assert found[0].optimizer - found[1].optimizer == 4 * 2 * (4 * 256 * 256 + 3 * 256 * 688)
    assert found[0].weights == 4 * num_parameters(recipe(architecture="llama").shape, vocab_size=4096)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize(("bf16", "length"), [(False, 64), (True, 64), (True, 1024)])
def test_bytes_of_a_block_are_what_autograd_keeps(architecture, bf16, length):
    """The difference between 3 layers and 1; bf16 also keeps copies of the weights, counted elsewhere."""
    model = {"architecture": architecture, "n_head": 4, "n_embd": 128, "n_positions": 1024}
    kept = []
    for layers in (1, 3):
        settings = ModelSettings(**model, n_layer=layers)
        built = build(settings, vocab_size=64, seed=0, end_id=0)
        loss, storages = TrainingLoss(built, bf16=bf16), {}
        ours = {parameter.untyped_storage().data_ptr() for parameter in built.parameters()}

        def keep(tensor, storages=storages, ours=ours):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in ours:
                storages[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        rows = torch.ones(2, length + 1, dtype=torch.long)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with use_training_kernels(built), hooks:
            loss(rows)
        kept.append(sum(number for number, _ in storages.values()))
    counted = (kept[1] - kept[0]) / 2 / (2 * length) - 2 * bf16 * block_weights(settings) / 3 / (2 * length)
    asked = recipe(batch_tokens=2048, model=model, sequence_length=length)
    assert memory._layer_bytes(asked, bf16=bf16, on_gpu=False) == pytest.approx(counted, rel=0.1)


FOUND = {"vocab_size": 4096, "bf16": False}


def peak(tokens, **settings):
    return memory.estimate(recipe(micro_batch_tokens=tokens, **settings), **FOUND).peak


def test_largest_micro_batch_that_fits():
    """256 rows fit; evaluation needs the memory of about 16 rows."""
    batch = {"batch_tokens": 2**16}
    for tokens in (2**14, 2**15, 2**16):
        assert memory.fitting_micro_batch(recipe(**batch), peak(tokens, **batch), **FOUND) == tokens
        assert memory.fitting_micro_batch(recipe(**batch), peak(tokens, **batch) - 1, **FOUND) == tokens // 2


def test_suggested_micro_batch_divides_the_share_and_suits_exact():
    row = 2**8
    # all logits at once: with blocks a larger micro-batch can need less memory
    batch = {"batch_tokens": 384 * row, "speed": {"background_saves": False, "head_block_tokens": 0}}
    most = peak(192 * row, **batch) - 1
    assert memory.fitting_micro_batch(recipe(**batch), most, **FOUND) == 128 * row  # a third
    exact = {"exact": True, "threads": 1, **batch}
    most = peak(192 * row, **exact) - 1
    # three parts do not form a binary tree
    whole = recipe(micro_batch_tokens=384 * row, **exact)
    assert memory.fitting_micro_batch(whole, most, **FOUND) == 96 * row


def test_two_processes_share_the_batch():
    assert memory.fitting_micro_batch(recipe(), 2**40, **FOUND, processes=2) == 2048


def test_smaller_model_is_suggested_if_no_row_fits():
    large = recipe(layers=8, width=1024)
    most = memory.estimate(recipe(layers=3, width=1024, micro_batch_tokens=256), **FOUND).peak
    assert memory.fitting_micro_batch(large, most, **FOUND) is None
    assert memory.fitting_model(large, most, **FOUND).n_layer == 3
    assert memory.fitting_model(large, 2**20, **FOUND) is None


def test_memory_errors_are_recognized():
    for error in (
        MemoryError(),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("std::bad_alloc"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."),
    ):
        assert memory_shortage.is_shortage(error)
    assert not memory_shortage.is_shortage(RuntimeError("shapes differ")) and not memory_shortage.is_shortage(
        ValueError("bad_alloc")
    )


# message of PyTorch 2.13 (c10/cuda/CUDACachingAllocator.cpp)
CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which "
    "9.50 GiB is free. Including non-PyTorch memory, this process has 69.50 GiB memory in use. Of the "
    "allocated memory 68.00 GiB is allocated by PyTorch, and 1.00 GiB is reserved but unallocated."
)


def test_gpu_shortage_in_another_stage():
    settings = SftRecipe(stage="sft", model="runs/x", data={"name": "storyworld"})
    error = type("OutOfMemoryError", (RuntimeError,), {})(CUDA)
    message = str(memory_shortage.shortage(error, settings, SimpleNamespace(path="runs/t/sft")))
    assert message.startswith(
        "runs/t/sft: the GPU's memory is not enough: 79.0 GiB were available to this process\n"
    )
    assert "micro_batch_examples" in message


def test_no_row_fits_on_the_gpu(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "index.json").write_text('{"vocab_size": 50000}')
    place = SimpleNamespace(
        path="runs/t/p", decisions=Decisions.of({"precision": "bf16"}), reference=lambda _: tmp_path
    )
    large = recipe(layers=96, width=12288)
    message = str(memory_shortage.shortage(type("OutOfMemoryError", (RuntimeError,), {})(CUDA), large, place))
    smaller = re.search(
        r"not even one row of 256 tokens fits; a smaller model would: model.n_layer=(\d+) ", message
    )
    assert smaller and 1 <= int(smaller[1]) < 96, message
