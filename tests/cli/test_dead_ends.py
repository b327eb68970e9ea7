"""A name that leads nowhere: what is there is listed, and the likely one suggested."""

from pathlib import Path

import pytest
from rich.console import Console

from tests.runs.small_runs import corpus, make, tokenizer
from toolkit.cli import main
from toolkit.cli.number_table import number_table
from toolkit.runs import suggestions
from toolkit.runs.opening import open_run


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make(tokenizer(), tmp_path / "runs")
    make(corpus(), tmp_path / "runs")
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["next", "runs/t", "x"], "name one of the runs that are there: runs/t/corpus, runs/t/tokenizer"),
        (["generate", "t/corpus", "x"], "did you mean runs/t/corpus?"),
        (["generate", "runs/t/corpsu", "x"], "did you mean runs/t/corpus?"),
        (["verify", "t/corpus"], "did you mean runs/t/corpus?"),
        (["verify", "runs"], "name one of the runs that are there: runs/t/corpus, runs/t/tokenizer"),
        (["report", "runs"], "name a folder of runs: runs/t"),
        (["report", "t"], "name one of the runs that are there: runs/t/corpus"),
        (["run", "tiny"], "did you mean recipes/tiny?"),
        (
            ["run", "runs/t"],
            "error: runs/t: holds runs, not recipes\n  fix: give the recipe, or their folder",
        ),
        (["check", "runs/t/corpus"], "error: runs/t/corpus: is a run, not recipes"),
        (["run", "tiny/dpo.yaml"], "did you mean recipes/tiny/dpo.yaml?"),
        (["help", "rnu"], "did you mean run?"),
    ],
)
def test_dead_end_names_what_is_there(runs, capsys, command, said):
    assert main.main(command) in (1, 2)
    assert said in capsys.readouterr().err


def test_many_runs_are_counted_and_hidden_folders_left_out(runs):
    for number in range(9):
        make(tokenizer(f".hidden/{number}"), runs)
        make(tokenizer(f"many/{number}"), runs)
    found = suggestions.there_is(Path("runs/many"))
    assert found.endswith("runs/many/7 and 1 more") and ".hidden" not in suggestions.there_is(Path("runs"))
    assert suggestions.there_is(Path("/none")) is None


@pytest.mark.parametrize("verb", ["run", "evaluate", "report"])
def test_help_on_a_verb(capsys, verb):
    assert main.main(["help", verb]) == 0 and f"usage: toolkit {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--tasks", "--annotations"])
def test_help_on_a_kind_of_evaluation(capsys, option):
    assert main.main(["evaluate", option, "--help"]) == 0
    assert option in capsys.readouterr().out.partition("\n\n")[0]


def test_report_creates_the_folder_of_its_output(runs, monkeypatch):
    written = []
    monkeypatch.setattr("toolkit.report.page.write_report", lambda runs, output, **_: written.append(output))
    assert main.main(["report", "runs/t", "--output", "new/folder/page.html"]) == 0
    assert written == [Path("new/folder/page.html")] and Path("new/folder").is_dir()


def test_brackets_in_names_are_no_markup(runs, capsys):
    name = "t/m[b]llama[/INST]"
    make(tokenizer(name), runs)
    assert main.main(["verify", f"runs/{name}"]) == 0 and main.main(["runs"]) == 0
    captured = capsys.readouterr()
    assert name in captured.out and "m[b]llama[/INST]" in captured.err
    console = Console(markup=False, width=80)
    with console.capture() as capture:
        console.print(number_table(name, [name], []))
    assert capture.get().count("m[b]llama[/INST]") == 2


def test_damaged_metrics_are_named_before_the_stage_begins(runs, capsys):
    recipe = Path("recipe.yaml")
    recipe.write_text("stage: tokenizer\nrun: t/broken\ndata: {name: storyworld, examples: 3}\n")
    with open_run(tokenizer("t/broken"), runs_dir=runs) as run:
        run.metrics.log(1, loss=1.0)
    metrics = runs / "t/broken/metrics.jsonl"
    metrics.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    assert main.main(["run", str(recipe)]) == 1
    assert f"{Path('runs/t/broken/metrics.jsonl')}:2: the line is damaged" in capsys.readouterr().err
