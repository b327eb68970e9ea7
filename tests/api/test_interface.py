"""Tests of `import toolkit`: public names and lazy imports."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import toolkit as tk

HEAVY = ("torch", "transformers", "datasets", "numpy", "pandas", "pydantic", "matplotlib", "yaml", "rich")


def modules_after(code: str) -> list[str]:
    """Return the large libraries that a program has imported when it exits."""
    program = f"{code}\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_import_and_dir_load_no_library():
    assert modules_after("import toolkit\ndir(toolkit)\ntoolkit.__all__") == []


def test_run_view_does_not_import_torch():
    assert not {"torch", "transformers", "pandas"} & {
        *modules_after("import toolkit\ntoolkit.Run('x').state")
    }


@pytest.mark.parametrize("name", tk.__all__)
def test_public_names_exist_and_are_documented(name):
    assert name in dir(tk)
    assert getattr(tk, name).__doc__


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        tk.trian  # noqa: B018
    with pytest.raises(ImportError):
        from toolkit import trian  # noqa: F401


def test_subpackages_can_be_imported():
    """`toolkit.run` is a function and `toolkit.runs` a package; importing one does not hide the other."""
    import_module("toolkit.runs.seal")
    assert callable(tk.run) and tk.runs.seal.is_sealed
    from toolkit.ppo import PPOConfig, PPOTrainer

    assert PPOConfig.__name__ == "PPOConfig" and PPOTrainer.__name__ == "PPOTrainer"
