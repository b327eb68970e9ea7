import json
import shutil
from pathlib import Path

import pytest

from tests.runs.small_runs import corpus, killed_at, make, tokenizer
from toolkit.base.errors import RunError
from toolkit.runs import layout, seal
from toolkit.runs.opening import open_run


@pytest.fixture
def chain(runs: Path) -> tuple[Path, Path]:
    return make(tokenizer(), runs), make(corpus(), runs)


def test_lock_lists_every_output(chain):
    parent, child = chain
    content = json.loads((parent / "lock.json").read_text())
    assert set(content["files"]) == {
        "metrics.jsonl",
        "model/weights.txt",
        "recipe.yaml",
        "resolved.yaml",
        "timing.json",
    }
    assert seal.is_sealed(parent) and seal.verify(child) == []
    assert [link.path.name for link in seal.chain(child)] == ["tokenizer", "corpus"]


@pytest.mark.parametrize(
    "name",
    ["model/weights.txt", "metrics.jsonl", "recipe.yaml", "resolved.yaml", "manifest.json", "timing.json"],
)
def test_changed_bytes_are_reported_by_file(chain, name):
    path = chain[0] / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    problems = seal.verify(chain[1])
    assert len(problems) == 1 and problems[0].startswith(f"{chain[0]}: ")
    # A directory whose manifest is not JSON is not a run.
    assert name in problems[0] or name == "manifest.json"


def test_missing_added_and_linked_files_are_reported(chain, tmp_path):
    weights = chain[0] / "model" / "weights.txt"
    (chain[0] / "model" / "adapter_config.json").write_text("{}")
    assert seal.changes(chain[0]) == ["model/adapter_config.json: was added after the run was sealed"]
    (chain[0] / "model" / "adapter_config.json").unlink()
    shutil.copy(weights, tmp_path / "elsewhere")
    weights.unlink()
    assert seal.changes(chain[0]) == ["model/weights.txt: missing"]
    weights.symlink_to(tmp_path / "elsewhere")
    assert seal.changes(chain[0]) == ["model/weights.txt: is a link now"]


def test_recreated_parent_breaks_the_chain(chain, runs):
    make(tokenizer(), runs, "other weights", fresh=True)
    assert seal.verify(chain[1]) == [f"{chain[1]}: tokenizer: its parent tokenizer was sealed again since"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"files": 3}', '{"format": "toolkit run 1", "files": {"a": 1}}']
)
def test_invalid_lock_is_reported_without_a_crash(chain, content):
    (chain[0] / "lock.json").write_text(content)
    assert seal.verify(chain[1])
    with pytest.raises(RunError):
        seal.require_unchanged(chain[0])


def test_missing_and_unsealed_parents_are_reported(chain, runs, tmp_path):
    (chain[0] / "lock.json").unlink()
    assert seal.verify(chain[1]) == [f"{chain[0]}: is not sealed (it has no lock.json)"]
    shutil.move(chain[0], tmp_path / "away")
    assert seal.verify(chain[1]) == [f"{chain[0]}: is missing"]
    assert seal.verify(tmp_path) == [f"{tmp_path}: is not a run directory"]


def test_moved_runs_verify_and_contain_no_absolute_path(chain, runs, tmp_path, monkeypatch):
    for file in runs.rglob("*"):
        if file.is_file() and file.name != layout.IN_USE:
            assert str(tmp_path).encode() not in file.read_bytes(), f"{file} holds an absolute path"
    shutil.copytree(runs, tmp_path / "copy")
    shutil.move(runs, tmp_path / "moved" / "deep")
    for place in (tmp_path / "copy", tmp_path / "moved" / "deep"):
        assert seal.verify(place / "t" / "corpus") == []
        with open_run(corpus(), runs_dir=place) as run:
            assert run is None
        monkeypatch.chdir(place / "t")
        assert seal.verify(Path("corpus")) == []
        # The copied parent is checked, not the one at the old location.
        (place / "t" / "tokenizer" / "model" / "weights.txt").write_text("changed")
        assert len(seal.verify(Path("corpus"))) == 1


def test_linked_output_is_not_sealed(runs, tmp_path):
    (tmp_path / "weights").write_text("x")
    with pytest.raises(RunError, match="link"), open_run(tokenizer(), runs_dir=runs) as run:
        run.write_text("model/config.json", "{}")
        (run.model_dir / "weights.txt").symlink_to(tmp_path / "weights")
        run.seal()
    assert not seal.is_sealed(runs / "t" / "tokenizer")


def test_kill_during_sealing_leaves_run_unsealed_or_sealed(runs):
    path = runs / "t" / "tokenizer"

    def finish() -> None:
        with open_run(tokenizer(), runs_dir=runs) as run:
            if run is not None:
                run.write_text("model/weights.txt", "weights")
                run.seal()

    sealed_after = []
    for number in range(200):
        shutil.rmtree(runs, ignore_errors=True)
        killed = killed_at(number, finish)
        if seal.is_sealed(path):
            assert seal.verify(path) == [], number
        sealed_after.append(seal.is_sealed(path))
        if not killed:
            break
        if number % 7 == 0:  # and the same command recovers from any remaining files
            finish()
            assert seal.verify(path) == [] and seal.is_sealed(path), number
            assert not [file for file in path.rglob("*") if ".tmp-" in file.name]
    assert len(sealed_after) > 15 and sealed_after[-1] and not sealed_after[-4]


def test_kill_during_fresh_start_leaves_no_sealed_run(runs):
    path = make(tokenizer(), runs)

    def start_over() -> None:
        with open_run(tokenizer(), runs_dir=runs, fresh=True) as run:
            run.write_text("model/new.txt", "new")

    for number in range(200):
        killed = killed_at(number, start_over)
        if seal.is_sealed(path):
            assert seal.verify(path) == [], number
        if not killed:
            break
        make(tokenizer(), runs, fresh=True)
        assert seal.verify(path) == [], number
    assert number > 10


def test_run_reached_through_a_link_verifies_with_its_parents(chain, runs, tmp_path):
    """Also with a link to a folder above it, beside another run of a parent's name, and to a folder in it."""
    parent, child = chain
    (tmp_path / "links").mkdir()
    link, above = tmp_path / "links" / "mine", tmp_path / "links" / "all"
    link.symlink_to(child)
    above.symlink_to(runs)
    make(tokenizer("tokenizer"), tmp_path / "links", "another run")
    assert seal.verify(link) == [] and seal.verify(above / "t" / "corpus") == []
    assert [entry.path.resolve() for entry in seal.chain(link)] == [parent.resolve(), child.resolve()]
    (tmp_path / "inside").symlink_to(child / "model")
    assert seal.run_of(tmp_path / "inside") == child.resolve()


def test_run_that_was_moved_and_left_a_link_finds_the_parents_beside_the_link(chain, tmp_path):
    parent, child = chain
    shutil.move(child, tmp_path / "big-disk")
    child.symlink_to(tmp_path / "big-disk")
    assert seal.verify(child) == []
    weights = parent / "model" / "weights.txt"
    weights.write_text("changed")
    assert seal.verify(child) == [f"{parent}: model/weights.txt: changed since the run was sealed"]


@pytest.mark.parametrize("name", ["checkpoints", "steps", ".scratch", "metrics.jsonl"])
def test_link_in_an_unfinished_run_is_refused_before_the_training(runs, tmp_path, name):
    with open_run(tokenizer(), runs_dir=runs) as run:
        (run.path / "checkpoints").mkdir()
        run.metrics.log(1, loss=1.0)
    place = runs / "t/tokenizer" / name
    if place.exists():
        shutil.move(place, tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    refused = pytest.raises(RunError, match="is a link, but a run must hold its own bytes")
    with refused as caught, open_run(tokenizer(), runs_dir=runs):
        pytest.fail("the stage began")
    assert caught.value.where == str(place)
