import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from toolkit.base.errors import RecipeError, RunError, UsageError
from toolkit.cli.run import run_command
from toolkit.cli.verify import verify_command
from toolkit.config import loader, schema
from toolkit.config.registry import STAGES
from toolkit.execution import dag, launching, runner, starting_over
from toolkit.runs import checkpoint, metrics, seal
from toolkit.runtime import hardware

PROGRAM = Path(__file__).parents[1] / "runs" / "toy_program.py"
ORDER = ["tokenizer", "corpus", "pretrain"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a folder of recipes whose alphabetical order differs from their reference order."""
    recipes = tmp_path / "recipes" / "t"
    recipes.mkdir(parents=True)
    (tmp_path / "data.txt").write_text("hello\n")
    source = f"data: {{name: {tmp_path / 'data.txt'}}}\n"
    (recipes / "tokenizer.yaml").write_text(f"stage: tokenizer\nseed: 1\n{source}")
    (recipes / "corpus.yaml").write_text(f"stage: corpus\ntokenizer: runs/t/tokenizer\n{source}")
    return tmp_path


def start(folder: Path, recipe: str, *words: str, launcher: tuple[str, ...] = (), **variables: str):
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"TOY_WITHOUT_TORCH": "1", "OMP_NUM_THREADS": "1"} | variables
    command = [sys.executable, *launcher, str(PROGRAM), "run", recipe, *words, "--runs-dir", "runs"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen, status: int) -> tuple[str, str]:
    """Wait for the process and return its output; kill it and its stages on failure."""
    try:
        out, err = process.communicate(timeout=150)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == status, err
    return out, err


def run(folder: Path, recipe: str, *words: str, status: int = 0, **variables: str) -> tuple[str, str]:
    return finish(start(folder, recipe, *words, **variables), status)


def wait_for_step(process: subprocess.Popen, step: int) -> str:
    text = ""
    for line in process.stderr:
        text += line
        if line == f"at step {step}\n":
            return text
    raise AssertionError(text)


def test_folder_runs_in_order_and_reruns_only_missing_runs(folder, worked):
    out, err = run(folder, "recipes/t", "--json")
    assert re.findall(r"^\[(\d/2)\] (\w+)  recipes/t/(\w+).yaml -> runs/t/\3$", err, re.M) == [
        ("1/2", "tokenizer", "tokenizer"),
        ("2/2", "corpus", "corpus"),
    ]
    numbers = json.loads(out)
    assert numbers["stages"]["tokenizer"]["total"] == 6 and list(numbers["stages"]) == ORDER[:2]
    assert "a library that prints on stdout" in err
    assert (folder / "runs" / "t" / "report.html").exists()

    worked()
    out, err = run(folder, "recipes/t", "--json")
    assert worked() < 6  # 1.8 s measured
    assert json.loads(out)["stages"].keys() == numbers["stages"].keys()
    assert err.count("finished already") == 2 and "nothing to do" in err

    (folder / "runs" / "t" / "corpus" / "lock.json").unlink()
    _, err = run(folder, "recipes/t")
    assert err.count("finished already") == 1 and "runs/t/corpus: finished and sealed" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_folder_resumes(folder, number):
    process = start(folder, "recipes/t", TOY_STOP_AT="2")
    wait_for_step(process, 2)
    process.send_signal(number)
    _, err = finish(process, 130)
    assert "resumes from step 2" in err and "Traceback" not in err and not (folder / "runs/t/corpus").exists()
    _, err = run(folder, "recipes/t/tokenizer.yaml")
    assert "resuming from step 2" in err
    numbers = json.loads((folder / "runs/t/tokenizer/evaluation.json").read_text())
    assert numbers == {"total": 6, "steps_here": 1}
    assert [row["step"] for row in metrics.read(folder / "runs/t/tokenizer/metrics.jsonl")] == [1, 2, 3]


def test_killing_the_folder_runner_kills_its_stage_and_frees_the_lock(folder):
    process = start(folder, "recipes/t", TOY_STOP_AT="1")
    wait_for_step(process, 1)
    process.kill()
    finish(process, -signal.SIGKILL)  # returns only after the stage has also closed the pipe
    _, err = run(folder, "recipes/t/tokenizer.yaml")
    assert "resuming from step 1" in err and seal.verify(folder / "runs/t/tokenizer") == []


def test_failing_stage_stops_the_folder_with_its_status(folder):
    _, err = run(folder, "recipes/t", status=1, TOY_DATA_ERROR="1")
    assert "toy.txt: a toy's complaint" in err and "tokenizer failed (exit status 1)" in err
    assert "toolkit run recipes/t/tokenizer.yaml" in err and "[2/2]" not in err and "Traceback" not in err


def test_full_disk_prints_one_message(folder):
    _, err = run(folder, "recipes/t/tokenizer.yaml", status=1, TOY_FULL_AT="2")
    assert "runs/t/tokenizer: the disk is full" in err and "Traceback" not in err
    assert not seal.is_sealed(folder / "runs/t/tokenizer")
    _, err = run(folder, "recipes/t/tokenizer.yaml")
    assert "resuming from step 2" in err


@pytest.fixture
def here(folder, monkeypatch):
    """Runs in this process, with the toy corpus stage for both recipes."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(runner, "_prepare", lambda recipe: None)

    def work(recipe, run):
        run.write_text("model/weights.txt", "x")
        print("on stdout")

    monkeypatch.setattr(runner, "_work", work)
    return folder


def stand_in(monkeypatch, *, status: int) -> list[list[str]]:
    """Let each stage of a folder end at once with an exit status; return the commands of started stages."""
    started = []

    def start(loaded, options, *, captured):
        started.append(launching.stage_arguments(loaded, options))
        child = SimpleNamespace(stdout=None, wait=lambda: status)
        return launching.StageProcess(child)

    monkeypatch.setattr(launching, "start", start)
    return started


def test_verify_names_the_changed_file_and_exits_1(here, capfd):
    for stage in ORDER[:2]:
        assert run_command(f"recipes/t/{stage}.yaml", runs_dir="runs") == 0
    assert verify_command("runs/t/corpus") == 0
    capfd.readouterr()
    (here / "runs/t/tokenizer/model/weights.txt").write_text("y")
    assert verify_command("runs/t/corpus", json=True) == 1
    out, err = capfd.readouterr()
    assert "runs/t/tokenizer: model/weights.txt: changed since the run was sealed" in err
    result = json.loads(out)
    assert not result["whole"]
    assert [row["run"] for row in result["chain"]] == ["runs/t/tokenizer", "runs/t/corpus"]
    with pytest.raises(RunError, match="weights.txt: changed"):
        run_command("recipes/t/corpus.yaml", runs_dir="runs", fresh=True)
    assert seal.is_sealed(here / "runs/t/corpus")


def test_json_is_the_only_output_on_stdout(here, capfd):
    assert run_command("recipes/t/tokenizer.yaml", runs_dir="runs", json=True) == 0
    out, err = capfd.readouterr()
    assert list(json.loads(out)["stages"]) == ["tokenizer"] and "on stdout" in err


def test_changed_settings_are_refused_before_any_process_starts(here, monkeypatch):
    for stage in ORDER[:2]:
        run_command(f"recipes/t/{stage}.yaml", runs_dir="runs")
    (here / "runs" / "t" / "tokenizer" / "lock.json").unlink()
    (here / "runs" / "t" / "tokenizer" / "checkpoints" / "step-1").mkdir(parents=True)
    started = stand_in(monkeypatch, status=0)
    with pytest.raises(RunError, match="runs/t/tokenizer: seed: 1 -> 7"):
        run_command("recipes/t", ["seed=7"], runs_dir="runs")
    assert started == []
    # Each stage gets the overrides that apply to its recipe: the seed to all, others where the key is set.
    monkeypatch.setattr("toolkit.cli.run._show_folder", lambda *_, **__: None)
    run_command("recipes/t", ["seed=7", "tokenizer=runs/t/tokenizer"], runs_dir="runs", fresh=True)
    words = ["--set", "seed=7", "--runs-dir", "runs"]
    assert started == [
        ["run", "recipes/t/tokenizer.yaml", *words],
        [
            "run",
            "recipes/t/corpus.yaml",
            "--set",
            "seed=7",
            "--set",
            "tokenizer=runs/t/tokenizer",
            *words[2:],
        ],
    ]
    # All runs were cleared first, so an interrupted folder resumes without --fresh.
    assert not list((here / "runs" / "t").glob("*/manifest.json"))


def test_fresh_on_a_folder_starts_over_only_what_changed_and_what_was_made_from_it(here, capfd, monkeypatch):
    recipes, runs = here / "recipes" / "t", here / "runs"
    source = f"data: {{name: {here / 'data.txt'}}}\n"
    (recipes / "alone.yaml").write_text(f"stage: tokenizer\n{source}")
    (recipes / "child.yaml").write_text(f"stage: corpus\ntokenizer: runs/t/corpus\n{source}")
    for name in ("tokenizer", "alone", "corpus", "child"):
        run_command(f"recipes/t/{name}.yaml", runs_dir="runs")

    def examined(*overrides: str) -> tuple[dict[str, list[str]], list[str]]:
        found = starting_over.examine(
            dag.order(loader.load_folder(recipes, overrides)), runs_dir=Path("runs")
        )
        return found.reasons, sorted(found.kept)

    assert examined() == ({}, ["t/alone", "t/child", "t/corpus", "t/tokenizer"])
    monkeypatch.setattr("toolkit.cli.run._show_folder", lambda *_, **__: None)
    assert run_command("recipes/t", runs_dir="runs", fresh=True) == 0
    _, err = capfd.readouterr()
    assert "--fresh: no run is started over" in err
    assert "nothing to do; to make a run anew, delete its folder, or run its recipe with --fresh" in err

    text = (recipes / "tokenizer.yaml").read_text()
    (recipes / "tokenizer.yaml").write_text(text.replace("seed: 1", "seed: 7"))
    changed = {
        "t/tokenizer": ["seed: 1 -> 7"],
        "t/corpus": ["was made from runs/t/tokenizer"],
        "t/child": ["was made from runs/t/corpus"],
    }
    assert examined() == (changed, ["t/alone"])
    started = stand_in(monkeypatch, status=0)
    assert run_command("recipes/t", runs_dir="runs", fresh=True) == 0
    assert [Path(words[1]).stem for words in started] == ["tokenizer", "corpus", "child"]
    _, err = capfd.readouterr()
    assert (
        "--fresh starts over:\n  runs/t/tokenizer: seed: 1 -> 7\n"
        "  runs/t/corpus: was made from runs/t/tokenizer\n"
        "  runs/t/child: was made from runs/t/corpus\nand keeps: runs/t/alone\n"
    ) in err
    assert seal.is_sealed(runs / "t" / "alone") and not (runs / "t" / "child" / "manifest.json").exists()


def test_fresh_on_a_folder_starts_over_damaged_runs_and_other_data(here):
    for name in ORDER[:2]:
        run_command(f"recipes/t/{name}.yaml", runs_dir="runs")
    recipes = dag.order(loader.load_folder(here / "recipes" / "t"))
    (here / "runs" / "t" / "corpus" / "model" / "weights.txt").write_text("damaged")
    found = starting_over.examine(recipes, runs_dir=Path("runs"))
    assert found.kept == ["t/tokenizer"] and found.finished == {"t/tokenizer"}
    assert found.reasons["t/corpus"][0].startswith("the run changed since it was sealed: model/weights.txt")
    (here / "data.txt").write_text("hello again\n")
    found = starting_over.examine(recipes, runs_dir=Path("runs"))
    assert found.kept == [] and found.reasons["t/tokenizer"][0].startswith("data: other data: sha256:")


def test_fresh_on_a_folder_resumes_an_unchanged_run(folder):
    process = start(folder, "recipes/t", TOY_STOP_AT="2")
    wait_for_step(process, 2)
    process.send_signal(signal.SIGINT)
    finish(process, 130)
    _, err = run(folder, "recipes/t", "--fresh")
    assert "--fresh: no run is started over" in err and "resuming from step 2" in err


def test_folder_accepts_a_corrected_recipe_after_an_early_failure(here, monkeypatch):
    run_command("recipes/t/tokenizer.yaml", runs_dir="runs")
    (here / "runs" / "t" / "tokenizer" / "lock.json").unlink()
    started = stand_in(monkeypatch, status=1)
    assert run_command("recipes/t", ["seed=7"], runs_dir="runs") == 1
    assert [Path(words[1]).stem for words in started] == ["tokenizer"]


def test_run_accepts_a_corrected_recipe_after_an_early_failure(here, monkeypatch):
    def work(recipe, run):
        raise RunError("too long", where="trainer.max_length")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_work", work)
        with pytest.raises(RunError, match="too long"):
            run_command("recipes/t/tokenizer.yaml", runs_dir="runs")
    run = here / "runs" / "t" / "tokenizer"
    assert (run / "manifest.json").exists() and not (run / "lock.json").exists()
    assert run_command("recipes/t/tokenizer.yaml", ["seed=7"], runs_dir="runs") == 0
    assert yaml.safe_load((run / "resolved.yaml").read_text())["seed"] == 7


def test_recipe_from_a_pipe_is_run_and_sealed(folder):
    text = (folder / "recipes" / "t" / "tokenizer.yaml").read_text() + "# from a pipe\n"
    command = [sys.executable, str(PROGRAM), "run", "/dev/stdin", "run=t/piped", "--runs-dir", "runs"]
    environment = {**os.environ, "TOY_WITHOUT_TORCH": "1"}
    subprocess.run(command, cwd=folder, input=text, text=True, env=environment, check=True, timeout=60)
    run = folder / "runs" / "t" / "piped"
    assert (run / "recipe.yaml").read_text() == text and seal.is_sealed(run)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["recipe"] == hashlib.sha256(text.encode()).hexdigest()


def test_recipe_from_a_pipe_is_refused_on_several_processes(here, monkeypatch):
    os.mkfifo(here / "pipe")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="pipe can be read by one process only"):
        run_command("pipe", runs_dir="runs")


def test_recipes_and_bases_that_change_while_a_folder_runs_are_run_as_they_were_checked(folder):
    recipes = folder / "recipes" / "t"
    (recipes / "_base.yaml").write_text("seed: 3\n")
    text = f"base: _base.yaml\n{(recipes / 'corpus.yaml').read_text()}"
    (recipes / "corpus.yaml").write_text(text)
    process = start(folder, "recipes/t", TOY_STOP_AT="1")
    wait_for_step(process, 1)  # of the first stage
    (recipes / "_base.yaml").write_text("seed: 4\n")
    (recipes / "corpus.yaml").unlink()
    (folder / "go").touch()
    finish(process, 0)
    run = folder / "runs" / "t" / "corpus"
    assert (run / "recipe.yaml").read_text() == text
    assert yaml.safe_load((run / "resolved.yaml").read_text())["seed"] == 3


def test_changed_data_are_refused(here):
    run_command("recipes/t/tokenizer.yaml", runs_dir="runs")
    (here / "data.txt").write_text("hellO\n")
    with pytest.raises(RunError, match="data: other data: sha256:"):
        run_command("recipes/t/tokenizer.yaml", runs_dir="runs")


def test_folder_under_a_launcher_is_refused(here, monkeypatch):
    monkeypatch.setattr(runner.signals, "die_with_parent", lambda parent=None: None)
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("ACCELERATE_MIXED_PRECISION", "no")):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            with pytest.raises(UsageError, match="--launch") as caught:
                run_command("recipes/t", runs_dir="runs")
            assert caught.value.exit_status == 2
    assert not (here / "runs").exists()


def test_other_ranks_exit_silently_with_the_status_of_rank_0(here, monkeypatch, capfd):
    waited = []
    monkeypatch.setattr(runner.signals.time, "sleep", waited.append)
    (here / "recipes" / "t" / "tokenizer.yaml").write_text("stage: tokenizer\n")
    monkeypatch.setenv("RANK", "1")
    assert run_command("recipes/t/tokenizer.yaml", runs_dir="runs") == 2
    assert waited == [runner.signals._GRACE_SECONDS] and capfd.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RecipeError):
        run_command("recipes/t/tokenizer.yaml", runs_dir="runs")
    assert len(waited) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("distributed_type: MULTI_CPU\nnum_processes: 4\n", "single process"),
        ("- a\n", "not an Accelerate"),
        ("a: [", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_invalid_launch_file_is_refused(here, content, message):
    if content is not None:
        (here / "launch.yaml").write_text(content)
    with pytest.raises(UsageError, match=message):
        run_command("recipes/t", runs_dir="runs", launch="launch.yaml")
    assert not (here / "runs").exists()


def test_every_data_source_has_a_digest(here, monkeypatch):
    monkeypatch.setattr(runner.data_files, "digest", lambda source: source.name)
    one = schema.DataSource(name="a")
    two = schema.DataSource(name="b")
    recipe = schema.EvaluateRecipe(
        stage="evaluate",
        models=["x"],
        perplexity=schema.PerplexitySettings(data=[one, two]),
        data=two,
        win_rate=schema.WinRateSettings(baseline="x", judge_data=one),
    )
    assert runner.data_files.digests(recipe) == {
        "perplexity.data[0]": "a",
        "perplexity.data[1]": "b",
        "data": "b",
        "win_rate.judge_data": "a",
    }


def test_threads_are_kept_unless_the_process_count_changed(here, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(here)
    from toolkit.runtime import devices

    seen = []

    def stage(recipe, run):
        checkpoint.save(run, 1, lambda folder: (folder / "state").touch(), keep=1)

    monkeypatch.setattr(runner, "_entry", lambda name: stage)
    monkeypatch.setattr(runner.Run, "seal", lambda run: run.close())
    monkeypatch.setitem(STAGES, "tokenizer", replace(STAGES["tokenizer"], uses_torch=True))
    monkeypatch.setattr(devices, "configure", lambda recipe, threads: seen.append(threads))
    for cores in (2, 8, 1):
        monkeypatch.setattr(hardware, "cores", lambda cores=cores: cores)
        run_command("recipes/t/tokenizer.yaml", runs_dir="runs")
    assert seen == [2, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("needed", [True, False])
def test_prestarted_process_waits_for_its_stage(here, needed):
    """A prestarted process has imported the stage and written nothing; it then runs or exits."""
    loaded = loader.load("recipes/t/tokenizer.yaml", [])
    options = launching.RunOptions(Path("runs"))
    preloaded = launching.PreloadedStage(loaded, options)
    folder = here / "runs" / "t" / "tokenizer"
    preloaded.wait_until_loaded()
    assert preloaded.child.poll() is None and not folder.exists()
    if needed:
        preloaded.start()
        assert preloaded.wait() == 0 and seal.is_sealed(folder)
    else:
        preloaded.discard()
        assert preloaded.child.returncode == launching.INTERRUPTED and not folder.exists()


LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def tokens(here) -> Path:
    """Create a sealed corpus and a recipe that trains on it."""
    (here / "recipes" / "t" / "pretrain.yaml").write_text(
        "stage: pretrain\ntokens: runs/t/corpus\ntrain_tokens: 8192\n"
    )
    for stage in ORDER[:2]:
        run_command(f"recipes/t/{stage}.yaml", runs_dir="runs")
    return here


@pytest.mark.slow
def test_two_processes_print_one_refusal(tokens):
    (tokens / "runs/t/corpus/lock.json").unlink()
    process = start(tokens, "recipes/t/pretrain.yaml", launcher=LAUNCH, TOY_WITHOUT_TORCH="")
    _, err = finish(process, 1)
    assert err.count("the run is not finished") == 1
    assert not (tokens / "runs/t/pretrain").exists()


@pytest.mark.slow
def test_invalid_recipe_is_reported_once_by_two_processes(tokens):
    (tokens / "recipes" / "t" / "pretrain.yaml").write_text("stage: pretrain\n")
    process = start(tokens, "recipes/t/pretrain.yaml", launcher=LAUNCH, TOY_WITHOUT_TORCH="")
    _, err = finish(process, 1)  # torchrun exits with 1
    assert err.count("train_tokens: is required") == 1


def test_two_processes_run_one_stage(tokens):
    """Both processes take part; only one opens and seals the run and prints."""
    folder = tokens
    process = start(folder, "recipes/t/pretrain.yaml", "--json", launcher=LAUNCH, TOY_WITHOUT_TORCH="")
    out, err = finish(process, 0)
    assert json.loads(out)["stages"]["pretrain"]["sum"] == 3  # (0 + 1) + (0 + 2)
    assert err.count("finished and sealed") == 1 and seal.verify(folder / "runs/t/pretrain") == []
    assert json.loads((folder / "runs/t/pretrain/manifest.json").read_text())["world_size"] == 2


@pytest.mark.parametrize(
    ("settings", "processes", "message"),
    [
        ("batch_tokens: 512", 3, "batch_tokens: 512 is not a multiple of 768 (256 tokens a row on each of 3"),
        (
            "{exact: true, threads: 1, batch_tokens: 1024, micro_batch_tokens: 256}",
            8,
            "batch_tokens: 1024 is not a multiple of 2048",
        ),
    ],
)
def test_processes_that_cannot_share_a_batch_are_refused_at_once(
    tokens, monkeypatch, settings, processes, message
):
    recipe = tokens / "recipes/t/pretrain.yaml"
    given = yaml.safe_load(recipe.read_text()) | yaml.safe_load(settings)
    recipe.write_text(yaml.safe_dump(given))
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a process was started"))
    for path in ("recipes/t/pretrain.yaml", "recipes/t"):
        with pytest.raises(RecipeError) as caught:
            run_command(path, runs_dir="runs", processes=processes)
        assert message in str(caught.value) and "pretrain.yaml:" in str(caught.value)


def test_launch_and_processes_are_two_ways(here):
    (here / "launch.yaml").write_text("distributed_type: MULTI_GPU\nnum_processes: 2\n")
    with pytest.raises(UsageError, match="--launch and --processes are two ways"):
        run_command("recipes/t", runs_dir="runs", launch="launch.yaml", processes=2)


@pytest.mark.slow
def test_processes_run_every_stage_that_uses_torch_and_one_error_is_printed_once(tokens):
    root = str(Path(__file__).parents[2])
    environment = {"TOY_WITHOUT_TORCH": "", "PYTHONPATH": root}
    _, err = run(tokens, "recipes/t", "--processes", "2", status=1, TOY_FAIL="rank 1", **environment)
    assert err.count("a toy's complaint") == 1 and "ChildFailedError" not in err and "Traceback" not in err
    assert "toolkit run recipes/t/pretrain.yaml --runs-dir runs --processes 2" in err
    _, err = run(tokens, "recipes/t", "--processes", "2", **environment)
    manifests = {
        name: json.loads((tokens / "runs/t" / name / "manifest.json").read_text()) for name in (*ORDER,)
    }
    assert [manifests[name]["world_size"] for name in ORDER] == [1, 1, 2]
    assert json.loads((tokens / "runs/t/pretrain/evaluation.json").read_text())["sum"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_killed_process_of_two_is_told_once_without_a_traceback_of_ours(tokens, rank):
    process = start(tokens, "recipes/t/pretrain.yaml", launcher=LAUNCH, TOY_WITHOUT_TORCH="", TOY_DIE=rank)
    _, err = finish(process, 1)
    assert err.count("runs/t/pretrain: another process of this launch has ended") == 1
    assert "the same command starts from the beginning" in err and "toolkit/execution" not in err
    process = start(tokens, "recipes/t/pretrain.yaml", "--json", launcher=LAUNCH, TOY_WITHOUT_TORCH="")
    assert json.loads(finish(process, 0)[0])["stages"]["pretrain"]["sum"] == 3
