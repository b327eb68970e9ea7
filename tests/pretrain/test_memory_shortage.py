"""Out-of-memory errors suggest a micro-batch that fits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pretrain.conftest import write_recipe

ROOT = Path(__file__).parent.parent.parent
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")

RUN = """
import resource, sys
import accelerate, toolkit.pretrain.stage
from toolkit.cli import main
from toolkit.runtime import host_memory
resource.setrlimit(resource.RLIMIT_AS, (host_memory.process_memory("VmSize") + int(sys.argv[1]),) * 2)
sys.exit(main.main(sys.argv[2:]))
"""


def run(folder, *words, megabytes):
    command = [sys.executable, "-c", RUN, str(megabytes * 2**20), "run", *words]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@linux
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_out_of_memory_error_suggests_a_micro_batch_that_fits(tmp_path, corpus):
    """A real allocation failure, caused by a limited address space."""
    model = {"n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 128}
    write_recipe(tmp_path, corpus, model=model, batch_tokens=2**17, train_tokens=2**17)
    failed = run(tmp_path, "recipes/t/first.yaml", megabytes=1000)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr, failed.stderr
    message = re.search(
        r"error: runs/t/first: the memory is not enough: ([\d.]+) GiB were available to this process; by the "
        r"estimate the recipe needs ([\d.]+) GiB with 131,072 tokens in a forward pass", failed.stderr,
    )  # fmt: skip
    assert message, failed.stderr
    assert 0.9 < float(message[1]) < 1.6 < float(message[2])
    fits = re.search(r"by the estimate (micro_batch_tokens=(\d+)) fits", failed.stderr)
    assert fits and 2**17 % int(fits[2]) == 0
    again = run(tmp_path, "recipes/t/first.yaml", fits[1], "--fresh", megabytes=1000)
    assert again.returncode == 0, again.stderr
