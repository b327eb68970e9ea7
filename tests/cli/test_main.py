"""The command line: verbs, exit statuses, error messages and startup time."""

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.base.errors import RunError, ToolkitError
from toolkit.cli import main
from toolkit.planning.plan import Plan, Question
from toolkit.runs import seal

ROOT = Path(__file__).parents[2]
RECIPE = "stage: dpo\nmodel: runs/x/sft\ndata: {name: storyworld, examples: 10}\ntrainer: {beta: 0.1}\n"


def toolkit(*arguments, cwd=ROOT, **environment):
    return subprocess.run([sys.executable, "-m", "toolkit", *arguments], cwd=cwd, capture_output=True,
    text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **environment})  # fmt: skip


@pytest.fixture
def carried_out(monkeypatch):
    """Replace the modules that implement verbs and record the calls."""
    calls = []

    def replace(module, name, result=0):
        def command(*arguments, **settings):
            calls.append((arguments, settings))
            if isinstance(result, BaseException):
                raise result
            return result

        monkeypatch.setattr(importlib.import_module(module), name, command)
        return calls

    return replace


# Startup time and lazy imports


def test_help_is_fast_and_imports_no_large_library(worked):
    code = (
        "import sys; from toolkit.cli.main import main; main(['--help']); heavy = ('torch', 'pydantic', "
        "'yaml', 'numpy', 'rich', 'transformers'); assert not [one for one in heavy if one in sys.modules]"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == main.OVERVIEW and worked() < 0.5  # 0.06 measured


def test_every_verb_is_listed_and_has_examples(capsys):
    for verb in main.VERBS:
        assert f"  toolkit {verb} " in main.OVERVIEW
        assert main.main([verb, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"usage: toolkit {verb} " in text and f"examples:\n  toolkit {verb}" in text


def test_every_verb_has_a_module():
    assert {path.stem for path in (ROOT / "toolkit/cli").glob("*.py")} >= set(main.VERBS)


# Usage


@pytest.mark.parametrize("arguments,message", [
    (["rnu"], "error: there is no verb 'rnu'; did you mean run?\n  fix: `toolkit --help` lists the verbs\n"),
    (["zzz"], "error: there is no verb 'zzz'\n"), (["Check"], "did you mean check?"),
    (["recipes/tiny"], "did you mean `toolkit run recipes/tiny`?"),
    (["run"], "error: toolkit run: the following arguments are required: RECIPE|FOLDER\n  fix: "),
    (["run", "recipes/tiny", "--frsh"], "unrecognized arguments: --frsh; did you mean --fresh?"),
    (["run", "recipes/tinyy"],
     "error: recipes/tinyy: there is no such recipe or folder; did you mean recipes/tiny?"),
    (["run", "recipes/tiny/dop.yaml"], "did you mean recipes/tiny/dpo.yaml?"),
    (["check", "recipes/tiny", "beta"], "command line: 'beta' is not an override; write key=value"),
    (["generate", "m", "p", "--n", "0"], "argument --n: must be a positive integer, not '0'"),
    (["generate", "m", "p", "--chat", "--raw"], "not allowed with argument"),
    (["next", "m", "x", "--top", "many"], "argument --top: must be a positive integer, not 'many'"),
    (["evaluate", "m"], "the following arguments are required: --data"),
    (["publish", "runs/x"], "the following arguments are required: REPO_ID"),
    (["run", "recipes/tiny", "--fre"], "unrecognized arguments: --fre; did you mean --fresh?"),
])  # fmt: skip
def test_usage_error_exits_with_status_2(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == "" and "Traceback" not in captured.err


def test_missing_verb_prints_the_overview(capsys):
    assert main.main([]) == 2
    assert capsys.readouterr().err == main.OVERVIEW


# Arguments passed to the implementation of each verb


def test_run(carried_out, monkeypatch):
    monkeypatch.chdir(ROOT)
    calls = carried_out("toolkit.cli.run", "run_command")
    assert (
        main.main(
            [
                "run",
                "recipes/tiny",
                "trainer.beta=0.2",
                "--fresh",
                "seed=1",
                "--runs-dir",
                "/r",
                "--jobs",
                "2",
            ]
        )
        == 0
    )
    options = {"runs_dir": Path("/r"), "fresh": True, "launch": None, "jobs": 2, "processes": 1}
    options |= {"json": False}
    assert calls == [((Path("recipes/tiny"), ["trainer.beta=0.2", "seed=1"]), options)]


def test_seed_is_an_override_of_every_recipe(carried_out, tmp_path, capsys):
    calls = carried_out("toolkit.cli.run", "run_command")
    assert main.main(["run", str(tmp_path), "--seed", "7", "trainer.beta=0.2", "--processes", "2"]) == 0
    assert calls[0][0] == (tmp_path, ["trainer.beta=0.2", "seed=7"]) and calls[0][1]["processes"] == 2
    for words in (["seed=7"], ["--set", "seed=8"]):
        assert main.main(["run", str(tmp_path), "--seed", "7", *words]) == 2
        assert "error: --seed and seed= set the same setting\n  fix: give one" in capsys.readouterr().err
    assert len(calls) == 1


def test_exit_status_is_returned_by_the_verb(carried_out):
    carried_out("toolkit.cli.verify", "verify_command", 1)
    assert main.main(["verify", "runs/x"]) == 1


def test_plan(carried_out, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    calls = carried_out("toolkit.planning.plan", "plan_recipes", Plan([], None, None, None))
    arguments = ["recipes/tiny", "seed=1", "--json", "--no-probe", "--price", "2", "--processes", "8"]
    assert main.main(["plan", *arguments, "--runs-dir", "r"]) == 0
    question = Question(probe=False, price=2.0, processes=8, runs_dir=Path("r"))
    assert calls == [((Path("recipes/tiny"), ["seed=1"]), {"question": question})]
    assert json.loads(capsys.readouterr().out)["plan"] == []


def test_report(carried_out, tmp_path, capsys):
    """The report lists the finished runs of a folder in stage order."""
    for name in ("ppo", "corpus", "sft"):
        (tmp_path / name).mkdir()
        manifest = {"format": seal.FORMAT, "stage": name}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
        if name != "sft":
            (tmp_path / name / "lock.json").write_text("{}")
    calls = carried_out("toolkit.report.page", "write_report")
    assert main.main(["report", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    options = {"language": "en", "export_to": None}
    assert calls == [(([tmp_path / "corpus", tmp_path / "ppo"], tmp_path / "report.html"), options)]
    assert captured.out == f"{tmp_path / 'report.html'}\n"
    assert captured.err == "left out, not finished: sft\n"
    assert main.main(["report", str(tmp_path / "sft")]) == 1
    assert "no finished run is here" in capsys.readouterr().err


def test_publish(carried_out, capsys):
    calls = carried_out("toolkit.publish.repository", "publish", "https://huggingface.co/me/x")
    assert main.main(["publish", "r", "me/x", "--private", "--license", "mit"]) == 0
    assert calls == [((Path("r"), "me/x"), {"private": True, "license": "mit"})]
    assert capsys.readouterr().out == "https://huggingface.co/me/x\n"
    assert main.main(["publish", "r", "me/x", "--output", "x"]) == 2
    calls = carried_out("toolkit.publish.repository", "write_repository", None)
    assert main.main(["publish", "r", "me/x", "--dry-run", "--output", "x"]) == 0
    assert calls[-1] == ((Path("r"), "me/x", Path("x")), {"license": None})
    assert capsys.readouterr().out == "x\n"


def test_verify_passes_the_run_to_its_command(carried_out):
    calls = carried_out("toolkit.cli.verify", "verify_command")
    assert main.main(["verify", "r"]) == 0
    assert calls == [((Path("r"),), {"json": False})]


@pytest.mark.parametrize("verb", [*main.VERBS, "evaluate --tasks x", "evaluate --annotations x"])
def test_verb_help_imports_no_library(verb):
    heavy = ("torch", "transformers", "datasets", "numpy", "pydantic", "matplotlib", "lm_eval")
    code = (
        f"import sys; from toolkit.cli.main import main; main({[*verb.split(), '--help']}); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_command_line_paths_are_literal(carried_out, monkeypatch):
    monkeypatch.chdir(ROOT)
    calls = carried_out("toolkit.cli.run", "run_command")
    given = [
        "model=runs/a",
        "win_rate.baseline=runs/b",
        "models=[runs/a, runs/b]",
        "run=runs/x",
        "data.name=runs/c",
    ]
    main.main(["run", "recipes/tiny", *given, "--runs-dir", "/elsewhere"])
    main.main(["run", "recipes/tiny", *given, "--runs-dir", str(ROOT / "runs")])
    main.main(["run", "recipes/tiny", *(f"--set={text}" for text in given), "--runs-dir", "/elsewhere"])
    literal = ["model=./runs/a", "win_rate.baseline=./runs/b", "models=[./runs/a, ./runs/b]", "run=runs/x",
               "data.name=runs/c"]  # fmt: skip
    assert [call[0][1] for call in calls] == [literal, given, given]


# Failures


@pytest.mark.parametrize("error,status,message", [
    (RunError("is not sealed", where="runs/x", fix="finish it"), 1,
     "error: runs/x: is not sealed\n  fix: finish it\n"),
    (ToolkitError("no"), 1, "error: no\n"), (KeyboardInterrupt(), 130, "\ninterrupted\n"),
    (KeyboardInterrupt("a checkpoint of step 20 was saved"), 130,
     "\ninterrupted: a checkpoint of step 20 was saved\n"),
    (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 1,
     "error: runs/x: the disk is full\n  fix: free some"),
    (RuntimeError("I/O error: No space left on device (os error 28)"), 1, "error: the disk is full\n"),
])  # fmt: skip
def test_failure_message_is_one_paragraph(carried_out, capsys, error, status, message):
    carried_out("toolkit.cli.verify", "verify_command", error)
    assert main.main(["verify", "runs/x"]) == status
    captured = capsys.readouterr()
    assert captured.err.startswith(message) and captured.out == ""


def test_unexpected_exception_prints_a_traceback(carried_out):
    carried_out("toolkit.cli.verify", "verify_command", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main.main(["verify", "runs/x"])


def test_only_rank_zero_reports_a_shared_error(carried_out, capsys, monkeypatch):
    launcher = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    assert main.main(["rnu"]) == 2 and capsys.readouterr().err == ""
    carried_out("toolkit.cli.verify", "verify_command", RunError("only here"))
    assert main.main(["verify", "runs/x"]) == 1 and "only here" in capsys.readouterr().err


def test_sigterm_is_handled_as_interrupt(tmp_path):
    code = (
        "import sys, time, types; fake = types.ModuleType('toolkit.cli.run')\n"
        "def main(*a, **k): print('ready', flush=True); time.sleep(60)\n"
        "fake.main = main; sys.modules['toolkit.cli.run'] = fake\n"
        "from toolkit.cli import main as cli; sys.exit(cli.main(['run', 'recipes/tiny']))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
                             text=True)  # fmt: skip
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    _, message = child.communicate(timeout=30)
    assert child.returncode == 130 and message == "\ninterrupted\n"


def test_closed_pipe_prints_nothing():
    command = f"{sys.executable} -m toolkit schema | head -c 10"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert len(done.stdout) == 10 and done.stderr == ""


# check


def test_check_reports_valid_and_unknown_references(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main.main(["check", "recipes/shakespeare"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "pretrain.yaml   ok  pretrain" in captured.err
    assert (
        "not checked: data: karpathy/tiny_shakespeare@refs/convert/parquet (a dataset of the Hub)"
        in captured.err
    )


def test_check_is_fast(worked):
    assert toolkit("check", "recipes/tiny").returncode == 0
    assert worked() < 3  # 0.8 s measured


def test_check_reports_every_problem_and_writes_nothing(tmp_path):
    (tmp_path / "dpo.yaml").write_text(RECIPE + "sed: 3\n")
    (tmp_path / "good.yaml").write_text(RECIPE)
    (tmp_path / "tokenizer.yaml").write_text("stage: tokenizer\n")
    done = toolkit("check", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert f"{tmp_path}/dpo.yaml:5: sed: unknown key; did you mean seed?" in done.stderr
    assert f"{tmp_path}/good.yaml  ok  dpo" in done.stderr and done.stderr.endswith("2 problems\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dpo.yaml", "good.yaml", "tokenizer.yaml"]


def test_check_as_json(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(RECIPE)
    (tmp_path / "b.yaml").write_text(RECIPE + "sed: 3\n")
    assert main.main(["check", str(tmp_path), "--json"]) == 2
    output = json.loads(capsys.readouterr().out)
    assert not output["ok"] and output["problems"] == [
        {"place": f"{tmp_path}/b.yaml:5", "key": "sed",
        "what": "unknown key; did you mean seed?", "kind": "unknown"}]  # fmt: skip
    [row] = output["recipes"]
    assert row["ok"] and row["stage"] == "dpo"
    assert row["not_checked"] == ["model: runs/x/sft is not there, and no recipe here makes it"]


def test_check_reports_references_to_the_wrong_stage(tmp_path, capsys):
    folder = tmp_path / "recipes" / "t"
    folder.mkdir(parents=True)
    (folder / "corpus.yaml").write_text("stage: corpus\ntokenizer: runs/t/tokeniser\ndata: {name: b.txt}\n")
    (folder / "dpo.yaml").write_text(RECIPE.replace("runs/x/sft", "runs/t/corpus"))
    (folder / "tokenizer.yaml").write_text("stage: tokenizer\ndata: {name: b.txt}\n")
    assert main.main(["check", str(folder)]) == 2
    message = capsys.readouterr().err
    assert (
        f"{folder}/dpo.yaml:2: model: runs/t/corpus is a corpus run; a pretrain or sft or dpo or ppo run"
        in message
    )
    assert (
        "runs/t/tokeniser is not there, and no recipe here makes it; did you mean runs/t/tokenizer?"
        in message
    )
    assert "data: there is no file b.txt here" in message


def test_check_detects_cycles_and_accepts_checkpoints(tmp_path, capsys):
    folder = tmp_path / "recipes" / "t"
    folder.mkdir(parents=True)
    (folder / "a.yaml").write_text(RECIPE.replace("runs/x/sft", "runs/t/b/checkpoints/step-00000010"))
    (folder / "b.yaml").write_text(RECIPE.replace("runs/x/sft", "runs/t/c"))
    (folder / "c.yaml").write_text(RECIPE.replace("runs/x/sft", "runs/t/c"))
    assert main.main(["check", str(folder)]) == 2
    assert f"{folder}/c.yaml:2: model: refers to this recipe's own run" in capsys.readouterr().err
    (folder / "c.yaml").write_text(RECIPE.replace("runs/x/sft", "runs/t/a"))
    assert main.main(["check", str(folder)]) == 2
    message = capsys.readouterr().err
    assert f"{folder}/a.yaml:2: model: refers to runs/t/b, which needs runs/t/a first (a cycle)" in message
    assert "not checked" not in message


# Shipped recipes


def test_shipped_recipes_are_found_from_any_folder(tmp_path):
    done = toolkit("check", "recipes/tiny/dpo.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith("recipes/tiny/dpo.yaml does not exist; using the one in the package: ")


def test_shipped_recipes_are_in_the_installed_package(tmp_path, monkeypatch):
    """hatchling installs recipes in toolkit/_recipes; the run name does not change."""
    from toolkit.config import loader, shipped_recipes

    (tmp_path / "toolkit/_recipes/tiny").mkdir(parents=True)
    (tmp_path / "toolkit/_recipes/tiny/dpo.yaml").write_text(RECIPE)
    monkeypatch.setattr(shipped_recipes.resources, "files", lambda package: tmp_path / package)
    monkeypatch.chdir(tmp_path)
    assert loader.load(shipped_recipes.locate("recipes/tiny/dpo.yaml")).name == "tiny/dpo"
    assert shipped_recipes.locate("recipes/tiny").is_dir()


def test_local_recipes_take_precedence(tmp_path, monkeypatch, capsys):
    from toolkit.config import shipped_recipes

    (tmp_path / "recipes/tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert shipped_recipes.locate("recipes/tiny") == Path("recipes/tiny") and capsys.readouterr().err == ""


def test_schema(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "toolkit recipe"
    (tmp_path / "recipes").mkdir()
    stored = tmp_path / "recipes/recipe.schema.json"
    stored.write_text("old")
    assert main.main(["schema"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["title"] == "toolkit recipe" and stored.read_text() == "old"
    assert main.main(["schema", "--output", str(stored)]) == 0
    assert stored.read_text() == printed and capsys.readouterr().out == ""
