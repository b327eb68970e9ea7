import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = "/dev/shm"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory where there is one: fsync on a busy disk takes 5 ms, and these tests sync a lot."""
    folder = tempfile.mkdtemp(dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def _without_git(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Four calls of git cost 50 ms each time a run is opened."""
    if "test_facts" not in str(request.node.path):
        monkeypatch.setattr("toolkit.runs.provenance.code", lambda: {"commit": "0" * 40, "diff": None})
