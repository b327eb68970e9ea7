"""Of data that a model, a judge or an ancestor was trained on, only the held-out rows are measured."""

from __future__ import annotations

import json
import shutil

import pytest

import toolkit as tk
from tests.chat_fixtures import COLOURS, THINGS, write_conversations, write_model, write_preferences
from tests.evaluate.written_runs import select, write_run
from toolkit.base import console
from toolkit.base.errors import UsageError
from toolkit.cli import main
from toolkit.config.schema import DataSource, HeldOut
from toolkit.data.chat import sources

SENTENCES = [f"the {thing} is {colour} ." for thing in THINGS for colour in COLOURS]


# Which rows: manifests without models


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_preferences(tmp_path / "pairs.jsonl")
    return tmp_path


def number_of(measured):
    return len(sources.prompts(measured.source, part=measured.part_to_read, seed=0))


def test_the_rows_of_a_training_are_left_out(folder):
    model = write_run("reward", data={"name": "pairs.jsonl", "held_out": {"documents": 0.3}})
    assert select(model).trained_on == ("t/reward",)
    assert select(model).source.held_out == HeldOut(documents=0.3)
    counts = {part: number_of(select(model, part=part)) for part in (None, "held_out", "train", "all")}
    held_out = len(sources.prompts(DataSource(name="pairs.jsonl", held_out=HeldOut(documents=0.3)),
                                   part="held_out", seed=0))  # fmt: skip
    assert counts == {None: held_out, "held_out": held_out, "train": 48 - held_out, "all": 48}
    assert 5 < held_out < 25
    limited = select(model, examples=3)
    assert number_of(limited) == 3 and number_of(select(model, part="train", examples=4)) == 4


def test_other_data_are_measured_whole(folder):
    model = write_run("reward", data={"name": "pairs.jsonl"})
    write_preferences(folder / "other.jsonl", count=30)
    other = select(model, "other.jsonl")
    assert (other.part, other.trained_on, number_of(other)) == ("all", (), 30)
    with (folder / "pairs.jsonl").open("a") as file:  # no longer what was read
        file.write((folder / "other.jsonl").read_text().splitlines()[0] + "\n")
    assert select(model).trained_on == ()
    assert select(model, part="held_out").source.held_out == HeldOut(documents=0.1)


def test_a_copy_is_the_same_data(folder):
    model = write_run("reward", data={"name": "pairs.jsonl"})
    shutil.move("pairs.jsonl", "copy.jsonl")
    assert select(model, "copy.jsonl").trained_on == ("t/reward",)


def test_ancestors_and_the_runs_that_made_the_data(folder):
    write_run("sft", "sft", data={"name": "pairs.jsonl", "held_out": {"documents": 0.4}})
    write_run("asked", "preferences", data={"name": "pairs.jsonl"}, parents={"models[0]": "sft"})
    (folder / "runs/asked/preferences.jsonl").write_text((folder / "pairs.jsonl").read_text() * 2)
    model = write_run("reward", data={"name": "runs/asked", "held_out": {"documents": 0.2}},
                      parents={"model": "sft", "data": "asked"})  # fmt: skip
    found = select(model)  # a prompt of the preferences' run is trained on by the reward run
    assert found.trained_on == ("t/sft", "t/reward")
    assert found.source.held_out == HeldOut(documents=0.1)  # the smallest share is a part of the others
    made = select(model, "runs/asked/preferences.jsonl")
    assert (made.trained_on, made.source.held_out) == (("t/reward",), HeldOut(documents=0.2))
    shutil.copy("runs/asked/preferences.jsonl", "copy.jsonl")
    with pytest.raises(UsageError, match="known of the file in its run only: .*runs/asked/preferences.jsonl"):
        select(model, "copy.jsonl")


def test_one_file_of_a_glob_and_a_glob_with_one_file(folder):
    write_preferences(folder / "a.jsonl", count=40)
    write_preferences(folder / "b.jsonl", count=44)
    model = write_run("reward", data={"name": "?.jsonl", "held_out": {"documents": 0.3}})
    assert select(model, "b.jsonl").trained_on == ("t/reward",)
    assert 0 < number_of(select(model, "b.jsonl")) < 44
    single = write_run("single", data={"name": "a.jsonl"})
    assert select(single, "*.jsonl").trained_on == ("t/single",)
    assert select(single, "b.jsonl").trained_on == ()
    (folder / "c.jsonl").write_text("{}\n")  # the glob no longer means the files that were read
    assert select(model, "b.jsonl").trained_on == ()


def test_what_was_hashed_is_compared(folder):
    """Most first messages are alike, so that the whole prompt was hashed; in one of the files they differ."""
    for name, first in (("a.jsonl", "hello"), ("b.jsonl", None)):
        rows = [
            {"prompt": [{"role": "user", "content": first or text}, {"role": "assistant", "content": "hi"},
                        {"role": "user", "content": text}], "chosen": "yes", "rejected": "no"}
            for text in SENTENCES[: 48 if first else 12]
        ]  # fmt: skip
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = write_run("reward", data={"name": "?.jsonl"})
    assert select(model, "?.jsonl").part == "held_out"
    with pytest.raises(UsageError, match="hash of the whole prompt chose them") as caught:
        select(model, "b.jsonl")
    assert "--part all" in str(caught.value)
    assert select(model, "b.jsonl", part="all").trained_on == ("t/reward",)


def test_held_out_rows_that_cannot_be_computed(folder):
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES))
    write_run("corpus", "corpus", data={"name": "text.jsonl", "held_out": {"last_characters": 0.2}})
    model = write_run("pretrain", "pretrain", tokens="runs/corpus", parents={"tokens": "corpus"})
    found = select(model, "text.jsonl", is_text=True)
    assert (found.trained_on, found.source.held_out) == (("t/pretrain",), HeldOut(last_characters=0.2))
    with pytest.raises(UsageError, match="t/pretrain was trained on it.* last characters of its text"):
        select(model, "text.jsonl")
    with pytest.raises(UsageError, match="`field` was None in its training, and is 'body' here"):
        select(model, "text.jsonl", is_text=True, field="body")
    shutil.copy("text.jsonl", "more.jsonl")
    with pytest.raises(UsageError, match="last characters of several files"):
        select(model, "[mt]*.jsonl", is_text=True)
    by_prompt = write_run("sft", "sft", data={"name": "pairs.jsonl"})
    assert select(by_prompt, is_text=True).part == "held_out"  # as text, it is divided by its prompts, too
    by_text = write_run("both", "sft", data={"name": "text.jsonl"})
    with pytest.raises(UsageError, match="a hash of its prompts chose them, and its text are measured"):
        select(by_text, "text.jsonl", is_text=True)


def test_a_separator_of_the_training_divides_the_text(folder):
    (folder / "book.txt").write_text("|".join(SENTENCES))
    write_run("corpus", "corpus", data={"name": "book.txt", "separator": "|", "held_out": {"documents": 0.3}})
    model = write_run("pretrain", "pretrain", tokens="runs/corpus", parents={"tokens": "corpus"})
    found = select(model, "book.txt", is_text=True)
    assert (found.source.separator, found.source.held_out) == ("|", HeldOut(documents=0.3))


def test_all_rows_were_trained_on(folder):
    write_preferences(folder / "test.jsonl", count=30)
    nothing = write_run("nothing", data={"name": "pairs.jsonl", "held_out": "none"})
    with pytest.raises(UsageError, match="(?s)t/nothing was trained on all of its rows.*--part train"):
        select(nothing)
    other = write_run("other", data={"name": "pairs.jsonl", "held_out": {"name": "test.jsonl"}})
    with pytest.raises(UsageError, match="--data test.jsonl has the held-out rows"):
        select(other)
    assert number_of(select(other, part="train")) == 48
    assert select(other, "test.jsonl").part == "all"


def test_unknown_ancestors_are_named(folder, capsys):
    model = write_run("reward", data={"name": "pairs.jsonl"},
                      parents={"model": "gone"})  # fmt: skip
    assert select(model).trained_on == ("t/reward",)
    err = capsys.readouterr().err
    assert "whether" in err and "runs/gone was trained on pairs.jsonl is unknown" in err


def test_a_part_has_no_effect_on_the_storyworld(folder):
    with pytest.raises(UsageError, match="no effect on storyworld"):
        select((".", None), "storyworld", "train")


# Numbers: trainings of a few steps


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A folder with the runs corpus, pretrain, sft and reward of the recipes t/, and their data."""
    path = tmp_path_factory.mktemp("chain")
    write_model(path / "base")
    write_conversations(path / "talk.jsonl")
    write_preferences(path / "pairs.jsonl")
    (path / "book.txt").write_text("\n".join(SENTENCES * 4))
    (path / "t").mkdir()
    training = "batch_examples: 8\nprecision: fp32\ntrainer: {max_steps: 8, learning_rate: 1e-3}\n"
    source = "data: {{name: {}, held_out: {{{}: 0.25}}}}\n"
    recipes = {
        "corpus": f"tokenizer: {path}/base\n" + source.format(path / "book.txt", "last_characters"),
        "pretrain": "tokens: runs/t/corpus\nmodel: {n_layer: 1, n_head: 2, n_embd: 16, n_positions: 32}\n"
        "batch_tokens: 256\ntrain_tokens: 512\nprecision: fp32\n",
        "sft": f"model: {path}/base\n" + source.format(path / "talk.jsonl", "documents") + training,
        "reward": f"model: {path}/base\n" + source.format(path / "pairs.jsonl", "documents") + training,
    }
    for name, text in recipes.items():
        head = f"stage: {name}\nthreads: 1\n" + ("" if name == "corpus" else "device: cpu\n")
        (path / "t" / f"{name}.yaml").write_text(head + text)
        recipe = str(path / "t" / f"{name}.yaml")
        assert main.main(["run", recipe, "--runs-dir", str(path / "runs")]) == 0
    return path


def evaluation(chain, name):
    return json.loads((chain / "runs" / "t" / name / "evaluation.json").read_text())


def evaluated(capsys, model, data, *options):
    console.tell_once.cache_clear()
    command = ["evaluate", str(model), "--data", str(data), *map(str, options)]
    assert main.main([*command, "--json"]) == 0
    out = capsys.readouterr()
    assert main.main(command) == 0
    return json.loads(out.out), out.err, capsys.readouterr().err


@pytest.mark.slow
def test_a_reward_model_has_the_accuracy_of_its_training(chain, capsys):
    model, pairs = chain / "runs/t/reward", chain / "pairs.jsonl"
    result, err, table = evaluated(capsys, model, pairs)
    before, (row,) = evaluation(chain, "reward"), result["models"].values()
    assert (row["n"], row["accuracy"], row["held_out_loss"]) == (
        before["n"], before["accuracy"], pytest.approx(before["held_out_loss"])
    )  # fmt: skip
    assert (result["part"], result["trained_on"]) == ("held_out", ["t/reward"])
    count = f"only its held-out part is measured, {before['n']} of 48 pairs"
    assert f"t/reward was trained on {pairs}: {count}; --part train" in err and "--part all" in err
    assert "(training rows" not in table
    result, err, table = evaluated(capsys, model, pairs, "--part", "train")
    assert next(iter(result["models"].values()))["n"] == 48 - before["n"]
    assert f"{48 - before['n']} pairs (training rows)" in table
    result, err, table = evaluated(capsys, model, pairs, "--part", "all")
    assert next(iter(result["models"].values()))["n"] == 48 and result["trained_on"] == ["t/reward"]
    assert f"48 pairs ({48 - before['n']} in the training data of t/reward)" in table
    shutil.copy(pairs, chain / "other.jsonl")
    with (chain / "other.jsonl").open("a") as file:
        file.write(pairs.read_text().splitlines()[0] + "\n")
    result, err, table = evaluated(capsys, model, chain / "other.jsonl")
    assert (result["part"], result["trained_on"]) == ("all", [])
    assert next(iter(result["models"].values()))["n"] == 49
    trained = result["also_in_training"]["pairs"]["t/reward"]
    assert trained in (48 - before["n"], 49 - before["n"]), "the appended row repeats a prompt"
    assert f"49 pairs ({trained} in the training data of t/reward)" in " ".join(table.split())
    assert result["data"]["pairs"]["read"] == 49


@pytest.mark.slow
def test_perplexity_is_that_of_the_corpus(chain, capsys):
    result, _, table = evaluated(capsys, chain / "runs/t/pretrain", chain / "book.txt")
    before, (row,) = evaluation(chain, "pretrain"), result["models"].values()
    assert row["bytes"] == evaluation(chain, "corpus")["held_out_bytes"]
    assert row["bits_per_byte"] == pytest.approx(before["bits_per_byte"], rel=1e-4)
    assert (result["part"], result["trained_on"]) == ("held_out", ["t/pretrain"])
    result, _, table = evaluated(capsys, chain / "runs/t/pretrain", chain / "book.txt", "--part", "train")
    assert "(training rows)" in table
    result = tk.evaluate(chain / "runs/t/pretrain", chain / "book.txt", part="all")
    assert result.part == "all" and result["pretrain"].bytes == (chain / "book.txt").stat().st_size


@pytest.mark.slow
def test_a_win_rate_leaves_out_the_prompts_of_the_model_and_of_the_judge(chain, capsys):
    options = ["--baseline", chain / "base", "--max-new-tokens", 4]
    judged = [*options, "--judge", chain / "runs/t/reward"]
    result, err, _ = evaluated(capsys, chain / "runs/t/sft", chain / "talk.jsonl", *judged)
    assert result["trained_on"] == ["t/sft"]
    assert result["models"]["sft"]["prompts"] == evaluation(chain, "sft")["n"]
    result, err, _ = evaluated(capsys, chain / "runs/t/sft", chain / "pairs.jsonl", *judged)
    assert result["trained_on"] == ["t/reward"]
    assert result["models"]["sft"]["prompts"] == evaluation(chain, "reward")["n"]
    lines = (chain / "pairs.jsonl").read_text().splitlines(keepends=True)
    (chain / "more.jsonl").write_text("".join(lines) + lines[0].replace("ball", "bird"))
    result, err, table = evaluated(
        capsys, chain / "runs/t/sft", chain / "talk.jsonl", *judged, "--judge-data", chain / "more.jsonl"
    )
    known = 48 - evaluation(chain, "reward")["n"]
    assert result["also_in_training"]["judge_data"] == {"t/reward": known}
    assert f"{known} of 49 pairs of {chain}/more.jsonl have a prompt that t/reward was trained on" in err
    checked = [*judged, "--judge-data", chain / "pairs.jsonl", "--part", "train"]
    result, err, table = evaluated(capsys, chain / "runs/t/sft", chain / "talk.jsonl", *checked)
    assert result["judge"]["accuracy"] == evaluation(chain, "reward")["accuracy"]
    assert "judge's accuracy is measured on the held-out rows" in err
    assert "prompts (training rows)" in table


@pytest.mark.slow
def test_an_evaluate_recipe_says_which_rows_are_in_the_training_data_of_other_files(chain, capsys):
    recipe = chain / "t" / "evaluate.yaml"
    recipe.write_text(
        "stage: evaluate\nmodels: [runs/t/sft]\nthreads: 1\ndevice: cpu\nprecision: fp32\n"
        f"data: {{name: {chain}/pairs.jsonl, held_out: all}}\n"
        f"perplexity: {{data: {{name: {chain}/book.txt, separator: ' .', held_out: all}}}}\n"
        f"win_rate: {{baseline: runs/t/sft, judge: {chain}/runs/t/reward, max_new_tokens: 2}}\n"
    )
    assert main.main(["run", str(recipe), "--runs-dir", str(chain / "runs")]) == 0
    result, err = evaluation(chain, "evaluate"), capsys.readouterr().err
    part = HeldOut(documents=0.25)
    trained = [DataSource(name=f"{chain}/{name}.jsonl", held_out=part) for name in ("talk", "pairs")]
    counts = [len(sources.prompts(source, part="train", seed=0)) for source in trained]
    assert result["also_in_training"] == {"prompts": dict(zip(("t/sft", "t/reward"), counts, strict=True))}
    for run, count in result["also_in_training"]["prompts"].items():
        assert f"warning: {count} of 48 prompts of {chain}/pairs.jsonl have a prompt that {run}" in err
    assert result["data"]["prompts"]["read"] == result["data"]["prompts"]["kept"] == 48
    documents = result["data"]["documents"]
    assert documents["read"] == documents["kept"] + documents["dropped"].get("empty or only white space", 0)
