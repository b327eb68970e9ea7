"""`toolkit evaluate`: what is measured depends on what the data are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from toolkit.cli import evaluate, main
from toolkit.config import loader
from toolkit.evaluate import stage
from toolkit.inference.reward_scores import reward_scores
from toolkit.models.loading import load_reward_model
from toolkit.runs.evaluation import ModelComparison
from toolkit.storyworld import LARGE


def arguments(models, **options):
    """The command line of `toolkit evaluate` with these options."""
    words = ["evaluate", *map(str, models)]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is False:
            words.append(option.replace("--", "--no-"))
        else:
            words += [option] if value is True else [option, str(value)]
    return words


def run(capsys, models, **options):
    assert main.main(arguments(models, json=True, **options)) == 0
    out = capsys.readouterr()
    return json.loads(out.out), out.err


def refused(capsys, models, **options):
    """What is printed about a command line that is a usage error."""
    assert main.main(arguments(models, **options)) == 2
    return capsys.readouterr().err


def test_a_text_file_is_measured_whole(folders, tmp_path, stories, capsys):
    path = tmp_path / "book.txt"
    path.write_text("\n".join(stories[:4]))
    result, _ = run(capsys, [folders / "first", folders / "second"], data=str(path))
    assert result["models"]["first"]["bytes"] == path.stat().st_size
    assert result["models"]["first"]["interval_over"].startswith("blocks")
    assert result["judge"] is None and set(result["models"]) == {"first", "second"}


def test_one_long_text_is_compared_by_blocks_and_the_table_says_how_it_was_read(
    folders, tmp_path, stories, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "140")
    path = tmp_path / "book.txt"
    path.write_text("\n".join(stories))
    options = {"data": str(path), "baseline": str(folders / "first"), "prefix": "none", "score_end": False}
    result, _ = run(capsys, [folders / "second", folders / "twin"], **options)
    rows = result["models"]
    low, high = rows["second"]["bits_per_byte_difference_interval"]
    difference = rows["second"]["bits_per_byte"] - rows["first"]["bits_per_byte"]
    assert rows["second"]["bits_per_byte_difference"] == pytest.approx(difference, rel=1e-6)
    assert low < difference < high
    assert rows["twin"]["bits_per_byte_difference_interval"] == [0, 0]
    assert main.main(arguments([folders / "second"], **options)) == 0
    words = "window 256, stride 128, prefix none, float32, end-of-text not scored, 1 tokens without context"
    assert words in capsys.readouterr().err


def test_storyworld_with_a_baseline_has_both_tables_and_nothing_is_cut(folders, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    options = {"data": "storyworld", "baseline": str(folders / "first"), "examples": 10, "max_new_tokens": 12}
    result, _ = run(capsys, [folders / "second", folders / "twin"], **options)
    assert list(result["models"]) == ["first", "second", "twin"]
    assert result["models"]["twin"]["win_rate"]["ties"] == 10
    assert result["models"]["twin"]["kl_to_baseline"] == 0
    assert result["models"]["twin"]["bits_per_byte_difference"] == 0
    assert main.main(arguments([folders / "second"], **options)) == 0
    out = capsys.readouterr()
    assert out.out == ""
    for sign in ("entropy floor", "win rate against first", "judge: gold", "can tell", "minus baseline"):
        assert sign in out.err
    assert "…" not in out.err


def test_prompts_need_a_baseline_and_text_has_no_win_rate(folders, tmp_path, capsys):
    rows = list(LARGE.rows("conversations", 0, "held_out", 3))
    talk = tmp_path / "talk.jsonl"
    talk.write_text(
        "".join(json.dumps({"messages": row["prompt"] + row["completion"]}) + "\n" for row in rows)
    )
    assert "give a baseline" in refused(capsys, [folders / "first"], data=talk)
    said = refused(capsys, [folders / "first"], data=talk, baseline=folders / "second")
    assert f"{talk}: gold judges answers to storyworld's prompts only" in said
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "a fox"}\n{"text": "a bear"}\n')
    result, err = run(capsys, [folders / "first"], data=str(text), baseline=str(folders / "second"))
    assert "no win rate" in err and result["judge"] is None
    assert result["models"]["first"]["documents"] == 2


def test_wrong_data_and_wrong_models_say_what_to_do(folders, tmp_path, capsys):
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"title": "x"}\n')
    assert "the columns are title" in refused(capsys, [folders / "first"], data=odd)
    assert main.main(arguments([tmp_path / "nothing"], data="storyworld")) == 1
    twice = [folders / "first", folders / "x" / ".." / "first"]
    assert "are the same" in refused(capsys, twice, data="storyworld")
    options = {"data": "storyworld", "baseline": folders / "first", "config": "prompts", "examples": 4}
    assert "win_rate.top_p" in refused(capsys, [folders / "second"], top_p=2.0, **options)
    assert "--judge-model" in refused(capsys, [folders / "second"], judge_model="x", **options)
    assert "--stop-early" in refused(capsys, [folders / "second"], stop_early=True, **options)


def test_models_of_one_name_stand_side_by_side(folders, tmp_path, capsys):
    for seed, source in (("a", "first"), ("b", "second")):
        shutil.copytree(folders / source, tmp_path / seed / "ppo")
    models = [tmp_path / "a" / "ppo", tmp_path / "b" / "ppo", folders / "twin"]
    result, _ = run(capsys, models, data="storyworld", config="stories", examples=6)
    assert list(result["models"]) == ["a/ppo", "b/ppo", "twin"]
    bits = {name: row["bits_per_byte"] for name, row in result["models"].items()}
    assert bits["a/ppo"] == bits["twin"] != bits["b/ppo"]


def test_a_window_of_ones_own(folders, capsys):
    result, _ = run(capsys, [folders / "first"], data="storyworld", examples=12, window=32, stride=16)
    row = result["models"]["first"]
    assert (row["window"], row["stride"], row["documents"]) == (32, 16, 12)
    arguments_ = arguments([folders / "first"], data="storyworld", examples=12, window=3200)
    assert main.main(arguments_) != 0 and "longer than the model" in capsys.readouterr().err


def test_a_reward_model_is_measured_on_preferences(scorer, tmp_path, capsys):
    result, _ = run(capsys, [scorer], data="storyworld", examples=12)
    numbers = result["models"]["scorer"]
    assert numbers["n"] == 12 and numbers["bayes_accuracy"] > 0.5
    assert numbers["accuracy_interval"][0] <= numbers["accuracy"] <= numbers["accuracy_interval"][1]
    rows = list(LARGE.rows("preferences", 0, "held_out", 12))
    texts = [[row[side][0]["content"] for row in rows] for side in ("chosen", "rejected")]
    model, tokenizer = load_reward_model((str(scorer), None))
    prompts, ended = [row["prompt"] for row in rows], [True] * 12
    chosen, rejected = (reward_scores(model, tokenizer, prompts, answers=one, ended=ended) for one in texts)
    assert numbers["accuracy"] == pytest.approx((chosen > rejected).mean())
    assert numbers["margin"] == pytest.approx((chosen - rejected).mean(), abs=1e-5)
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({key: row[key] for key in ("prompt", "chosen", "rejected")}) + "\n"
                            for row in rows))  # fmt: skip
    again, _ = run(capsys, [scorer], data=str(path))
    assert again["models"]["scorer"]["accuracy"] == numbers["accuracy"]
    assert again["models"]["scorer"]["bayes_accuracy"] is None
    assert main.main(arguments([scorer], data=path)) == 0
    assert "scorer: 12 pairs" in capsys.readouterr().err


def test_reward_models_and_language_models_are_not_compared(folders, scorer, capsys):
    said = refused(capsys, [scorer, folders / "first"], data="storyworld")
    assert "scorer is a reward model and first a language model" in said
    said = refused(capsys, [scorer], data="storyworld", baseline=folders / "first")
    assert "is a reward model and first a language model" in said
    said = refused(capsys, [scorer], data="storyworld", baseline=scorer)
    assert "has no effect on reward models" in said


GIVEN = {
    "window": 64, "stride": 16, "prefix": "none", "score_end": False, "packed": True, "judge": "http://x/v1",
    "judge_model": "j", "judge_key_variable": "K", "stop_early": True, "samples_per_prompt": 3,
    "max_new_tokens": 5, "temperature": 0.5, "top_k": 7, "top_p": 0.25, "judge_data": "storyworld",
    "best_of": "rm", "precision": "bf16", "seed": 9, "examples": 11, "data": "storyworld",
    "judgements": "said.jsonl", "part": "held_out",
}  # fmt: skip


def test_every_option_reaches_the_recipe(folders, monkeypatch):
    """The recipe differs from its defaults in everything that the command line sets."""
    calls = []
    monkeypatch.setattr(
        stage, "evaluate", lambda *given, part: calls.append((*given, part)) or ModelComparison(models={})
    )
    first, second = folders / "first", folders / "second"
    assert main.main(arguments([second], baseline=first, json=True, **GIVEN)) == 0
    [(recipe, surroundings, part)] = calls
    assert part == "held_out"
    assert recipe.models == [str(first), str(second)] and recipe.baseline == str(first)
    assert (recipe.seed, recipe.precision) == (9, "bf16")
    for settings, names in ((recipe.perplexity, evaluate.SCORING), (recipe.win_rate, evaluate.COMPARISON)):
        assert {name: getattr(settings, name) for name in names} == {name: GIVEN[name] for name in names}
    [text], [prompts], [pairs] = recipe.perplexity.data, recipe.data, recipe.win_rate.judge_data
    assert (text.held_out_examples, prompts.config, pairs.name) == (11, "prompts", "storyworld")
    assert recipe.win_rate.best_of.reward_model == "rm"
    assert surroundings.judgements == Path("said.jsonl")
    contest = stage.open_contest(recipe, surroundings)
    names = ("samples_per_prompt", "max_new_tokens", "temperature", "top_k", "top_p", "seed")
    assert [getattr(contest, name) for name in names] == [GIVEN[name] for name in names]
    assert contest.units == 11
    separate = {"data", "part", "judge_data", "best_of", "precision", "seed", "examples", "judgements"}
    assert {*evaluate.SCORING, *evaluate.COMPARISON} | separate == GIVEN.keys()


def test_the_command_line_and_a_recipe_have_the_same_defaults(folders, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        stage, "evaluate", lambda recipe, _, part: calls.append(recipe) or ModelComparison(models={})
    )
    first, second = (str(folders / name) for name in ("first", "second"))
    assert main.main(arguments([second], data="storyworld", baseline=first, json=True)) == 0
    recipe = tmp_path / "evaluate.yaml"
    recipe.write_text(
        f"stage: evaluate\nmodels: {json.dumps([first, second])}\nwin_rate: {{baseline: {first}}}\n"
        "perplexity: {data: {name: storyworld}}\ndata: {name: storyworld, config: prompts}\n"
    )
    [called], written = calls, loader.load(recipe).recipe

    def settings(recipe):
        content = recipe.model_dump(exclude={"run"})
        content["perplexity"].pop("baseline")  # the command line also names it for text without prompts
        return content

    assert settings(called) == settings(written)
    assert (written.win_rate.max_new_tokens, written.data[0].held_out_examples) == (112, 400)
    assert written.perplexity.data[0].held_out_examples == 400


def test_the_command_line_and_a_recipe_give_the_same_numbers(folders, tmp_path, capsys):
    models = [str(folders / name) for name in ("first", "second")]
    options = {"config": "prompts", "examples": 6, "max_new_tokens": 12, "top_k": 5}
    told, _ = run(capsys, models[1:], data="storyworld", baseline=models[0], **options)
    recipe = tmp_path / "recipes" / "t" / "evaluate.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(
        f"stage: evaluate\nmodels: {json.dumps(models)}\n"
        "data: {name: storyworld, config: prompts, held_out_examples: 6}\n"
        f"win_rate: {{baseline: {models[0]}, max_new_tokens: 12, top_k: 5}}\n"
    )
    assert main.main(["run", str(recipe), "--runs-dir", str(tmp_path / "runs")]) == 0
    written = json.loads((tmp_path / "runs/t/evaluate/evaluation.json").read_text())
    assert all(told[key] == written[key] for key in written.keys() - {"settings"})
