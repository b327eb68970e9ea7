"""Sets offline mode and disables telemetry before other imports; provides a tiny tokenizer and model."""

import copy
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start; see one_thread

import pytest

MEMORY = "/dev/shm"


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Import all tests without garbage collection: what they import stays, and walking it took 9 of 25 s."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Two test processes on two cores: with two threads each they wait for each other.

    A training of PPO took 15 s instead of 1, and scoring with a tiny Llama 2.6 s of CPU time instead of 0.2.
    A test that needs more threads sets them; the next one has one again.
    """
    if "torch" in sys.modules:  # tests without torch do not wait for its import
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True)
def notices_are_new() -> None:
    """Let every test see what `tell_once` says once in a process."""
    if "toolkit.base.console" in sys.modules:
        sys.modules["toolkit.base.console"].tell_once.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def accelerate_state() -> Iterator[None]:
    """Forget the precision of a module's trainings: Accelerate refuses another one in the same process.

    On a CPU with bf16, `precision: auto` otherwise made tests in fp32 fail that ran after such a module.
    """
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Return a byte tokenizer without merges: 261 entries, with the special tokens and chat template."""
    from toolkit.stages.tokenizer import learn

    return learn([""], vocab_size=261)


@pytest.fixture(scope="session")
def bos_tokenizer(tiny_tokenizer):
    """Return `tiny_tokenizer` with a token that it puts in front of every text, as Llama's tokenizer does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    begin = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[begin])
    return tokenizer


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer):
    """Return an untrained GPT-2 with 2 layers of width 32 for `tiny_tokenizer`; copy it before training."""
    from toolkit.config.schema import ModelSettings
    from toolkit.models.gpt2 import build

    settings = ModelSettings(n_layer=2, n_head=2, n_embd=32, n_positions=64)
    return build(settings, vocab_size=len(tiny_tokenizer), seed=0, end_id=tiny_tokenizer.eos_token_id,
                 pad_id=tiny_tokenizer.pad_token_id).eval()  # fmt: skip


@pytest.fixture
def worked():
    """Return the CPU seconds of child processes that ended since the last call."""
    last = 0.0

    def since_last() -> float:
        nonlocal last
        used = os.times()
        before, last = last, used.children_user + used.children_system
        return last - before

    since_last()
    return since_last


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Return a folder in memory if possible, because fsync on a busy disk takes 5 ms."""
    folder = tempfile.mkdtemp(dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"
