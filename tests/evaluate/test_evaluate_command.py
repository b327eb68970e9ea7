"""`toolkit evaluate`: what is measured depends on what the data are."""

from __future__ import annotations

import json
import shutil

import pytest

from toolkit import storyworld
from toolkit.base.errors import ToolkitError, UsageError
from toolkit.evaluate.command import evaluate_command
from toolkit.inference.reward_scores import reward_scores
from toolkit.models.loading import load_reward_model


def run(capsys, models, **options):
    assert evaluate_command([str(model) for model in models], json=True, **options) == 0
    out = capsys.readouterr()
    return json.loads(out.out), out.err


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
    assert evaluate_command([str(folders / "second")], **options) == 0
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
    assert evaluate_command([str(folders / "second")], **options) == 0
    out = capsys.readouterr()
    assert out.out == ""
    for sign in ("entropy floor", "win rate against first", "judge: gold", "can tell", "minus baseline"):
        assert sign in out.err
    assert "…" not in out.err


def test_prompts_need_a_baseline_and_text_has_no_win_rate(folders, tmp_path, capsys):
    rows = list(storyworld.rows("conversations", 0, "held_out", 3))
    talk = tmp_path / "talk.jsonl"
    talk.write_text(
        "".join(json.dumps({"messages": row["prompt"] + row["completion"]}) + "\n" for row in rows)
    )
    with pytest.raises(UsageError, match="prompts without a model to compare with"):
        evaluate_command([str(folders / "first")], data=str(talk))
    with pytest.raises(UsageError, match="storyworld's prompts only"):
        evaluate_command([str(folders / "first")], data=str(talk), baseline=str(folders / "second"))
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "a fox"}\n{"text": "a bear"}\n')
    result, err = run(capsys, [folders / "first"], data=str(text), baseline=str(folders / "second"))
    assert "no win rate" in err and result["judge"] is None
    assert result["models"]["first"]["documents"] == 2


def test_wrong_data_and_wrong_models_say_what_to_do(folders, tmp_path):
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"title": "x"}\n')
    with pytest.raises(UsageError, match="the columns are title"):
        evaluate_command([str(folders / "first")], data=str(odd))
    with pytest.raises(ToolkitError):
        evaluate_command([str(tmp_path / "nothing")], data="storyworld")
    with pytest.raises(UsageError, match="are the same"):
        evaluate_command([str(folders / "first"), str(folders / "x" / ".." / "first")], data="storyworld")


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
    with pytest.raises(ToolkitError, match="longer than the model"):
        run(capsys, [folders / "first"], data="storyworld", examples=12, window=3200)


def test_a_reward_model_is_measured_on_preferences(scorer, tmp_path, capsys):
    result, _ = run(capsys, [scorer], data="storyworld", examples=12)
    numbers = result["models"]["scorer"]
    assert numbers["n"] == 12 and numbers["bayes_accuracy"] > 0.5
    assert numbers["accuracy_interval"][0] <= numbers["accuracy"] <= numbers["accuracy_interval"][1]
    rows = list(storyworld.rows("preferences", 0, "held_out", 12))
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
    assert evaluate_command([str(scorer)], data=str(path)) == 0
    assert "scorer: 12 pairs" in capsys.readouterr().err


def test_reward_models_and_language_models_are_not_compared(folders, scorer):
    with pytest.raises(UsageError, match="scorer scores answers and first writes them"):
        evaluate_command([str(scorer), str(folders / "first")], data="storyworld")
    with pytest.raises(UsageError, match="scores answers and first writes them"):
        evaluate_command([str(scorer)], data="storyworld", baseline=str(folders / "first"))
    with pytest.raises(UsageError, match="has no effect on reward models"):
        evaluate_command([str(scorer)], data="storyworld", baseline=str(scorer))
