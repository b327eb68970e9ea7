import shutil
import subprocess
from pathlib import Path

import pytest

import toolkit
from toolkit.runs import provenance


def git(place: Path, *arguments: str) -> None:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(place), *settings, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch) -> Path:
    package = tmp_path / "toolkit"
    package.mkdir()
    shutil.copy(toolkit.__file__, package)
    monkeypatch.setattr(provenance, "PACKAGE_FOLDER", package)
    return package


def test_commit_and_local_changes_are_recorded(checkout):
    root = checkout.parent
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "a")
    clean = provenance.code()
    assert len(clean["commit"]) == 40 and clean["diff"] is None
    (root / "README.md").write_text("not the package")
    assert provenance.code() == clean
    (checkout / "__init__.py").write_text("changed")
    changed = provenance.code()
    assert changed["commit"] == clean["commit"] and len(changed["diff"]) == 64
    git(root, "checkout", "-q", ".")
    (checkout / "new.py").write_text("1")
    added = provenance.code()
    (checkout / "new.py").write_text("2")
    assert len({str(state) for state in (clean, changed, added, provenance.code())}) == 4


def test_unrelated_checkout_is_not_recorded_as_commit(checkout):
    root = checkout.parent
    git(root, "init", "-q")
    (root / "a").write_text("a")
    git(root, "add", "a")
    git(root, "commit", "-q", "-m", "someone else's project with a virtual environment in it")
    assert set(provenance.code()) == {"version"}


def test_this_checkout_records_its_commit():
    root = Path(toolkit.__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("the package is installed without its repository")
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert len(head.stdout.strip()) == 40 and provenance.code().get("commit") == head.stdout.strip()


def test_versions_and_hardware():
    facts = provenance.collect()
    assert facts["versions"]["torch"] and facts["world_size"] == 1
    assert facts["hardware"]["processor"]["cores"] >= 1
