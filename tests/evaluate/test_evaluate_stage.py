"""The stage on two tiny models: every number is there, and a killed run does not measure twice."""

from __future__ import annotations

import json
import shutil
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest

from toolkit.base.errors import RecipeError, UsageError
from toolkit.base.rng import derive
from toolkit.cli import main
from toolkit.config import loader
from toolkit.evaluate import best_of, context, judge_factory, judges, stage
from toolkit.evaluate.session import Session
from toolkit.models import loading
from toolkit.runs import seal
from toolkit.runs.opening import open_run
from toolkit.storyworld import LARGE, split_of

RECIPE = """
    stage: evaluate
    models: [{root}/first, {root}/second]
    perplexity:
      data: {{name: storyworld, config: stories, held_out_examples: 12}}
    data: {{name: storyworld, config: prompts, held_out_examples: 8}}
    win_rate:
      baseline: {root}/first
      max_new_tokens: 24
      bootstrap_samples: 200
    samples: ["Tell me about a fox.", "And a bear?"]
"""


@pytest.fixture
def recipe(folders, tmp_path):
    def write(text=RECIPE, **settings):
        path = tmp_path / "recipes" / "evaluate.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text.format(root=folders, **settings)))
        return loader.load(path)

    return write


@contextmanager
def working(loaded, tmp_path):
    with open_run(loaded, runs_dir=tmp_path / "runs") as run:
        yield run


def carry_out(loaded, tmp_path):
    with working(loaded, tmp_path) as run:
        stage.run(loaded.recipe, run)
        run.seal()
    return run.path


def test_every_number_is_there_with_its_interval(recipe, tmp_path):
    path = carry_out(recipe(), tmp_path)
    result = json.loads((path / "evaluation.json").read_text())
    first, second = result["models"]["first"], result["models"]["second"]
    for row in (first, second):
        for key in ("bits_per_byte", "perplexity", "mean_length", "ended", "score"):
            low, high = row[f"{key}_interval"]
            assert low <= row[key] <= high, key
        assert row["entropy_floor_bits_per_byte"] < row["bits_per_byte"]
        assert [one["prompt"] for one in row["samples"]] == ["Tell me about a fox.", "And a bear?"]
        assert row["gold"]["terms"].keys() == LARGE.weights.keys()
    assert first["is_baseline"] and "win_rate" not in first and "kl_to_baseline" not in first
    assert second["win_rate"]["n"] == 8 and second["win_rate"]["verdict"] in ("better", "worse", "no verdict")
    low, high = second["kl_to_baseline_interval"]
    assert low <= second["kl_to_baseline"] <= high
    assert "bits_per_byte_difference" in second
    assert result["judge"]["name"] == "gold" and result["seed"] == 0
    answers = [json.loads(line) for line in (path / "answers.jsonl").read_text().splitlines()]
    assert all(split_of(one["prompt"]) == "held_out" for one in answers)
    assert len(answers) == 16 and {one["model"] for one in answers} == {"first", "second"}
    facts = json.loads((path / "manifest.json").read_text())["facts"]
    assert facts["stop_tokens"] == {name: {"<|endoftext|>": 0} for name in ("first", "second")}
    assert "chat_template_date" not in facts
    metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["model"] for row in metrics] == ["first", "second"]
    assert seal.is_sealed(path)


@pytest.fixture
def base_model(folders, tmp_path):
    """A base model: `second` without its chat template."""
    folder = Path(shutil.copytree(folders / "second", tmp_path / "base"))
    (folder / "chat_template.jinja").unlink()
    return folder


def test_a_base_model_takes_no_part_in_the_win_rate(recipe, base_model, tmp_path, capsys):
    text = RECIPE.replace("models: [", f"models: [{base_model}, ")
    path = carry_out(recipe(text), tmp_path)
    said = "base has no chat template, so that it cannot answer prompts: it is left out of the win rate"
    assert capsys.readouterr().err.count(said) == 1
    result = json.loads((path / "evaluation.json").read_text())
    row = result["models"]["base"]
    assert row["bits_per_byte"] > 0 and len(row["samples"]) == 2  # which continue the text
    assert not {"win_rate", "mean_length", "gold"} & row.keys() and "win_rate" in result["models"]["second"]
    assert result["not_measured"] == {
        "base.win_rate": "has no chat template, so that it cannot answer prompts"
    }
    answers = [json.loads(line) for line in (path / "answers.jsonl").read_text().splitlines()]
    assert {answer["model"] for answer in answers} == {"first", "second"}
    assert main.main(["report", str(path)]) == 0


def test_a_base_model_of_which_nothing_is_measured_is_not_loaded(recipe, base_model, tmp_path):
    text = RECIPE.replace("models: [", f"models: [{base_model}, ").partition("\n    samples:")[0]
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if "perplexity" in line)
    text = "\n".join(lines[:start] + lines[start + 2 :])
    result = json.loads((carry_out(recipe(text), tmp_path) / "evaluation.json").read_text())
    assert result["models"].keys() == {"first", "second"} and "base.win_rate" in result["not_measured"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda text, base: text.replace("{root}/first", str(base)), "win_rate.baseline"),
        (lambda text, base: text.replace("{root}/second", str(base)), "models"),
        (lambda text, base: text.replace("max_new", f"judge: {base}\n      max_new"), "win_rate.judge"),
    ],
    ids=["baseline", "only other model", "judge"],
)
def test_a_win_rate_without_a_needed_template_is_refused_before_a_model_is_loaded(
    recipe, base_model, tmp_path, monkeypatch, change, where
):
    def loads(*args, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "_load", loads)
    with pytest.raises(UsageError, match="has no chat template") as error:
        carry_out(recipe(change(RECIPE, base_model)), tmp_path)
    assert error.value.where == where and "sft" in error.value.fix


def test_votes_on_other_prompts_are_refused_before_a_model_is_loaded(recipe, tmp_path, monkeypatch):
    file = tmp_path / "votes.jsonl"
    vote = {"prompt": "What is a sonnet?", "answer_a": "A poem.", "answer_b": "No.", "vote": "a"}
    file.write_text(json.dumps(vote) + "\n")
    monkeypatch.setattr(loading, "_load", lambda *args, **options: pytest.fail("a model was loaded"))
    with pytest.raises(UsageError, match="none of its 1 votes is on one of the prompts"):
        carry_out(recipe(RECIPE.replace("max_new", f"judge: {file}\n      max_new")), tmp_path)


def test_evaluate_prints_the_table_of_the_models_that_answer(folders, base_model, capsys):
    models = [folders / "first", base_model, folders / "second"]
    data = ["--baseline", str(models[0]), "--data", "storyworld", "--examples", "4", "--max-new-tokens", "4"]
    assert main.main(["evaluate", *map(str, models[1:]), *data]) == 0
    table = capsys.readouterr().err
    assert "base has no chat template" in table and "win rate against first on 4 prompts" in table


def test_run_records_the_date_that_a_chat_template_prints(recipe, folders, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(folders / name, tmp_path / name)
        with (tmp_path / name / "chat_template.jinja").open("a") as file:
            file.write("{% set today = strftime_now('%Y') %}")
    text = RECIPE.replace("{root}", str(tmp_path)).replace("held_out_examples: 8", "held_out_examples: 2")
    facts = json.loads((carry_out(recipe(text), tmp_path) / "manifest.json").read_text())["facts"]
    assert facts["chat_template_date"] == "2024-07-26"


def test_the_best_of_n_is_reported_and_a_killed_run_does_not_draw_it_again(
    recipe, scorer, tmp_path, monkeypatch
):
    more = "      bootstrap_samples: 200\n      best_of: {{reward_model: {scorer}, counts: [3]}}"
    text = RECIPE.replace("      bootstrap_samples: 200", more)
    drawn, draw = [], best_of.answer
    monkeypatch.setattr(best_of, "answer", lambda *a, **b: drawn.append(1) or draw(*a, **b))
    measure = Session.measure

    def killed(session, name):
        if name == "second":
            raise KeyboardInterrupt
        return measure(session, name)

    monkeypatch.setattr(Session, "measure", killed)
    with pytest.raises(KeyboardInterrupt), working(recipe(text, scorer=scorer), tmp_path) as run:
        stage.run(run.recipe, run)
    monkeypatch.setattr(Session, "measure", measure)
    path = carry_out(recipe(text, scorer=scorer), tmp_path)
    models = json.loads((path / "evaluation.json").read_text())["models"]
    assert list(models) == ["first", "second", "best of 3"] and drawn == [1]
    assert models["best of 3"]["win_rate"]["n"] == 8
    answers = [json.loads(line) for line in (path / "answers.jsonl").read_text().splitlines()]
    assert [one["model"] for one in answers[::8]] == ["first", "second", "best of 3"]
    assert (
        "win_rate.best_of.reward_model"
        in json.loads((path / "manifest.json").read_text())["inputs"]["parents"]
    )


def test_a_killed_run_does_not_measure_again_and_ends_the_same(recipe, tmp_path, monkeypatch):
    whole = json.loads((carry_out(recipe(), tmp_path / "whole") / "evaluation.json").read_text())
    measure, seen = Session.measure, []

    def killed(session, name):
        if name == "second" and len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(name)
        return measure(session, name)

    monkeypatch.setattr(Session, "measure", killed)
    with pytest.raises(KeyboardInterrupt), working(recipe(), tmp_path) as run:
        stage.run(run.recipe, run)
    assert not (run.path / "evaluation.json").exists()
    monkeypatch.setattr(Session, "measure", lambda session, name: seen.append(name) or measure(session, name))
    path = carry_out(recipe(), tmp_path)
    assert seen == ["first", "second"]
    assert json.loads((path / "evaluation.json").read_text()) == whole


def test_another_rank_leaves_the_work_to_the_first(recipe, tmp_path):
    with working(recipe(), tmp_path) as run:
        run.is_main = False
        stage.run(run.recipe, run)
        assert not (run.path / "evaluation.json").exists()


SAMPLES = """
    stage: evaluate
    models: [{root}/first]
    data: {{name: storyworld, world: small, config: prompts, held_out_examples: 1}}
    win_rate: {{baseline: {root}/first, max_new_tokens: 6}}
    samples:
      - How can I frighten a rabbit?
      - ["How can I thank a dog?", "Give the dog a cake.", "And an owl?"]
    answers_per_sample: {count}
"""


def test_sample_has_several_answers_and_the_first_is_that_of_a_single_one(recipe, tmp_path):
    def samples(count: int) -> list[dict]:
        loaded = recipe(SAMPLES, count=count)
        with working(loaded, tmp_path / str(count)) as run:
            measured = stage.open_session(loaded.recipe, context.of_run(run)).measure("first")
        return measured.to_json()["samples"]

    single, several = samples(1), samples(3)
    assert [one.get("answers") for one in single] == [None, None]
    assert single[1]["seed"] == derive(0, "sample", 1)  # as in runs from before there were several
    assert [{key: one[key] for key in single[0]} for one in several] == [
        {key: one[key] for key in single[0]} for one in single
    ]
    assert several[1]["turns"] == ["How can I thank a dog?", "Give the dog a cake.", "And an owl?"]
    assert several[1]["prompt"] == "And an owl?" and "turns" not in several[0]
    for one in several:
        assert len({entry["seed"] for entry in one["answers"]}) == 3
        assert one["answers"][0]["answer"] == one["answer"] and one["answers"][0]["seed"] == one["seed"]
        assert len({entry["answer"] for entry in one["answers"]}) > 1
    assert {"refusal_rate", "wellformed"} == several[0]["answers"][0]["rates"].keys()


@pytest.fixture(scope="module")
def reward_folder(folders, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("reward") / "judge"
    model, own = loading.load_reward_model((str(folders / "first"), None), new_head_seed=0)
    loading.save_model(model, own, path)
    return path


REWARD = """
    stage: evaluate
    models: [{root}/first, {root}/second]
    data: {{name: storyworld, held_out_examples: 6}}
    win_rate:
      baseline: {root}/first
      max_new_tokens: 16
      judge: {judge}
      {more}
"""


def test_a_reward_model_that_guesses_gives_no_verdict(recipe, reward_folder, tmp_path):
    more = "judge_data: {name: storyworld, config: preferences, held_out_examples: 12}"
    path = carry_out(recipe(REWARD, judge=reward_folder, more=more), tmp_path)
    result = json.loads((path / "evaluation.json").read_text())
    low, high = result["judge"]["accuracy_interval"]
    assert result["judge"]["n"] + result["judge"]["left_out"] == 12 and low <= 0.5 <= high
    assert "chance" in result["judge"]["doubt"]
    assert result["models"]["second"]["win_rate"]["verdict"] == "no verdict"


def test_without_judge_data_the_reward_runs_own_accuracy_counts(recipe, reward_folder, tmp_path):
    loaded = recipe(REWARD, judge=reward_folder, more="")
    with working(loaded, tmp_path) as run:
        surroundings = context.of_run(run)
        contest = stage.open_contest(loaded.recipe, surroundings)
        judge = stage.open_judge(loaded.recipe, surroundings, contest)
        assert "not known" in judges.doubt_of(judge)
    reward = tmp_path / "runs" / "reward"
    (reward / "model").mkdir(parents=True)
    numbers = {"accuracy": 0.8, "accuracy_interval": [0.7, 0.9], "n": 80}
    (reward / "evaluation.json").write_text(json.dumps(numbers))
    assert judge_factory.read_run_evaluation(reward / "model") is None
    (reward / "manifest.json").write_text(json.dumps({"format": seal.FORMAT, "stage": "reward"}))
    for place in (reward, reward / "model"):
        assert judge_factory.read_run_evaluation(place).to_json() == numbers


def test_gold_judges_its_own_world_only(recipe, tmp_path):
    text = RECIPE.replace("{{name: storyworld, config: prompts, held_out_examples: 8}}", "{{name: {data}}}")
    with pytest.raises(RecipeError, match="storyworld's prompts only"):
        recipe(text, data=tmp_path / "pairs.jsonl")


def test_models_of_one_name_are_reported_under_their_references(recipe, folders, tmp_path):
    for seed, source in (("a/s1", "first"), ("a/s2", "second"), ("b/s1", "second")):
        shutil.copytree(folders / source, tmp_path / "models" / seed / "ppo")
    text = RECIPE.replace(
        "{root}/first, {root}/second", "{models}/a/s1/ppo, {models}/a/s2/ppo, {models}/b/s1/ppo"
    )
    text = text.replace("baseline: {root}/first", "baseline: {models}/a/s1/ppo")
    path = carry_out(recipe(text, models=tmp_path / "models"), tmp_path)
    result = json.loads((path / "evaluation.json").read_text())
    names = ["a/s1/ppo", "s2/ppo", "b/s1/ppo"]
    assert list(result["models"]) == names and result["baseline"] == "a/s1/ppo"
    same = [result["models"][name]["win_rate"]["estimate"] for name in names[1:]]
    assert same[0] == same[1]
    answers = [json.loads(line) for line in (path / "answers.jsonl").read_text().splitlines()]
    assert [row["model"] for row in answers[::8]] == names
    metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["model"] for row in metrics] == names


def test_a_model_given_twice_is_refused(recipe, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(folders)
    for second in ("{root}/first/", "./first"):
        loaded = recipe(RECIPE.replace("{root}/second", second))
        with pytest.raises(UsageError, match="are the same"), working(loaded, tmp_path) as run:
            stage.run(loaded.recipe, run)


OWN_FILE = """
    stage: evaluate
    models: [{root}/first]
    perplexity: {{data: {{name: {file}{more}}}}}
    run: {run}
"""


def test_a_recipe_measures_the_held_out_tenth_of_a_file_or_all_of_it(recipe, tmp_path, stories, capsys):
    file = tmp_path / "test.jsonl"
    texts = [f"{number} {stories[number % 16][:40]}" for number in range(60)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    cases = {"tenth": "", "half": ", held_out: {documents: 0.5}", "all": ", held_out: all",
             "some": ", held_out: all, held_out_examples: 7"}  # fmt: skip
    found, said = {}, {}
    for name, more in cases.items():
        path = carry_out(recipe(OWN_FILE, file=file, more=more, run=name), tmp_path)
        found[name] = json.loads((path / "evaluation.json").read_text())["models"]["first"]["documents"]
        said[name] = "whole file" in (err := capsys.readouterr().err)
        if name == "tenth":
            line = (
                f"{file}: {found[name]} of 60 documents: the held-out tenth; held_out: all measures the whole"
            )
            assert line in err
    assert 1 <= found["tenth"] <= 15 < found["half"] < 45
    assert (found["all"], found["some"]) == (60, 7)
    assert said == {"tenth": True, "half": False, "all": False, "some": False}
