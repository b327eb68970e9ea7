"""What an installation depends on: the lock file and the package's metadata."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_lock_pins_releases_that_every_package_index_has():
    pins = (ROOT / "requirements.lock").read_text(encoding="utf-8").split()
    assert "torch==2.13.0" in pins
    # A local version such as 2.13.0+cpu exists on PyTorch's own index only.
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", pin)] == []
