"""The arms of benchmarks/pretrain.py: different ways to train the same model on the same tokens.

Each arm runs in its own process and takes steps on request.

Legend: rows = sequences of a batch, length = tokens of a row.
"""

from __future__ import annotations

import atexit
import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from toolkit.config.schema.pretrain import ModelSettings, OptimizerSettings
from toolkit.models.gpt2 import build
from toolkit.models.shape import head_block
from toolkit.pretrain import optimizer
from toolkit.pretrain.loss import TrainingLoss, use_training_kernels
from toolkit.runtime import allocator

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Shape:
    """Model and batch of the benchmark."""

    n_layer: int = 6
    n_head: int = 6
    n_embd: int = 384
    vocab_size: int = 4096
    length: int = 256
    rows: int = 8
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 2

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.rows * self.length

    def model(self, **changes: object) -> ModelSettings:
        """Return the model settings of a recipe."""
        shape = {"n_layer": self.n_layer, "n_head": self.n_head, "n_embd": self.n_embd}
        return ModelSettings(**{**shape, "n_positions": self.length, **changes})


@dataclass(frozen=True)
class Options:
    """The speed settings of a recipe that the benchmark varies."""

    compile: bool = False
    causal_attention: bool = True
    loss_in_module: bool = True
    head_block_tokens: int | str = "auto"
    logistic_gelu: bool = False
    keep_memory: bool = True
    fused: bool = True
    vocabulary_multiple: int = 64
    activation: str = "gelu_pytorch_tanh"
    optimizer: str = "adamw"


Step = Callable[[Tensor], Tensor]
"""Takes token ids (rows, length + 1), does one optimizer step, returns the loss."""


def tokens(shape: Shape, step: int) -> Tensor:
    """Return the rows of a step, (rows, length + 1), which are the same for every arm."""
    generator = torch.Generator().manual_seed(step)
    size = (shape.rows, shape.length + 1)
    # squaring makes some tokens frequent, so that there is something to learn
    draws = torch.rand(size, generator=generator).square() * shape.vocab_size
    return draws.long().to(shape.device)


def ours(shape: Shape, options: Options) -> Step:
    """Return the training step of the toolkit with the given options."""
    allocator.configure(torch.device(shape.device), keep=options.keep_memory)
    bf16 = shape.precision == "bf16"
    settings = shape.model(activation=options.activation, vocabulary_multiple=options.vocabulary_multiple)
    model = build(settings, vocab_size=shape.vocab_size, seed=0, end_id=0).to(shape.device)
    rows = model.lm_head.weight.shape[0]
    block = head_block(options.head_block_tokens, positions=shape.tokens, vocabulary=rows)
    loss_of = TrainingLoss(model, bf16=bf16, head_block=block)
    if options.compile:
        loss_of.enable_compilation(whole_loss=options.loss_in_module)
    rules = OptimizerSettings(
        name=options.optimizer, fused=options.fused,
        learning_rate=0.02 if options.optimizer == "muon" else LEARNING_RATE,
    )  # fmt: skip
    optimizers = optimizer.build(model, rules, bf16=bf16)
    model.train()
    forms = ExitStack()
    forms.enter_context(
        use_training_kernels(model, causal=options.causal_attention, logistic=options.logistic_gelu)
    )
    atexit.register(forms.close)  # keeps the context open: a garbage-collected generator would exit it

    def step(rows: Tensor) -> Tensor:
        loss = loss_of(rows)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in optimizers:
            opt.step()
            opt.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def nanogpt(shape: Shape, folder: Path, *, compiled: bool) -> Step:
    """Return the training step of a checkout of nanoGPT, in the same precision."""
    sys.path.insert(0, str(folder))
    from model import GPT, GPTConfig

    padded = -(-shape.vocab_size // 64) * 64
    config = GPTConfig(
        block_size=shape.length, vocab_size=padded, n_layer=shape.n_layer, n_head=shape.n_head,
        n_embd=shape.n_embd, dropout=0.0, bias=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT(config).to(shape.device)
    adam = model.configure_optimizers(0.1, LEARNING_RATE, (0.9, 0.95), shape.device)
    forward = torch.compile(model) if compiled else model
    bf16 = shape.precision == "bf16"

    def step(rows: Tensor) -> Tensor:
        inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
        with torch.autocast(shape.device, dtype=torch.bfloat16) if bf16 else nullcontext():
            _, loss = forward(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def trainer(shape: Shape) -> Step:
    """Return the step of `transformers.Trainer` on the same model, with its clipping and optimizer."""
    from transformers import Trainer, TrainingArguments

    model = build(shape.model(), vocab_size=shape.vocab_size, seed=0, end_id=0).to(shape.device)
    arguments = TrainingArguments(
        output_dir="/tmp/unused", learning_rate=LEARNING_RATE, weight_decay=0.1, adam_beta2=0.95,
        max_grad_norm=1.0, bf16=shape.precision == "bf16", use_cpu=shape.device == "cpu", report_to=[],
        max_steps=10**6, per_device_train_batch_size=shape.rows, save_strategy="no",
    )  # fmt: skip
    made = Trainer(model=model, args=arguments)
    made.create_optimizer_and_scheduler(10**6)
    wrapped, made.optimizer = made.accelerator.prepare(made.model, made.optimizer)
    wrapped.train()

    def step(rows: Tensor) -> Tensor:
        inputs = rows[:, :-1].contiguous()  # the model shifts the labels itself: one target fewer per row
        content = {"input_ids": inputs, "labels": inputs}
        loss = made.training_step(wrapped, content, inputs[:, 1:].numel())
        made.accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
        made.optimizer.step()
        made.lr_scheduler.step()
        wrapped.zero_grad(set_to_none=True)
        return loss

    return step


def products(shape: Shape) -> Step:
    """Return only the matrix products of a step, in full size and the same precision: the upper limit.

    Each matrix of the model is used three times (forward, gradient of the input, gradient of the weights);
    attention counts as products of the same size.
    """
    dtype = torch.bfloat16 if shape.precision == "bf16" else torch.float32
    width, positions = shape.n_embd, shape.tokens
    sides = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    padded = -(-shape.vocab_size // 64) * 64

    def make(*size: int) -> Tensor:
        return torch.randn(*size, device=shape.device).to(dtype)

    matrices = [(make(positions, i), make(o, i), make(positions, o)) for i, o in [*sides, (width, padded)]]
    counts = [shape.n_layer] * len(sides) + [1]
    folded = make(shape.rows * shape.n_head, shape.length, width // shape.n_head)
    square = make(shape.rows * shape.n_head, shape.length, shape.length)

    def step(rows: Tensor) -> Tensor:
        for (values, matrix, slopes), count in zip(matrices, counts, strict=True):
            for _ in range(count):
                values @ matrix.T
                slopes @ matrix
                slopes.T @ values
        for _ in range(shape.n_layer * 3):
            folded @ folded.transpose(1, 2)
            square @ folded
        return torch.zeros(())

    return step


def make(name: str, shape: Shape, options: Options, nanogpt_folder: str | None) -> Step:
    """Return the step of an arm by name."""
    if name.startswith("nanoGPT"):
        assert nanogpt_folder is not None
        return nanogpt(shape, Path(nanogpt_folder), compiled="compiled" in name)
    if name.startswith("Trainer"):
        return trainer(shape)
    if name.startswith("products"):
        return products(shape)
    return ours(shape, options)


def peak_bytes(device: str) -> int:
    """Return the peak memory of this process: GPU memory, or resident memory."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve() -> None:
    """Build an arm from the first line of stdin; each further line gives a number of steps to take."""
    answers, sys.stdout = sys.stdout, sys.stderr
    order = json.loads(sys.stdin.readline())
    shape, options = Shape(**order["shape"]), Options(**order["options"])
    torch.set_num_threads(shape.threads)
    before = peak_bytes("cpu")
    began = time.perf_counter()
    step = make(order["name"], shape, options, order["nanogpt"])
    done = 0
    for line in sys.stdin:
        seconds, losses = [], []
        for _ in range(json.loads(line)):
            rows = tokens(shape, done)
            start = time.perf_counter()
            loss = step(rows)
            if shape.device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
            losses.append(float(loss))
            done += 1
        peak = peak_bytes(shape.device) - (before if shape.device == "cpu" else 0)
        content = {"seconds": seconds, "losses": losses, "peak_bytes": peak}
        print(json.dumps({**content, "since_start": time.perf_counter() - began}), file=answers, flush=True)


def order_for(name: str, shape: Shape, options: Options, nanogpt_folder: str | None) -> str:
    """Return the line from which `serve` builds an arm."""
    content = {"name": name, "shape": asdict(shape), "options": asdict(options), "nanogpt": nanogpt_folder}
    return json.dumps(content) + "\n"


def without(options: Options) -> dict[str, Options]:
    """Return {disabled option: options} for each enabled option."""
    off: dict[str, Options] = {}
    if options.compile:
        off["compile"] = replace(options, compile=False, logistic_gelu=False)
        off["loss_in_module"] = replace(options, loss_in_module=False)
    off["causal_attention"] = replace(options, causal_attention=False)
    off["fused optimizer"] = replace(options, fused=False)
    off["gelu_pytorch_tanh"] = replace(options, activation="gelu_new", logistic_gelu=False)
    off["vocabulary padding"] = replace(options, vocabulary_multiple=1)
    if options.logistic_gelu:
        off["logistic_gelu"] = replace(options, logistic_gelu=False)
    if options.keep_memory:
        off["keep_memory"] = replace(options, keep_memory=False)
    off["whole head (blocks of 512)"] = replace(options, head_block_tokens=512)
    off["AdamW (Muon)"] = replace(options, optimizer="muon")
    return off


if __name__ == "__main__":
    serve()
