"""The preferences stage: real models answer, an annotator compares, and interruptions change no byte."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest
import torch
import yaml

from toolkit.base.errors import RecipeError, RunError, ToolkitError
from toolkit.config import loader
from toolkit.config.schema import AnnotatorSettings, ModelSettings
from toolkit.data.chat import sources
from toolkit.execution import runner
from toolkit.models import gpt2, loading
from toolkit.preferences import answering
from toolkit.preferences.annotating import ShownPair, Verdict, annotate, best_and_worst
from toolkit.preferences.answering import Answer
from toolkit.preferences.stage import best_answers
from toolkit.runs import references
from toolkit.runs.evaluation import read
from toolkit.runtime import signals
from toolkit.stages.tokenizer import learn
from toolkit.storyworld import SMALL, preference_probability, split_of

OUTPUTS = ("preferences.jsonl", "ties.jsonl", "best.jsonl", "evaluation.json")
TIMEOUT_SECONDS = 200
UNDECIDED = {"biases": {"length": 1e-6}}
"""Untrained models give answers of equal utility, which are ties. With this annotator they are preferences,
about as often for one answer as for the other."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with two untrained models, `a` and `b`, over the words of the small world."""
    root = tmp_path_factory.mktemp("models")
    texts = (row["text"] + " " for row in SMALL.rows("turns", 0, "train", 300))
    tokenizer = learn(texts, vocab_size=600)
    settings = ModelSettings(n_layer=1, n_head=2, n_embd=16, n_positions=256)
    for seed, name in enumerate("ab"):
        model = gpt2.build(
            settings, vocab_size=len(tokenizer), seed=seed, end_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
        )  # fmt: skip
        with torch.no_grad():  # far from uniform: the two models answer differently
            for parameter in model.transformer.parameters():
                parameter.mul_(3.0)
        loading.save_model(model, tokenizer, root / name)
    return root


@pytest.fixture
def write_recipe(models, tmp_path):
    """Return a function that writes a recipe and returns its path."""

    def write(name="preferences", **settings) -> Path:
        recipe = {
            "stage": "preferences",
            "run": f"t/{name}",
            "models": [str(models / "a")],
            "data": {"name": "storyworld", "world": "small", "config": "prompts", "examples": 24},
            "max_new_tokens": 12,
            "batch_examples": 5,
            "threads": 1,
            "annotator": UNDECIDED,
            **settings,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in recipe.items() if value is not None}))
        return path

    return write


def run_recipe(path: Path, runs_dir: Path) -> Path:
    outcome = runner.run_recipes(path, runs_dir=runs_dir)
    assert outcome.status == 0
    return outcome.runs[0]


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class LengthJudge:
    """Scores an answer by its characters."""

    tie = 0.0

    def score(self, prompts, answers, ended):
        return [float(len(answer)) for answer in answers]


def test_best_with_worst_pairs_the_highest_and_the_lowest_score():
    texts = [["bb", "cccc", "a", "ddd"], ["xx", "y", "zzz", "w"]]
    answers = [[Answer(text, "m", ended=text != "zzz") for text in row] for row in texts]
    pairs = best_and_worst([[], []], answers, LengthJudge(), seed=0)
    chosen = [{pair.first.text: pair.scores[0], pair.second.text: pair.scores[1]} for pair in pairs]
    assert chosen == [{"cccc": 4.0, "a": 1.0}, {"xx": 2.0, "y": 1.0}]  # "zzz" was cut off
    orders = [
        pair.first.text == "cccc"
        for pair in best_and_worst([[]] * 40, [answers[0]] * 40, LengthJudge(), seed=0)
    ]
    assert 8 < sum(orders) < 32
    settings = AnnotatorSettings(temperature=0)
    verdicts = annotate(pairs, LengthJudge(), settings, seed=0)
    assert [verdict.value for verdict in verdicts] == [
        float(pair.scores[0] > pair.scores[1]) for pair in pairs
    ]
    assert [verdict.scores for verdict in verdicts] == [pair.scores for pair in pairs]


def test_an_answer_that_ends_within_its_thought_is_never_better_than_one_that_answers():
    given = [
        Answer("<think>" + "long" * 9, "m", ended=False, unfinished=True),
        Answer("short", "m", ended=True),
    ]
    [pair] = best_and_worst([[]], [given], LengthJudge(), seed=0)
    assert {pair.first.text: pair.scores[0], pair.second.text: pair.scores[1]} == {
        "short": 5.0, given[0].text: 0.0,
    }  # fmt: skip
    [verdict] = annotate(
        [replace(pair, scores=None)], LengthJudge(), AnnotatorSettings(temperature=0), seed=0
    )
    assert verdict.value == float(pair.first.text == "short")


def test_best_with_worst_gives_one_pair_for_each_prompt(write_recipe, tmp_path):
    recipe = write_recipe(answers_per_prompt=3, compare="best_with_worst", annotator=UNDECIDED)
    run = run_recipe(recipe, tmp_path / "runs")
    rows, ties = read_lines(run / "preferences.jsonl"), read_lines(run / "ties.jsonl")
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["answers"] == 72 and evaluation["pairs"] == 24 == len(rows) + len(ties)
    best = {json.dumps(row["prompt"]): row for row in read_lines(run / "best.jsonl")}
    assert rows
    for row in rows:
        scores = {row[side][0]["content"]: row[f"utility_{side}"] for side in ("chosen", "rejected")}
        kept = best[json.dumps(row["prompt"])]
        assert scores[kept["completion"][0]["content"]] == max(scores.values()) or not kept["ended"]


def test_preferences_follow_the_annotator_and_count_everything(write_recipe, models, tmp_path):
    run = run_recipe(write_recipe(answers_per_prompt=4), tmp_path / "runs")
    rows, ties = read_lines(run / "preferences.jsonl"), read_lines(run / "ties.jsonl")
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert read(run, "preferences").to_json() == evaluation and read(run, "preferences").extra == {}
    assert evaluation["prompts"] == 24 and evaluation["answers"] == 96 and evaluation["pairs"] == 48
    assert evaluation["preferences"] == len(rows) and evaluation["ties"] == len(ties)
    assert len(rows) + len(ties) == 48 and evaluation["unjudged"] == 0
    for row in rows:
        assert split_of(row["prompt"]) == "train"
        for side in ("chosen", "rejected"):
            text = row[side][0]["content"]
            assert row[f"utility_{side}"] == SMALL.utility(row["prompt"], text).total == row[f"score_{side}"]
            assert row[f"model_{side}"] == str(models / "a")
        difference = row["utility_chosen"] - row["utility_rejected"]
        assert row["probability"] == pytest.approx(preference_probability(difference, 1.0), abs=1e-5)
    for row in ties:
        chosen, rejected = word_counts(row)
        assert row["utility_chosen"] == row["utility_rejected"] and chosen == rejected
    best = read_lines(run / "best.jsonl")
    assert len(best) == 24
    for row in best:
        scores = [
            SMALL.utility(pair["prompt"], pair[side][0]["content"]).total
            for pair in rows + ties
            if pair["prompt"] == row["prompt"]
            for side in ("chosen", "rejected")
        ]
        assert SMALL.utility(row["prompt"], row["completion"][0]["content"]).total == max(scores)


def word_counts(row: dict) -> tuple[int, int]:
    return len(row["chosen"][0]["content"].split()), len(row["rejected"][0]["content"].split())


def test_a_cut_off_answer_is_the_best_only_if_all_are():
    prompt = [{"role": "user", "content": "Why?"}]
    short, cut = Answer("Because.", "m", ended=True), Answer("Because it is so that", "m", ended=False)
    for given, best in (([cut, short], short), ([cut, cut], cut)):
        verdict = Verdict(1.0, 1.0, (9.0, 1.0))
        [row] = best_answers([prompt], [given], [ShownPair(prompt, *given)], [verdict])
        assert row["completion"][0]["content"] == best.text and row["ended"] == best.ended


def test_equally_good_answers_are_a_tie_at_every_temperature(write_recipe, tmp_path):
    run = run_recipe(write_recipe(annotator={"temperature": 1.0}), tmp_path / "runs")
    rows, ties = read_lines(run / "preferences.jsonl"), read_lines(run / "ties.jsonl")
    assert all(row["utility_chosen"] != row["utility_rejected"] for row in rows)
    assert ties and all(row["utility_chosen"] == row["utility_rejected"] for row in ties)
    assert any(row["chosen"] != row["rejected"] for row in ties)


def test_a_temperature_of_zero_always_prefers_the_higher_score(write_recipe, tmp_path):
    """Untrained models give answers of equal utility, so that the bias decides."""
    annotator = {"temperature": 0, "biases": {"length": 1.0}}
    run = run_recipe(write_recipe(annotator=annotator), tmp_path / "runs")
    rows, ties = read_lines(run / "preferences.jsonl"), read_lines(run / "ties.jsonl")

    def liked(row: dict) -> float:
        chosen, rejected = word_counts(row)
        return row["utility_chosen"] + chosen - row["utility_rejected"] - rejected

    assert rows and all(liked(row) > 0 for row in rows)
    assert all(liked(row) == 0 for row in ties)
    assert len(rows) + len(ties) == 24


def test_planted_biases_show_in_the_audit(write_recipe, tmp_path):
    audits = {}
    for name, biases in (("none", {}), ("length", {"length": 50.0}), ("first", {"first": 500.0})):
        path = write_recipe(name, annotator={"temperature": 1.0, "biases": biases or UNDECIDED["biases"]})
        run = run_recipe(path, tmp_path / "runs")
        audits[name] = json.loads((run / "evaluation.json").read_text())
        if name == "length":
            pairs = [word_counts(row) for row in read_lines(run / "preferences.jsonl")]
            assert all(chosen >= rejected for chosen, rejected in pairs)
            assert any(chosen > rejected for chosen, rejected in pairs)
    assert audits["length"]["longer_preferred"] > audits["none"]["longer_preferred"] + 0.1
    assert audits["first"]["first_preferred"] == 1.0 > audits["none"]["first_preferred"]


def test_several_models_are_compared_with_each_other(write_recipe, models, tmp_path):
    names = [str(models / "a"), str(models / "b")]
    run = run_recipe(write_recipe(models=names), tmp_path / "runs")
    for row in read_lines(run / "preferences.jsonl"):
        assert {row["model_chosen"], row["model_rejected"]} == set(names)
    assert set(json.loads((run / "evaluation.json").read_text())["models"]) == set(names)


def test_a_run_of_preferences_is_data_with_lineage(write_recipe, models, tmp_path):
    """reward and dpo read it, its seal is a parent's digest, and a tenth of it is held out."""
    data = {"name": "storyworld", "world": "small", "config": "prompts", "examples": 120}
    run = run_recipe(write_recipe(data=data, max_new_tokens=4, batch_examples=64), tmp_path / "runs")
    path = tmp_path / "dpo.yaml"
    path.write_text(yaml.safe_dump({
        "stage": "dpo", "run": "t/dpo", "model": str(models / "a"), "data": {"name": "runs/t/preferences"},
        "batch_examples": 16, "micro_batch_examples": 16, "threads": 1,
        "trainer": {"max_steps": 1, "max_length": 128},
    }))  # fmt: skip
    recipe = references.with_data_files(loader.load(path).recipe, runs_dir=tmp_path / "runs")
    parts = {
        part: sources.preferences(recipe.data, part=part, seed=0) for part in ("train", "held_out", "all")
    }
    assert len(parts["all"]) == len(read_lines(run / "preferences.jsonl"))
    assert len(parts["train"]) + len(parts["held_out"]) == len(parts["all"])
    assert 0 < len(parts["held_out"]) < 0.3 * len(parts["all"])
    assert {"utility_chosen", "probability"} <= set(parts["train"].column_names)
    trained = run_recipe(path, tmp_path / "runs")
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["inputs"]["parents"]["data"]["path"] == "../preferences"
    assert manifest["inputs"]["data"] == {}
    sft = tmp_path / "sft.yaml"
    sft.write_text(yaml.safe_dump({
        "stage": "sft", "run": "t/sft", "model": str(models / "a"), "threads": 1,
        "data": {"name": "runs/t/preferences/best.jsonl"}, "batch_examples": 8, "micro_batch_examples": 8,
        "trainer": {"max_steps": 1, "max_length": 128},
    }))  # fmt: skip
    run_recipe(sft, tmp_path / "runs")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": None}, "models: is required, unless the annotator is a file of votes"),
        ({"answers_per_prompt": 3}, "answers_per_prompt: must be even, not 3"),
        ({"compare": "best_with_worst"}, "best_with_worst chooses among at least 3 answers"),
        (
            {
                "compare": "best_with_worst",
                "answers_per_prompt": 3,
                "annotator": {"judge": "http://127.0.0.1:1/v1", "judge_model": "m"},
            },
            "compare: best_with_worst needs scores",
        ),
        ({"annotator": {"judge": "votes.jsonl"}}, "models: has no effect: the file of votes holds the pairs"),
        ({"data": {"name": "a.jsonl"}}, "gold judges answers to storyworld's prompts only"),
        (
            {"annotator": {"judge": "http://127.0.0.1:1/v1", "judge_model": "m", "temperature": 2.0}},
            "annotator.temperature: has an effect only with gold or a reward model",
        ),
        (
            {"annotator": {"judge": "http://127.0.0.1:1/v1"}},
            "annotator.judge: is an endpoint: name its model in judge_model",
        ),
        ({"data": {"name": "storyworld", "config": "stories", "examples": 2}}, "data.config: must be"),
    ],
)
def test_contradictions_are_refused_by_check(write_recipe, settings, message):
    with pytest.raises(RecipeError) as caught:
        loader.load(write_recipe(**settings))
    assert message in str(caught.value)


class Judge:
    """A real endpoint that prefers the longer answer and counts every question."""

    def __init__(self):
        self.questions: list[str] = []
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = body["messages"][-1]["content"]
                judge.questions.append(text)
                first, second = text.partition("[Answer A]")[2].split("[Answer B]")
                letter = "A" if len(first) > len(second.rpartition("Which is better?")[0]) else "B"
                reply = json.dumps({"choices": [{"message": {"content": letter}}]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def judge():
    judge = Judge()
    yield judge
    judge.server.shutdown()


def test_an_endpoint_is_asked_each_question_once(write_recipe, judge, tmp_path):
    annotator = {"judge": judge.url, "judge_model": "length"}
    run = run_recipe(write_recipe(annotator=annotator, threads=1), tmp_path / "runs")
    rows = read_lines(run / "preferences.jsonl")
    assert len(judge.questions) == len(set(judge.questions)) > 0
    assert rows and all("probability" not in row and "score_chosen" not in row for row in rows)
    longer = [len(row["chosen"][0]["content"]) >= len(row["rejected"][0]["content"]) for row in rows]
    assert all(longer)


def test_votes_are_preferences_without_ties_bad_and_undone_votes(write_recipe, tmp_path, capsys):
    votes = tmp_path / "votes.jsonl"
    pairs = [
        {"prompt": "One?", "answer_a": "yes", "answer_b": "no", "vote": "a"},
        {"prompt": "Two?", "answer_a": "yes", "answer_b": "no", "vote": "b"},
        {"prompt": "Two?", "answer_a": "no", "answer_b": "yes", "vote": "a", "voter": "kim"},
        {"prompt": "Three?", "answer_a": "yes", "answer_b": "no", "vote": "tie"},
        {"prompt": "Four?", "answer_a": "yes", "answer_b": "no", "vote": "bad"},
        {"prompt": "Five?", "answer_a": "yes", "answer_b": "no", "vote": "a", "undone_by": "7"},
        {"prompt": "Six?", "answer_a": "yes", "answer_b": "no", "vote": "a", "kind": "attention"},
    ]
    votes.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    empty = dict.fromkeys(("models", "data", "max_new_tokens", "batch_examples"))
    path = write_recipe(annotator={"judge": str(votes)}, **empty)
    run = run_recipe(path, tmp_path / "runs")
    rows = read_lines(run / "preferences.jsonl")
    answers = {row["prompt"][0]["content"]: row["chosen"][0]["content"] for row in rows}
    assert answers == {"One?": "yes", "Two?": "no"}
    assert [row["votes"] for row in rows] == [1, 2]
    assert [row["prompt"][0]["content"] for row in read_lines(run / "ties.jsonl")] == ["Three?"]
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["left_out"] == {"undone": 1, "attention": 1, "bad": 1} and evaluation["votes"] == 4
    assert "votes left out: 1 undone, 1 attention, 1 bad" in capsys.readouterr().err
    manifest = json.loads((run / "manifest.json").read_text())
    assert list(manifest["inputs"]["data"]) == ["annotator.judge"]


def run_interrupted(path: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch, *, batch: int) -> None:
    """Run a recipe that is interrupted when it begins to sample this batch, counted from 1."""
    sample, calls = answering.sample_batch, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == batch:
            raise KeyboardInterrupt
        return sample(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(answering, "sample_batch", interrupted)
        assert runner.run_recipes(path, runs_dir=runs_dir).status == 130


def test_sampled_answers_are_kept_and_not_replaced_by_other_settings(
    write_recipe, tmp_path, monkeypatch, capsys
):
    path, runs_dir = write_recipe(), tmp_path / "runs"
    run_interrupted(path, runs_dir, monkeypatch, batch=3)
    sample, calls = answering.sample_batch, []
    assert "the same command resumes from the answers sampled so far" in capsys.readouterr().err
    with pytest.raises(RunError, match="made from other inputs"):
        runner.run_recipes(write_recipe(temperature=0.5), runs_dir=runs_dir)
    monkeypatch.setattr(
        answering, "sample_batch", lambda *given, **options: calls.append(1) or sample(*given, **options)
    )
    resumed = run_recipe(write_recipe(), runs_dir)
    assert len(calls) == 3  # two of five batches were sampled before
    assert len(read_lines(resumed / "best.jsonl")) == 24


def test_batches_hold_each_prompt_once_and_prompts_of_similar_length(write_recipe):
    recipe = loader.load(write_recipe()).recipe
    prompts = [row["prompt"] for row in sources.prompts(recipe.data, part="train", seed=recipe.seed)]
    batches = answering.batches_of(recipe, prompts)
    lengths = [[sum(len(turn["content"]) for turn in prompts[row]) for row in batch] for batch in batches]
    assert sorted(row for batch in batches for row in batch) == list(range(24))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 4]
    assert all(min(longer) >= max(shorter) for longer, shorter in pairwise(lengths))


def test_sampled_batch_of_other_prompts_is_sampled_again(write_recipe, tmp_path, monkeypatch):
    """As after a change of the toolkit that forms other batches."""
    path, runs_dir = write_recipe(), tmp_path / "runs"
    undisturbed = run_recipe(path, tmp_path / "undisturbed")
    run_interrupted(path, runs_dir, monkeypatch, batch=2)
    written = runs_dir / "t" / "preferences" / ".scratch" / "answers" / "0-000000.json"
    content = json.loads(written.read_text())
    written.write_text(json.dumps({**content, "prompts": content["prompts"][::-1]}))
    resumed = run_recipe(path, runs_dir)
    assert all((resumed / name).read_bytes() == (undisturbed / name).read_bytes() for name in OUTPUTS)


@pytest.mark.parametrize("place", [0.5, 0.9])
def test_damaged_batch_is_sampled_again(write_recipe, tmp_path, monkeypatch, capsys, place):
    path, runs_dir = write_recipe(), tmp_path / "runs"
    undisturbed = run_recipe(path, tmp_path / "undisturbed")
    run_interrupted(path, runs_dir, monkeypatch, batch=2)
    written = runs_dir / "t" / "preferences" / ".scratch" / "answers" / "0-000000.json"
    content = bytearray(written.read_bytes())
    content[int(place * len(content))] ^= 1
    written.write_bytes(content)
    resumed = run_recipe(path, runs_dir)
    assert "0-000000.json" in capsys.readouterr().err
    assert all((resumed / name).read_bytes() == (undisturbed / name).read_bytes() for name in OUTPUTS)


def test_workers_write_the_same_bytes(models, write_recipe, tmp_path):
    both = [str(models / "a"), str(models / "b")]
    alone = run_recipe(write_recipe(models=both), tmp_path / "alone")
    together = run_recipe(write_recipe(models=both, workers=3), tmp_path / "together")
    assert all((alone / name).read_bytes() == (together / name).read_bytes() for name in OUTPUTS)


def test_error_in_a_worker_is_reported_as_without_workers(write_recipe, tmp_path):
    """Answers of 256 tokens leave no room for a prompt in a context of 256."""
    messages = []
    for workers in (1, 2):
        path = write_recipe(max_new_tokens=256, workers=workers)
        with pytest.raises(ToolkitError) as caught:
            runner.run_recipes(path, runs_dir=tmp_path / str(workers))
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "no room for a prompt" in messages[0]


def test_death_of_one_worker_stops_the_others_and_fewer_resume(write_recipe, tmp_path, monkeypatch):
    """Fewer workers are not another input: the message says to reduce them."""
    runs_dir, sample = tmp_path / "runs", answering.sample_batch

    def dies(recipe, opened, prompts, batch, **options):
        if batch == answering.batches_of(recipe, prompts)[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return sample(recipe, opened, prompts, batch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(answering, "sample_batch", dies)
        with pytest.raises(ToolkitError, match="a process that samples died, perhaps for lack of memory"):
            runner.run_recipes(write_recipe(workers=2), runs_dir=runs_dir)
    assert multiprocessing.active_children() == []
    resumed = run_recipe(write_recipe(workers=1), runs_dir)
    undisturbed = run_recipe(write_recipe(), tmp_path / "undisturbed")
    assert all((resumed / name).read_bytes() == (undisturbed / name).read_bytes() for name in OUTPUTS)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_signal_to_the_run_ends_its_workers_and_the_same_command_resumes(write_recipe, tmp_path, number):
    data = {"name": "storyworld", "world": "small", "config": "prompts", "examples": 400}
    path = write_recipe(workers=2, data=data, max_new_tokens=100, batch_examples=4)
    process = launch(path, tmp_path / "runs")
    folder = tmp_path / "runs/t/preferences/.scratch/answers"
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(list(folder.glob("*.json"))) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    workers = signals.children(process.pid)
    assert len(workers) == 2
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert b"Traceback" not in err
    while any(Path(f"/proc/{worker}/stat").exists() for worker in workers):  # init reaps them
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(list(folder.glob("*.json"))) < 100
    run = run_recipe(path, tmp_path / "runs")
    assert len(read_lines(run / "best.jsonl")) == 400


def test_workers_need_a_single_thread(write_recipe):
    with pytest.raises(RecipeError, match="workers: need threads: 1"):
        loader.load(write_recipe(workers=2, threads=None))


def launch(path: Path, runs_dir: Path, *, processes: int = 1) -> subprocess.Popen:
    """Start a run in real processes of its own."""
    command = [sys.executable, "-m", "toolkit", "run", str(path), "--runs-dir", str(runs_dir)]
    if processes > 1:
        command[1:2] = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m"]
    return subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_killed_five_times_and_on_two_processes_the_bytes_are_the_same(write_recipe, judge, tmp_path):
    annotator = {"judge": judge.url, "judge_model": "length"}
    data = {"name": "storyworld", "world": "small", "config": "prompts", "examples": 200}
    path = write_recipe(annotator=annotator, data=data, max_new_tokens=40)
    undisturbed = run_recipe(path, tmp_path / "one")
    asked = len(judge.questions)
    assert asked == len(set(judge.questions))

    moments = random.Random(5)
    kills = 0
    while True:
        process = launch(path, tmp_path / "killed")
        started = time.monotonic()
        work = tmp_path / "killed/t/preferences/.scratch/answers"
        target = len(list(work.glob("*.json"))) + moments.randint(1, 6) if kills < 5 else 10**9
        while process.poll() is None and kills < 5:
            judged = work.parent.parent / "judgements.jsonl"
            lines = len(judged.read_bytes().splitlines()) if judged.exists() else 0
            if len(list(work.glob("*.json"))) >= min(target, 40) and (kills < 4 or lines > 50):
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
                break
            assert time.monotonic() - started < TIMEOUT_SECONDS
            time.sleep(0.01)
        process.communicate(timeout=TIMEOUT_SECONDS)
        if process.returncode == 0:
            break
    assert kills == 5
    two = launch(path, tmp_path / "two", processes=2)
    _, errors = two.communicate(timeout=TIMEOUT_SECONDS)
    assert two.returncode == 0, errors.decode()
    for name in OUTPUTS:
        expected = (undisturbed / name).read_bytes()
        assert (tmp_path / "killed/t/preferences" / name).read_bytes() == expected, name
        assert (tmp_path / "two/t/preferences" / name).read_bytes() == expected, name
    # The three runs ask the same questions; a question in flight at the kill is asked again.
    assert len(judge.questions) - 3 * asked <= 8
