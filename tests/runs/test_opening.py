import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.runs.small_runs import SOURCE, corpus, make, tokenizer
from toolkit.base.errors import RunError
from toolkit.config import loader, schema
from toolkit.config.loader import LoadedRecipe
from toolkit.data import files as data_files
from toolkit.execution import dag
from toolkit.execution.runner import run_recipes
from toolkit.runs import checkpoint, layout, manifest, metrics, opening, run_lock, seal
from toolkit.runs.opening import changed_settings, examine, open_run

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"


def touch_state(folder: Path) -> None:
    (folder / "state").touch()


def test_finished_run_reports_nothing_to_do(runs, capsys):
    path = make(tokenizer(), runs)
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    with open_run(tokenizer(), runs_dir=runs) as run:
        assert run is None
    assert "nothing to do" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


def test_nothing_to_do_works_on_a_read_only_disk(runs, monkeypatch):
    make(tokenizer(), runs)
    for name in ("mkdir", "replace", "rename", "ftruncate"):
        monkeypatch.setattr(os, name, lambda *_, **__: pytest.fail("something was written"))
    with open_run(tokenizer(), runs_dir=runs) as run:
        assert run is None


def test_nothing_to_do_does_not_import_torch():
    heavy = {"torch", "transformers", "datasets", "pandas", "matplotlib"}
    code = f"import sys, toolkit.execution.runner; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_unfinished_run_resumes_with_its_records(runs, capsys):
    with open_run(tokenizer(), runs_dir=runs) as run:
        assert run.decide("precision", "bf16") == "bf16"
        assert run.decide("threads", 4) == 4
        run.metrics.log(1, loss=3.0)
        run.metrics.log(2, loss=2.0)
        checkpoint.save(run, 1, touch_state, keep=1)
    with open_run(tokenizer(), runs_dir=runs) as run:
        assert run.decide("precision", "fp32") == "bf16"
        assert run.describe("threads", 2) == 2
        assert run.decide("prompts", 7) == 7
        run.metrics.truncate(1)
        run.metrics.log(2, loss=1.5)
        run.seal()
    stderr = capsys.readouterr().err
    assert "resuming from step 1" in stderr and 'precision: "fp32" -> "bf16"' in stderr
    path = runs / "t" / "tokenizer"
    assert [row["loss"] for row in metrics.read(path / "metrics.jsonl")] == [3.0, 1.5]
    content = json.loads((path / "manifest.json").read_text())
    assert content["facts"] == {"precision": "bf16", "threads": 2, "prompts": 7}
    resolved = yaml.safe_load((path / "resolved.yaml").read_text())
    assert resolved["threads"] == 2 and resolved["vocab_size"] == 4096
    assert resolved["found"] == {"precision": "bf16", "prompts": 7}
    assert len(json.loads((path / "timing.json").read_text())["attempts"]) == 2


@pytest.mark.parametrize("work", ["nothing", "damaged"])
def test_unfinished_run_without_an_intact_checkpoint_starts_from_the_beginning(
    runs, capsys, monkeypatch, work
):
    with open_run(tokenizer(), runs_dir=runs) as run:
        run.decide("precision", "bf16")
        if work == "damaged":
            folder = checkpoint.save(run, 7, touch_state, keep=1)
            (folder / "state").write_text("other bytes")
    assert opening.resumption(run.path) == "starts from the beginning: there is no checkpoint yet"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with open_run(tokenizer(), runs_dir=runs) as run:
        assert run.decide("precision", "fp32") == "fp32"  # nothing stands on what was decided before
    path = runs / "t" / "tokenizer"
    assert capsys.readouterr().err == (
        f"{path}: not finished yet, starting from the beginning: there is no checkpoint\n"
    )
    content = json.loads((path / "manifest.json").read_text())
    assert content["world_size"] == 2 and content["resumed"] == []


def test_resume_point_is_what_the_stage_continues_from(runs):
    def begun(loaded, work) -> str:
        with open_run(loaded, runs_dir=runs) as run:
            work(run)
        return opening.resumption(run.path)

    def measured(run):
        checkpoint.save(run, 2, touch_state, keep=1)

    def encoded(run):
        run.write_json("corpus/train/index.json", {})

    def sampled(run):
        run.write_json(f"{layout.SAMPLED_ANSWERS}/00000.json", [])

    make(tokenizer(), runs)
    evaluate = schema.EvaluateRecipe(stage="evaluate", models=["runs/t/tokenizer"], samples=["Hello"])
    loaded = LoadedRecipe(Path("t/evaluate.yaml"), "t/evaluate", evaluate, "stage: evaluate\n", {})
    assert begun(tokenizer("t/a"), measured) == "resumes from step 2"
    assert begun(loaded, measured) == "resumes from the measurements of 2 models"
    assert begun(corpus(), encoded) == "resumes from the text encoded so far"
    assert begun(tokenizer("t/b"), sampled) == "resumes from the answers sampled so far"


def test_seconds_are_summed_over_attempts(runs):
    total = 0.0
    for _ in range(2):
        with open_run(tokenizer(), runs_dir=runs) as run:
            time.sleep(0.06)
        timing = json.loads((run.path / "timing.json").read_text())
        assert timing["seconds"] >= total + 0.06
        total = timing["seconds"]
    parts = [attempt["seconds"] for attempt in timing["attempts"]]
    assert timing["seconds"] == pytest.approx(sum(parts), abs=0.002)


def test_changed_settings_are_refused_with_both_values(runs):
    make(tokenizer(), runs)
    other = tokenizer(vocab_size=300, threads=2)
    for opened in (lambda: examine(other, runs_dir=runs), lambda: open_run(other, runs_dir=runs).__enter__()):
        with pytest.raises(RunError) as caught:
            opened()
        assert "vocab_size: 4096 -> 300" in str(caught.value) and "threads: null -> 2" in str(caught.value)
        assert "min_frequency" not in str(caught.value) and "--fresh" in str(caught.value)
    assert changed_settings(other, runs_dir=runs) == ["threads: null -> 2", "vocab_size: 4096 -> 300"]
    assert seal.verify(runs / "t" / "tokenizer") == []


def test_changed_data_and_parents_are_refused(runs):
    make(tokenizer(), runs, data={"data": "a" * 64})
    make(corpus(), runs, data={"data": "a" * 64})
    with pytest.raises(RunError, match="data: other data: aaaaaaaaaaaa... -> bbbbbbbbbbbb..."):
        examine(corpus(), runs_dir=runs, data={"data": "b" * 64})
    make(tokenizer(), runs, "other", fresh=True)
    with pytest.raises(RunError, match=r"tokenizer: another parent \(run ../tokenizer\): "):
        examine(corpus(), runs_dir=runs, data={"data": "a" * 64})
    make(corpus(), runs, fresh=True, data={"data": "b" * 64})
    assert examine(corpus(), runs_dir=runs, data={"data": "b" * 64}).kind == "sealed"


def test_manifest_with_single_source_list_matches(runs, monkeypatch):
    """Older versions recorded `data: [{..}]` as a list with the digest under `data[0]`."""
    write = manifest.inputs

    def as_list(*arguments, **options):
        given = write(*arguments, **options)
        given["settings"]["data"] = [given["settings"]["data"]]
        return {**given, "data": {"data[0]": "a" * 64}}

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "inputs", as_list)
        path = make(tokenizer(), runs)
    recorded = json.loads((path / "manifest.json").read_text())["inputs"]
    assert isinstance(recorded["settings"]["data"], list) and "data[0]" in recorded["data"]
    assert examine(tokenizer(), runs_dir=runs, data={"data": "a" * 64}).kind == "sealed"
    assert changed_settings(tokenizer(), runs_dir=runs) == []
    with pytest.raises(RunError, match="data: other data"):
        examine(tokenizer(), runs_dir=runs, data={"data": "b" * 64})


def test_run_key_does_not_affect_the_inputs(runs):
    make(tokenizer(), runs)
    assert examine(tokenizer(run="t/tokenizer"), runs_dir=runs).kind == "sealed"


def test_parent_must_exist_and_be_sealed(runs):
    with pytest.raises(RunError, match="no such run"):
        make(corpus(), runs)
    with open_run(tokenizer(), runs_dir=runs):
        pass
    with pytest.raises(RunError, match="not finished"):
        make(corpus(), runs)
    assert not (runs / "t" / "corpus").exists()


def test_flipped_byte_in_a_parent_is_refused_with_equal_size_and_time(runs):
    weights = make(tokenizer(), runs) / "model" / "weights.txt"
    times = weights.stat()
    weights.write_text("weightz")
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(RunError, match="model/weights.txt: changed"):
        make(corpus(), runs)
    assert not (runs / "t" / "corpus").exists()
    with pytest.raises(RunError, match="model/weights.txt: changed"):
        make(tokenizer(), runs)  # and it does not report nothing to do
    weights.write_text("weights")
    make(corpus(), runs)


def test_references_are_runs_folders_or_hub_ids(runs, tmp_path, monkeypatch):
    path = make(tokenizer(), runs)
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    with open_run(corpus(), runs_dir=runs) as run:
        assert run.reference("runs/t/tokenizer") == path
        assert run.reference("gpt2") == Path("gpt2")
        commit = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
        assert run.reference(f"openai-community/gpt2@{commit}") == f"openai-community/gpt2@{commit}"
        assert run.model_reference(f"openai-community/gpt2@{commit}") == ("openai-community/gpt2", commit)
        assert run.model_reference("runs/t/tokenizer") == (str(path / "model"), None)
        assert run.model_reference(str(path)) == (str(path / "model"), None)
        assert run.model_reference("runs/t/tokenizer/model") == (str(path / "model"), None)
        assert run.model_reference("gpt2") == ("gpt2", None)
        for wrong in ("runs/../elsewhere", "runs/", "./nowhere", "/nowhere", "a/b/c", "runs/t/missing"):
            with pytest.raises(RunError):
                run.reference(wrong)


def test_external_folder_is_identified_by_its_content(runs, tmp_path):
    folder = tmp_path / "brought"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    path = make(corpus(parent=str(folder)), runs)
    assert seal.verify(path) == []
    (folder / "tokenizer.json").write_text("[]")
    assert "changed since" in seal.verify(path)[0]
    with pytest.raises(RunError, match="another parent"):
        examine(corpus(parent=str(folder)), runs_dir=runs)


def test_fresh_deletes_only_after_all_checks(runs):
    make(tokenizer(), runs)
    path = make(corpus(), runs)

    def no_gpu() -> None:
        raise RunError("no GPU")

    with pytest.raises(RunError, match="no GPU"):
        make(corpus(), runs, fresh=True, before=no_gpu)
    with pytest.raises(RunError, match="no such run"):
        make(corpus(parent="runs/t/missing"), runs, fresh=True)
    assert seal.verify(path) == []
    make(corpus(), runs, "new", fresh=True)
    assert (path / "model" / "weights.txt").read_text() == "new"


@pytest.mark.parametrize(
    "content",
    [
        {"photo.jpg": "x"},
        {"manifest.json": '{"name": "a web page"}', "a": ""},
        {"manifest.json": "{", "lock.json": "{}"},
    ],
)
@pytest.mark.parametrize("fresh", [False, True])
def test_directory_that_is_not_a_run_is_never_modified(runs, content, fresh):
    place = runs / "t" / "tokenizer"
    place.mkdir(parents=True)
    for name, text in content.items():
        (place / name).write_text(text)
    with pytest.raises(RunError, match="not a run"):
        make(tokenizer(), runs, fresh=fresh)
    assert {file.name: file.read_text() for file in place.iterdir()} == content


def test_fresh_does_not_follow_links(runs, tmp_path):
    elsewhere = make(tokenizer("elsewhere"), tmp_path)
    (runs / "t").mkdir(parents=True)
    (runs / "t" / "tokenizer").symlink_to(elsewhere)
    with pytest.raises(RunError, match="link"):
        make(tokenizer(), runs, fresh=True)
    (runs / "linked").symlink_to(tmp_path)
    with pytest.raises(RunError, match="link"):
        make(tokenizer("linked/elsewhere"), runs, fresh=True)
    assert seal.verify(elsewhere) == []
    # A link inside a run is removed; its target is kept.
    (runs / "t" / "tokenizer").unlink()
    path = make(tokenizer(), runs)
    (path / "model" / "link").symlink_to(elsewhere)
    make(tokenizer(), runs, fresh=True)
    assert seal.verify(elsewhere) == [] and not (path / "model" / "link").exists()


@pytest.mark.parametrize("name", ["../outside", "/outside", "", "t/../../outside"])
def test_run_name_cannot_escape_the_runs_directory(runs, name):
    with pytest.raises(RunError):
        make(tokenizer(name), runs)


def test_nested_runs_are_refused(runs):
    make(tokenizer(), runs)
    with pytest.raises(RunError, match="inside another run"):
        make(tokenizer("t/tokenizer/inner"), runs)
    with pytest.raises(RunError, match="not a run"):
        make(tokenizer("t"), runs)


HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.runs.small_runs import corpus, tokenizer
from toolkit.runs.opening import open_run
with open_run({recipe}(), runs_dir=Path({runs!r})) as run:
    print("open", flush=True)
    time.sleep(60)
"""


def holder(runs: Path, recipe: str) -> subprocess.Popen:
    code = HOLDER.format(root=str(ROOT), runs=str(runs), recipe=recipe)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    return process


def test_two_processes_cannot_use_one_run(runs):
    process = holder(runs, "tokenizer")
    try:
        for fresh in (False, True):
            with pytest.raises(RunError, match=f"in use by process {process.pid} on "):
                make(tokenizer(), runs, fresh=fresh)
        assert (runs / "t" / "tokenizer" / "manifest.json").exists()
    finally:
        process.kill()
        process.wait()
    make(tokenizer(), runs)  # the lock was released although the process was killed


def test_parent_in_use_by_a_child_cannot_be_started_over(runs):
    path = make(tokenizer(), runs)
    process = holder(runs, "corpus")
    try:
        with pytest.raises(RunError, match="in use"):
            make(tokenizer(), runs, fresh=True)
        assert seal.verify(path) == []
        make(corpus("t/second"), runs)  # a second reader is fine
    finally:
        process.kill()
        process.wait()
    make(tokenizer(), runs, fresh=True)


def fork_a_sleeper() -> int:
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid


def test_forked_worker_does_not_hold_the_lock(runs):
    with open_run(tokenizer(), runs_dir=runs):
        worker = fork_a_sleeper()
    try:
        make(tokenizer(), runs)
    finally:
        os.kill(worker, 9)
        os.waitpid(worker, 0)


def test_forked_worker_of_a_killed_process_does_not_hold_the_lock(runs):
    reader, writer = os.pipe()
    owner = os.fork()
    if owner == 0:
        with open_run(tokenizer(), runs_dir=runs):
            os.write(writer, f"{fork_a_sleeper()}\n".encode())
            time.sleep(60)
        os._exit(0)
    worker = int(os.read(reader, 100))
    time.sleep(0.1)
    os.kill(owner, 9)
    os.waitpid(owner, 0)
    try:
        make(tokenizer(), runs)
    finally:
        os.kill(worker, 9)
        os.close(reader)
        os.close(writer)


def test_environment_changes_are_reported_before_resuming(runs, monkeypatch, capsys):
    with open_run(tokenizer(), runs_dir=runs) as run:
        checkpoint.save(run, 1, touch_state, keep=1)
    with open_run(tokenizer(), runs_dir=runs):
        pass
    assert "changed since the last attempt" not in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("toolkit.runs.provenance.versions", lambda: {"torch": "9.9"})
    with open_run(tokenizer(), runs_dir=runs) as run:
        pass
    stderr = capsys.readouterr().err
    assert "world_size: 1 -> 2" in stderr and "versions.torch:" in stderr and '"9.9"' in stderr
    assert run.manifest["resumed"][0]["world_size"] == 2


def test_other_ranks_write_nothing(runs, monkeypatch):
    with open_run(tokenizer(), runs_dir=runs) as run:
        before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*")}
        run.is_main = False
        run.metrics._active = False
        run.write_text("a.txt", "a")
        run.write_json("b.json", {})
        run.metrics.log(1, loss=1.0)
        assert run.decide("steps", 1) == 1
        assert {file: file.stat().st_mtime_ns for file in run.path.rglob("*")} == before


def old_demo(runs: Path, place: Path) -> Path:
    """Create sealed runs of recipes/storyworld-large under the former name of these recipes, recipes/tiny."""
    folder = place / "recipes" / "tiny"
    folder.mkdir(parents=True)
    for file in (RECIPES / "storyworld-large").glob("*.yaml"):
        text = file.read_text(encoding="utf-8").replace("runs/storyworld-large/", "runs/tiny/")
        (folder / file.name).write_text(text, encoding="utf-8")
    for loaded in dag.order(loader.load_folder(folder)):
        make(loaded, runs, data=data_files.digests(loaded.recipe))
    return runs / "tiny"


@pytest.mark.parametrize("recipe", ["", "pretrain.yaml", "dpo.yaml", "ppo.yaml"])
def test_runs_of_a_renamed_folder_are_refused_with_the_new_name(runs, tmp_path, recipe):
    old = old_demo(runs, tmp_path)
    before = {path: seal.digest(path) for path in old.iterdir()}
    with pytest.raises(RunError) as caught:
        run_recipes(RECIPES / "tiny" / recipe, runs_dir=runs)
    assert str(caught.value).startswith(
        f"{old}: was made from the recipes that are now called recipes/storyworld-large, "
    )
    assert f"`mv {old} {runs / 'storyworld-large'}`" in str(caught.value) and "--fresh" in str(caught.value)
    assert {path: seal.digest(path) for path in old.iterdir()} == before


def test_renamed_runs_are_finished_runs_of_the_renamed_recipes(runs, tmp_path, capsys):
    old_demo(runs, tmp_path).rename(runs / "storyworld-large")
    assert run_recipes(RECIPES / "storyworld-large", runs_dir=runs).started == 0
    assert "everything is finished, nothing to do" in capsys.readouterr().err
    assert all(seal.verify(path) == [] for path in (runs / "storyworld-large").iterdir())
    with pytest.raises(RunError, match="inputs:\n    trainer.beta: 0.5 -> 0.7\n  fix"):
        run_recipes(RECIPES / "storyworld-large" / "dpo.yaml", ["trainer.beta=0.7"], runs_dir=runs)


def test_other_changes_of_the_current_recipes_are_listed(runs):
    recipe = loader.load(RECIPES / "tiny" / "tokenizer.yaml")
    make(recipe, runs)
    with pytest.raises(RunError, match=f"vocab_size: {recipe.recipe.vocab_size} -> 600"):
        run_recipes(RECIPES / "tiny" / "tokenizer.yaml", ["vocab_size=600"], runs_dir=runs)


def test_parent_of_another_name_is_a_change(runs):
    make(tokenizer(), runs)
    make(tokenizer("u/tokenizer"), runs)
    make(corpus(), runs)
    with pytest.raises(RunError, match='tokenizer: "runs/t/tokenizer" -> "runs/u/tokenizer"'):
        examine(corpus(parent="runs/u/tokenizer"), runs_dir=runs)


def fine_tuning(**settings):
    recipe = schema.SftRecipe(stage="sft", model="org/model", data=SOURCE, **settings)
    return LoadedRecipe(Path("t/sft.yaml"), "t/sft", recipe, "stage: sft\n", {})


@pytest.mark.parametrize(("trainer", "kept"), [({}, "last"), ({"assistant_only_loss": True}, "all")])
def test_unfinished_fine_tuning_of_an_earlier_version_learns_the_same_answers(runs, capsys, trainer, kept):
    loaded = fine_tuning(trainer=trainer)
    with open_run(loaded, runs_dir=runs) as run:
        assert run.recipe.multi_turn == "all"
        checkpoint.save(run, 1, touch_state, keep=1)
    file = run.path / "manifest.json"
    content = json.loads(file.read_text())
    del content["inputs"]["settings"]["multi_turn"], content["checksum"]
    file.write_text(json.dumps(content))
    capsys.readouterr()
    for given in (loaded, fine_tuning(trainer=trainer, multi_turn=kept)):
        with open_run(given, runs_dir=runs) as run:
            assert run.recipe.multi_turn == kept
        is_told = 'multi_turn: "all" -> "last"' in capsys.readouterr().err
        assert is_told == (given.recipe.multi_turn != kept)
    if kept == "last":
        with pytest.raises(RunError, match='multi_turn: "last" -> "all"'):
            examine(fine_tuning(multi_turn="all"), runs_dir=runs)


def test_lock_of_a_reader_is_not_reported_as_an_earlier_process(runs, monkeypatch):
    """Readers leave no note in the lock file; the note is of the process that made the run."""
    parent = make(tokenizer(), runs)
    reader = run_lock.share(parent)
    try:
        (parent / ".in-use").write_text(json.dumps({"pid": os.getpid(), "host": "elsewhere", "command": "x"}))
        with pytest.raises(RunError, match=f"in use by process {os.getpid()} on elsewhere"):
            run_lock.hold(parent)
        note = {"pid": 2**22 + 1, "host": socket.gethostname(), "command": "x"}  # no process has this number
        (parent / ".in-use").write_text(json.dumps(note))
        with pytest.raises(RunError, match="in use by a process that reads it"):
            run_lock.hold(parent)
    finally:
        reader.release()


def test_changed_fact_of_an_interrupted_run_is_refused(runs):
    """A decision of its first attempt, such as the precision, would silently change the rest."""
    with open_run(tokenizer(), runs_dir=runs) as run:
        run.decide("precision", "bf16")
        checkpoint.save(run, 1, touch_state, keep=1)
    path = run.path / "manifest.json"
    path.write_text(path.read_text().replace('"bf16"', '"fp32"'))
    with (
        pytest.raises(RunError, match="was changed since it was written"),
        open_run(tokenizer(), runs_dir=runs),
    ):
        pass
    with open_run(tokenizer(), runs_dir=runs, fresh=True) as run:
        run.seal()
