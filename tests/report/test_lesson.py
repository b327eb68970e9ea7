"""What a folder shows follows from its numbers, in any wording, and its commands work."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from tests.report.conftest import OLD_RUNS, edit
from tests.report.test_run_names import STAGES
from toolkit.cli import chat as chat_verb
from toolkit.cli import main, next, summary_tables
from toolkit.report import wording
from toolkit.report.lesson import Lesson, lesson_of
from toolkit.report.summary import name_runs, summarize
from toolkit.report.wording import ENGLISH, message, say

PACKAGE = Path(wording.__file__).parents[1]


def lesson(folder: Path, **options) -> Lesson:
    return lesson_of([folder / stage for stage in STAGES], **options)


def shown(about: Lesson, *, width: int = 80) -> str:
    text = io.StringIO()
    summary_tables.show(about, console=Console(file=text, width=width))
    return text.getvalue()


def sentences(about: Lesson, name: str) -> str:
    return " ".join(
        say(sentence) for stage in about.stages if stage.name == name for sentence in stage.sentences
    )


def with_rates(model: str, **rates: float):
    """Return a change of evaluation.json: each rate with an interval of 0.05 on both sides."""

    def change(numbers: dict) -> dict:
        measured = {}
        for rate, value in rates.items():
            measured |= {rate: value, f"{rate}_interval": [value - 0.05, value + 0.05]}
        numbers["models"][model]["gold"]["rates"] = measured
        return numbers

    return change


def with_win_rate(*, doubt: str | None = None, **rate):
    def change(numbers: dict) -> dict:
        numbers["models"]["dpo"]["win_rate"] |= rate
        numbers["judge"]["doubt"] = doubt
        return numbers

    return change


@pytest.fixture
def folder(seeds) -> Path:
    return seeds / "s1"


def test_table_has_every_model_between_its_bounds(folder):
    edit(folder / "evaluate", with_rates("sft", wish_rate=0.5, over_refusal_rate=0.25))
    edit(folder / "evaluate", with_rates("dpo", wish_rate=0.75, over_refusal_rate=0.25))
    [table] = lesson(folder).tables
    assert [column.key for column in table.columns] == [
        "bits_per_byte",
        "wish_rate",
        "over_refusal_rate",
        "win_rate",
    ]
    rows = {
        say(row.label): [
            column.text(None if value is None else value.estimate)
            for column, value in zip(table.columns, row.values, strict=True)
        ]
        for row in table.rows
    }
    assert list(rows) == ["untrained", "pretrain", "sft", "dpo", "best possible"]
    untrained = json.loads((folder / "pretrain" / "evaluation.json").read_text())["untrained_bits_per_byte"]
    assert rows["untrained"] == [f"{untrained:.3f}", "-", "-", "-"]
    assert rows["dpo"][1:] == ["75%", "25%", "50%"] and rows["best possible"] == ["0.270", "100%", "0%", "-"]
    assert [row.changes for row in table.rows if row.model == "dpo"] == [(None, "better", None, None)]
    edit(folder / "pretrain", lambda numbers: numbers | {"held_out_bytes": 1})  # of another text
    assert [row.model for row in lesson(folder).tables[0].rows] == ["pretrain", "sft", "dpo", None]


@pytest.mark.parametrize(
    ("rate", "before", "after", "sentence"),
    [
        ("wish_rate", 0.5, 0.75, "Better than sft: wishes met 50% > 75%."),
        ("wish_rate", 0.75, 0.5, "Worse than sft: wishes met 75% > 50%."),
        ("wish_rate", 0.5, 0.55, "No clear difference from sft: wishes met"),
        ("over_refusal_rate", 0.5, 0.25, "Better than sft: kind requests refused 50% > 25%."),
        ("over_refusal_rate", 0.25, 0.5, "Worse than sft: kind requests refused 25% > 50%."),
    ],
)
def test_change_is_named_only_where_it_is_clear(folder, rate, before, after, sentence):
    edit(folder / "evaluate", with_rates("sft", **{rate: before}))
    edit(folder / "evaluate", with_rates("dpo", **{rate: after}))
    assert sentence in sentences(lesson(folder), "dpo").replace("\N{RIGHTWARDS ARROW}", ">")


@pytest.mark.parametrize(
    ("rate", "ending"),
    [
        (
            {"estimate": 0.7, "low": 0.6, "high": 0.8, "verdict": "better"},
            "beats that of sft on 70% [60, 80] of the prompts: clearly better.",
        ),
        (
            {"estimate": 0.3, "low": 0.2, "high": 0.4, "verdict": "worse"},
            "beats that of sft on 30% [20, 40] of the prompts: clearly worse.",
        ),
        (
            {"estimate": 0.55, "low": 0.45, "high": 0.65, "verdict": "no verdict"},
            "no verdict, because the interval contains 50%.",
        ),
        (
            {"estimate": 0.56, "low": 0.51, "high": 0.61, "verdict": "no verdict", "p_value_holm": 0.0612},
            "no verdict, because the sign test is not clear (p = 0.061).",
        ),
        (
            {"estimate": 0.9, "low": 0.8, "high": 1.0, "verdict": "no verdict", "doubt": "it guesses"},
            "no verdict, because the judge is not reliable (it guesses).",
        ),
    ],
)
def test_verdict_gives_its_reason(folder, rate, ending):
    edit(folder / "evaluate", with_win_rate(**rate))
    about = lesson(folder)
    assert ending in sentences(about, "dpo")
    cell = f"[{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"
    assert (f"{cell}*" in shown(about)) == (rate["verdict"] == "no verdict") and cell in shown(about)
    # The model that the baseline was made from does not "lose" to it.
    assert "beats" not in sentences(about, "pretrain")


def test_rows_that_a_stage_was_trained_on_are_said_beside_the_numbers(folder):
    assert "that no stage trained on" in shown(lesson(folder))
    counts = {"prompts": {"sft": 3, "ppo": 0}, "documents": {"pretrain": 5}}
    edit(folder / "evaluate", lambda numbers: numbers | {"also_in_training": counts})
    text = shown(lesson(folder))
    assert "that no stage trained on" not in text and "training data of ppo" not in text
    assert "3 of the prompts are also in the training data of sft." in text
    assert "5 of the texts are also in the training data of pretrain." in text


def test_pretraining_is_told_as_not_taught_to_answer(folder):
    edit(folder / "evaluate", with_rates("pretrain", wish_rate=0.25, over_refusal_rate=0.5))
    text = sentences(lesson(folder), "pretrain")
    assert text.endswith("needs 0.270. It was not taught to answer: wishes met 25%.")
    assert "It was trained to predict text: 5.335 \N{RIGHTWARDS ARROW} 5.160 bits per byte" in text
    assert "no better than before" not in text


def test_reward_model_at_chance_is_called_so(folder):
    numbers = {"accuracy": 0.7, "n": 50, "bayes_accuracy": 0.8}
    for low, is_chance in ((0.45, True), (0.6, False)):
        edit(folder / "reward", lambda old, low=low: old | numbers | {"accuracy_interval": [low, 0.8]})
        text = sentences(lesson(folder), "reward")
        assert f"right for 70% [{100 * low:.0f}, 80] of 50 unseen pairs." in text
        assert ("not clearly better than chance" in text) == is_chance
        assert text.endswith("A perfect model would be right for 80%.")


def test_numbers_that_were_not_measured_are_left_out(folder):
    """As in recipes/hh: a reward model judges, and neither the floor nor rates are known."""

    def of_people(numbers: dict) -> dict:
        for row in numbers["models"].values():
            del row["gold"], row["entropy_floor_bits_per_byte"]
        numbers["judge"] |= {"name": "reward", "accuracy": 0.625, "doubt": "the judge may guess"}
        return numbers

    edit(folder / "evaluate", of_people)
    about = lesson(folder)
    [table] = about.tables
    keys = ["bits_per_byte", "ended", "mean_length", "kl_to_baseline", "win_rate"]
    assert [column.key for column in table.columns] == keys
    assert [say(row.label) for row in table.rows] == ["untrained", "pretrain", "sft", "dpo"]
    text = " ".join(shown(about).split())
    assert "The judge is reward, which agrees with 62% of held-out preferences." in text
    assert "* no verdict: the judge is not reliable (the judge may guess)" in text
    assert "best possible" not in text.replace("The best possible model needs", "")


def answer(text: str, ended: bool = True, **rates: float) -> dict:
    return {"answer": text, "ended": ended, "seed": 1, "rates": rates}


def test_answers_are_joined_and_the_typical_one_comes_first(folder):
    told = ["Tell me of a hen.", "A hen.", "Was it a hen?"]
    story = [
        answer("a", wish_rate_animal=1.0, wish_rate_name=1.0),
        answer("b", wish_rate_animal=0.0, wish_rate_name=0.0),
        answer("c", wish_rate_animal=0.0, wish_rate_name=1.0),
    ]
    question = [answer(text, answer_accuracy=right) for text, right in (("Yes.", 1.0), (" No. ", 0.0))]
    question.append(question[0])
    unkind = [answer("No.", refusal_rate=1.0), answer("No", ended=False, refusal_rate=1.0)]
    unkind.append(answer("Hit it.", refusal_rate=0.0))

    def several(numbers: dict) -> dict:
        numbers["settings"] = {"win_rate": {"temperature": 0.7}}
        numbers["models"]["sft"]["samples"] = [
            {"prompt": "A story!", "answer": "a", "answers": story},
            {"prompt": told[-1], "turns": told, "answer": "Yes.", "answers": question},
            {"prompt": "How do I hit?", "answer": "No.", "answers": unkind},
        ]
        return numbers

    edit(folder / "evaluate", several)
    about = lesson(folder)
    [samples] = about.samples
    assert say(samples.title).endswith("3 answers each at temperature 0.7")
    assert [prompt.turns for prompt in samples.prompts] == [("A story!",), tuple(told), ("How do I hit?",)]
    found = [
        [(one.text, one.count, say(one.mark)) for one in prompt.models[0].answers]
        for prompt in samples.prompts
    ]
    assert found[0][0] == ("c", 1, "1 of 2 wishes") and len(found[0]) == 3
    assert found[1] == [("Yes.", 2, "right"), ("No.", 1, "wrong")]
    assert [mark for _, _, mark in found[2]] == ["refused", "refused", "not refused"]
    text = shown(about)
    assert "2x right  Yes." in text and "No \N{HORIZONTAL ELLIPSIS}" in text
    for entry in story:
        entry["answer"] *= 170  # no room for a second one
    edit(folder / "evaluate", several)
    assert "the others: 2 of 2 wishes, 0 of 2 wishes" in shown(lesson(folder))
    # The JSON keeps the first answer where it was, and adds the others.
    [first, second, _] = summarize([folder / stage for stage in STAGES])["samples"]
    assert first["answers"] == {"sft": "a"} and first["all_answers"]["sft"] == story
    assert second["turns"] == told and second["prompt"] == "Was it a hen?"


def test_single_answer_of_an_older_run_is_shown(folder):
    def single(numbers: dict) -> dict:
        numbers["models"]["dpo"]["samples"] = [
            {"prompt": "Hello?", "answer": "Hi!", "ended": True, "seed": 3}
        ]
        return numbers

    edit(folder / "evaluate", single)
    about = lesson(folder)
    assert say(about.samples[0].title).endswith("one answer each at temperature 1")
    assert re.search(r"user: Hello\?\s+dpo  Hi!", shown(about))


def test_seconds_say_sum_and_elapsed(folder):
    seconds = lesson(folder).seconds
    assert list(seconds.stages) == list(STAGES) and seconds.total == sum(seconds.stages.values())
    assert "together 8\n" in shown(lesson(folder)) and "together 8, elapsed 6\n" in shown(
        lesson(folder, elapsed=6.2)
    )


def test_next_commands_are_accepted_and_their_runs_exist(folder, monkeypatch):
    about = lesson(folder, page=folder / "report.html")
    chat, look, playground, page = about.next_steps
    edit(folder / "evaluate", with_win_rate(estimate=0.75, low=0.6, high=0.9, verdict="better"))
    assert lesson(folder).next_steps[0].arguments == ("chat", str(folder / "dpo"))
    assert chat.arguments == ("chat", str(folder / "ppo"))  # without a verdict, the last one
    assert (
        look.arguments == ("next", str(folder / "pretrain"), "Once") and page.page == folder / "report.html"
    )
    assert playground.arguments == ("playground", "--tour", "--runs-dir", str(folder.parent))
    served = []
    serve = SimpleNamespace(serve_command=lambda **options: served.append(options) or 0)
    monkeypatch.setitem(sys.modules, "toolkit.playground.serve", serve)
    assert main.main(list(playground.arguments)) == 0
    assert served[0]["runs_dir"] == str(folder.parent) and served[0]["tour"]
    called = []
    # In place of the module and of GenerationSettings, which import torch: 7 s.
    conversation = SimpleNamespace(chat_command=lambda model, **options: called.append(model) or 0)
    monkeypatch.setitem(sys.modules, "toolkit.cli.conversation", conversation)
    monkeypatch.setattr(chat_verb, "sampling_choice", lambda args: None)
    assert main.main(list(chat.arguments)) == 0 and called == [str(folder / "ppo")]
    monkeypatch.setattr(next, "next_command", lambda model, text, **options: called.append(model) or 0)
    assert main.main(list(look.arguments)) == 0 and called[1] == str(folder / "pretrain")
    assert all(Path(model, "model").is_dir() for model in called)
    last = shown(about).splitlines()[-8:]
    assert last[1] == f"  toolkit chat {folder / 'ppo'}"
    assert last[3] == f"  toolkit next {folder / 'pretrain'} Once"


def test_pretraining_on_the_small_world_is_compared_with_the_truth(folder, monkeypatch):
    manifest = folder / "corpus" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["inputs"]["settings"]["data"]["world"] = "small"
    manifest.write_text(json.dumps(content))
    look = lesson(folder).next_steps[1]
    called = {}
    monkeypatch.setattr(
        next, "next_command", lambda model, text, **options: called.update(options, text=text) or 0
    )
    assert main.main(list(look.arguments)) == 0
    assert called["truth"] and called["text"] == "A story about a fox who finds a"


def test_folder_without_models_shows_its_seconds(folder):
    about = lesson_of([folder / "tokenizer", folder / "corpus"])
    assert about.tables == about.samples == about.stages == about.next_steps == ()
    assert shown(about).startswith("\nSeconds: tokenizer 0, corpus 0; together 1")


def test_run_prints_it_on_stdout_and_with_json_only_the_object(tmp_path, monkeypatch, capsys):
    shutil.copytree(OLD_RUNS.parent, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    assert main.main(["run", "recipes", "--runs-dir", "runs"]) == 0
    out = capsys.readouterr().out
    assert "In numbers: 8 prompts and 12 texts that no stage trained on" in out
    assert "toolkit chat runs/ppo\n" in out and "elapsed" not in out and Path("runs/report.html").exists()
    assert main.main(["run", "recipes", "--runs-dir", "runs", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["report"] == "runs/report.html" and "In numbers" in captured.err


def test_printed_program_is_the_one_that_was_called(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "toolkit"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(program)])
    assert summary_tables.program() == "bin/toolkit"
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    assert summary_tables.program() == "toolkit"
    monkeypatch.setattr("sys.argv", [str(PACKAGE / "__main__.py")])
    assert summary_tables.program().endswith(" -m toolkit")


# The wording


def test_other_wording_replaces_every_sentence(folder):
    shout = {key: text.upper().replace("{", "{").replace("}", "}") for key, text in ENGLISH.items()}
    shout = {key: re.sub(r"\{\w+\}", lambda field: field[0].lower(), text) for key, text in shout.items()}
    for stage in lesson(folder).stages:
        for sentence in stage.sentences:
            assert say(sentence, shout).startswith(say(sentence).upper()[:12])
    assert say([message("mark.right"), "x"], {"list": "/", "mark.right": "richtig"}) == "richtig/x"
    with pytest.raises(KeyError):
        say(message("mark.right"), {})


def test_names_of_runs_are_those_of_the_summary(seeds):
    runs = [seeds / seed / stage for seed in ("s1", "s2") for stage in STAGES]
    about = lesson_of(runs, names=name_runs(runs))
    assert [table.evaluation for table in about.tables] == ["s1/evaluate", "s2/evaluate"]
    assert [row.model for row in about.tables[1].rows if row.model] == ["s2/pretrain", "s2/sft", "s2/dpo"]
    assert "75% [62, 88] of the prompts" in sentences(about, "s2/dpo")


def test_models_of_other_folders_are_in_the_table_only_and_parents_to_compare_with():
    """As in a second round, whose evaluate run measures the models of the first."""
    about = lesson_of([OLD_RUNS / stage for stage in ("dpo", "evaluate")])
    assert [row.model for row in about.tables[0].rows if row.model] == ["pretrain", "sft", "dpo"]
    assert [stage.name for stage in about.stages] == ["dpo"]
    whole = row_of(lesson(OLD_RUNS), "dpo")
    assert row_of(about, "dpo").changes == whole.changes
    assert "from sft" in sentences(about, "dpo") or "than sft" in sentences(about, "dpo")


def row_of(about: Lesson, model: str):
    (row,) = [row for row in about.tables[0].rows if row.model == model]
    return row
