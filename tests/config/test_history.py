"""Migration of added, renamed and removed settings, tested with planted history entries."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.runs.small_runs import SOURCE, corpus, make, tokenizer
from toolkit.base.errors import RecipeError, RunError
from toolkit.config import history, loader, schema
from toolkit.config.history import ANY, Added, Change, Removed, Renamed
from toolkit.config.loader import LoadedRecipe
from toolkit.config.messages import alternatives, is_model
from toolkit.config.registry import STAGES
from toolkit.config.schema.base import Count
from toolkit.proofs import rebuild
from toolkit.runs import manifest, seal
from toolkit.runs.opening import changed_settings, examine

OLD_SETTINGS = Path(__file__).parents[1] / "fixtures" / "old_settings.json"
"""{stage: {key: default}} of commit 4a212c1."""


@pytest.fixture
def plant(monkeypatch) -> Callable[..., None]:
    return lambda *changes: monkeypatch.setattr(history, "CHANGES", changes)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Create a sealed run whose manifest has settings of another version."""

    def make_with(loaded: LoadedRecipe, change: Callable[[dict[str, Any]], Any]) -> Path:
        write = manifest.settings

        def settings(recipe):
            values = write(recipe)
            change(values)
            return values

        with monkeypatch.context() as patch:
            patch.setattr(manifest, "settings", settings)
            return make(loaded, tmp_path)

    return make_with


def state(loaded: LoadedRecipe, runs_dir: Path) -> str:
    """Return `sealed`, or the reason why the run differs."""
    try:
        kind = examine(loaded, runs_dir=runs_dir).kind
    except RunError as error:
        assert changed_settings(loaded, runs_dir=runs_dir)
        return str(error)
    assert changed_settings(loaded, runs_dir=runs_dir) == []
    return kind


# Manifests


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([Added("tokenizer", "min_frequency", 2)], "sealed"),
        ([Added("tokenizer", "min_frequency", ANY)], "sealed"),
        ([Added("tokenizer", "min_frequency", 3)],
         "min_frequency: 3 -> 2 (runs before this setting was added had 3)"),
        ([Added("corpus", "min_frequency", 2)], "min_frequency: (not set) -> 2"),
        ([], "min_frequency: (not set) -> 2"),
    ],
)  # fmt: skip
def test_added_setting_gets_its_former_implicit_value(plant, made, tmp_path, changes, expected):
    made(tokenizer(), lambda settings: settings.pop("min_frequency"))
    plant(*changes)
    assert expected in state(tokenizer(), tmp_path)


def test_recipe_value_overrides_the_former_value(plant, made, tmp_path):
    path = made(tokenizer(), lambda settings: settings.pop("min_frequency"))
    plant(Added("tokenizer", "min_frequency", 3))
    assert state(tokenizer(min_frequency=3), tmp_path) == "sealed"
    assert rebuild.recipe(path).min_frequency == 3


def test_added_setting_inside_list_entries(plant, made, tmp_path):
    def before(settings):
        for source in settings["data"]:
            del source["weight"]
            source["limit"] = source.pop("examples")

    sources = [SOURCE, SOURCE.model_copy(update={"config": "stories"})]
    loaded = LoadedRecipe(
        Path("a.yaml"), "t/a", schema.TokenizerRecipe(stage="tokenizer", data=sources), "", {}
    )
    path = made(loaded, before)
    plant(Added("tokenizer", "data.weight", 1.0), Renamed("tokenizer", "data.limit", "data.examples"))
    assert state(loaded, tmp_path) == "sealed"
    assert rebuild.recipe(path).data == sources
    heavy = [sources[0], sources[1].model_copy(update={"weight": 2.0, "examples": 4})]
    other = LoadedRecipe(Path("a.yaml"), "t/a", schema.TokenizerRecipe(stage="tokenizer", data=heavy), "", {})
    message = state(other, tmp_path)
    assert "data[1].weight: 1.0 -> 2.0 (runs before this setting was added had 1.0)" in message
    assert "data[1].examples: 3 -> 4" in message and "data[0]" not in message


def test_renamed_setting_is_migrated(plant, made, tmp_path):
    def before(settings):
        settings["minimum"] = settings.pop("min_frequency")
        settings["merges"] = {"entries": settings.pop("vocab_size")}

    path = made(tokenizer(), before)
    # renamed twice, and moved out of a removed mapping
    plant(
        Renamed("tokenizer", "minimum", "least"),
        Renamed("tokenizer", "least", "min_frequency"),
        Renamed("tokenizer", "merges.entries", "vocab_size"),
        Removed("tokenizer", "merges", ({},), "its only setting is vocab_size"),
    )
    assert state(tokenizer(), tmp_path) == "sealed"
    assert rebuild.recipe(path) == tokenizer().recipe
    assert "min_frequency: 2 -> 5" in state(tokenizer(min_frequency=5), tmp_path)


def test_removed_setting_is_ignored_or_refused(plant, made, tmp_path):
    path = made(tokenizer(), lambda settings: settings.update(lowercase=False))
    plant(Removed("tokenizer", "lowercase", (False,), "text is read as it is"))
    assert state(tokenizer(), tmp_path) == "sealed"
    assert rebuild.recipe(path) == tokenizer().recipe
    path = made(tokenizer("t/low"), lambda settings: settings.update(lowercase=True))
    assert "lowercase: true -> (not set) (this setting was removed: text is read as it is)" in state(
        tokenizer("t/low"), tmp_path
    )
    with pytest.raises(RunError) as caught:
        rebuild.recipe(path)
    message = str(caught.value)
    assert "lowercase: true (this setting was removed: text is read as it is)" in message
    assert "use the version of the toolkit that made the run" in message
    assert seal.verify(path) == []  # its bytes are unchanged


def test_integer_one_differs_from_true(plant, made, tmp_path):
    made(tokenizer(), lambda settings: settings.update(lowercase=0))
    plant(Removed("tokenizer", "lowercase", (False,), "text is read as it is"))
    assert "lowercase: 0 -> (not set)" in state(tokenizer(), tmp_path)


class ChangedDefault(schema.TokenizerRecipe):
    min_frequency: Count = 3


def test_changed_default_differs_unless_the_recipe_sets_it(made, tmp_path, monkeypatch):
    path = made(tokenizer(), lambda settings: None)

    def now(**settings):
        recipe = ChangedDefault(stage="tokenizer", data=SOURCE, **settings)
        return LoadedRecipe(Path("a.yaml"), "t/tokenizer", recipe, "", {})

    assert "min_frequency: 2 -> 3" in state(now(), tmp_path)
    assert state(now(min_frequency=2), tmp_path) == "sealed"
    monkeypatch.setitem(STAGES, "tokenizer", replace(STAGES["tokenizer"], recipe=ChangedDefault))
    assert rebuild.recipe(path).min_frequency == 2


def test_parents_are_compared_under_the_new_setting_name(plant, tmp_path, monkeypatch):
    make(tokenizer(), tmp_path)
    write = manifest.inputs

    def before(*arguments, **options):
        given = write(*arguments, **options)
        given["settings"]["vocabulary"] = given["settings"].pop("tokenizer")
        given["parents"]["vocabulary"] = given["parents"].pop("tokenizer")
        given["data"] = {"source": "a" * 64}
        return given

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "inputs", before)
        path = make(corpus(), tmp_path)
    plant(Renamed("corpus", "vocabulary", "tokenizer"), Renamed("corpus", "source", "data"))
    assert examine(corpus(), runs_dir=tmp_path, data={"data": "a" * 64}).kind == "sealed"
    with pytest.raises(RunError, match="data: other data"):
        examine(corpus(), runs_dir=tmp_path, data={"data": "b" * 64})
    elsewhere = tmp_path / "elsewhere"
    rebuild.recipe(path, runs_dir=elsewhere)
    assert (elsewhere / "t" / "tokenizer").resolve() == (tmp_path / "t" / "tokenizer").resolve()
    make(tokenizer(), tmp_path, "other", fresh=True)
    with pytest.raises(RunError, match="tokenizer: another parent"):
        examine(corpus(), runs_dir=tmp_path, data={"data": "a" * 64})


def test_alias_digest_counts_as_the_same_data(tmp_path, monkeypatch):
    make(tokenizer(), tmp_path, data={"data": "storyworld:old"})
    monkeypatch.setattr(history, "DATA", {"storyworld:old": "storyworld:new"})
    assert examine(tokenizer(), runs_dir=tmp_path, data={"data": "storyworld:new"}).kind == "sealed"
    with pytest.raises(RunError, match="other data: storyworld:new -> storyworld:newer"):
        examine(tokenizer(), runs_dir=tmp_path, data={"data": "storyworld:newer"})


# Recipes


PLANTED: tuple[Change, ...] = (
    Renamed("tokenizer", "minimum", "min_frequency"),
    Renamed("tokenizer", "data.limit", "data.examples"),
    Renamed("tokenizer", "merges.entries", "vocab_size"),
    Removed("tokenizer", "merges", ({},), "vocab_size alone decides"),
    Removed("tokenizer", "lowercase", (False,), "text is read as it is"),
)


def recipe(folder: Path, text: str, name: str = "a") -> Path:
    file = folder / "recipes" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


OLD = """stage: tokenizer
data:
- {name: storyworld, limit: 3}
- name: storyworld
  limit: 4
minimum: 5
merges: {entries: 300}
lowercase: false
"""


def test_old_names_in_a_recipe_give_a_warning(plant, tmp_path, capsys):
    plant(*PLANTED)
    file = recipe(tmp_path, OLD)
    read = loader.load(file).recipe
    assert (read.min_frequency, read.vocab_size) == (5, 300)
    assert [source.examples for source in read.data] == [3, 4]
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        f"warning: {file}:6: minimum: was renamed; write min_frequency",
        f"warning: {file}:3: data.0.limit: was renamed; write data.0.examples",
        f"warning: {file}:5: data.1.limit: was renamed; write data.1.examples",
        f"warning: {file}:7: merges.entries: was renamed; write vocab_size",
        f"warning: {file}:7: merges: has no effect (vocab_size alone decides); leave it out",
        f"warning: {file}:8: lowercase: has no effect (text is read as it is); leave it out",
    ]
    assert shown.out == ""


def test_error_under_an_old_name_has_its_line(plant, tmp_path):
    plant(*PLANTED)
    file = recipe(tmp_path, OLD.replace("minimum: 5", "minimum: five"))
    with pytest.raises(RecipeError, match=f"{file}:6: min_frequency: must be an integer"):
        loader.load(file)


def test_base_and_recipe_may_use_different_names(plant, tmp_path):
    plant(*PLANTED)
    base = recipe(tmp_path, "minimum: 5\ndata: {name: storyworld, limit: 3}\n", "_base")
    file = recipe(tmp_path, "base: _base.yaml\nstage: tokenizer\nmin_frequency: 6\ndata: {examples: 7}\n")
    read = loader.load(file).recipe
    assert read.min_frequency == 6 and read.data[0].examples == 7
    base.write_text("min_frequency: 6\ndata: {name: storyworld, examples: 3}\n")
    file.write_text("base: _base.yaml\nstage: tokenizer\nminimum: 5\ndata: {limit: 7}\n")
    read = loader.load(file).recipe
    assert read.min_frequency == 5 and read.data[0].examples == 7


@pytest.mark.parametrize("change", ["minimum=9", "min_frequency=9"])
def test_override_works_with_old_and_new_name(plant, tmp_path, capsys, change):
    plant(*PLANTED)
    for text in (OLD, OLD.replace("minimum", "min_frequency")):
        file = recipe(tmp_path, text)
        assert loader.load(file, [change]).recipe.min_frequency == 9
        (loaded,) = loader.load_folder(file.parent, [change])
        assert loaded.recipe.min_frequency == 9 and loaded.overrides == (change,)
    warned = "warning: command line: minimum: was renamed; write min_frequency" in capsys.readouterr().err
    assert warned == (change == "minimum=9")


def test_override_of_list_entry_and_moved_setting(plant, tmp_path):
    plant(*PLANTED)
    read = loader.load(recipe(tmp_path, OLD), ["data.1.limit=8", "merges.entries=301"]).recipe
    assert [source.examples for source in read.data] == [3, 8] and read.vocab_size == 301


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lowercase: true", "8: lowercase: true is no longer possible: text is read as it is; leave it out"),
        ("min_frequency: 5", r"6: minimum: given under two names, also as min_frequency \(.*a.yaml:8\)"),
    ],
)
def test_unsupported_old_settings_are_refused(plant, tmp_path, line, message):
    plant(*PLANTED)
    with pytest.raises(RecipeError, match=message):
        loader.load(recipe(tmp_path, OLD.replace("lowercase: false", line)))


def test_removed_setting_on_the_command_line(plant, tmp_path, capsys):
    plant(*PLANTED)
    file = recipe(tmp_path, "stage: tokenizer\ndata: {name: storyworld, examples: 3}\n")
    loader.load(file, ["lowercase=false"])
    assert "warning: command line: lowercase: has no effect" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="command line: lowercase: true is no longer possible"):
        loader.load(file, ["lowercase=true"])


# The history table


def settings_of(model: Any, prefix: str = "") -> dict[str, Any]:
    """Return {key: default} of a recipe class, including nested classes and list entries."""
    found: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        default = "<required>" if info.is_required() else info.get_default(call_default_factory=True)
        found[prefix + name] = default.model_dump(mode="json") if is_model(type(default)) else default
        for one in alternatives(info.annotation):
            entries = typing.get_args(one) if typing.get_origin(one) is list else [one]
            for below in (kind for entry in entries for kind in alternatives(entry) if is_model(kind)):
                found |= settings_of(below, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_every_changed_setting_is_in_the_history(stage):
    """Fails for a setting that was added, renamed or removed without an entry in `history.CHANGES`."""
    before = json.loads(OLD_SETTINGS.read_text()).get(stage, {})
    now = settings_of(STAGES[stage].recipe)
    changes = [change for change in history.CHANGES if change.stage == stage]
    added = {change.key for change in changes if isinstance(change, Added)}
    added |= {change.to for change in changes if isinstance(change, Renamed)}
    gone = {change.key for change in changes if isinstance(change, Removed | Renamed)}

    def above(key: str, known: set[str]) -> bool:
        """Return whether a history entry concerns this key or a mapping that contains it."""
        return any(key == one or key.startswith(f"{one}.") for one in known)

    if before:
        assert [key for key in now if key not in before and not above(key, added)] == []
    assert [key for key in before if key not in now and not above(key, gone)] == []
    lost = [key for key in added if key not in now and not above(key, gone)]
    assert lost == [], "no setting of this version has this name"
    assert [key for key in gone if key in now and "." in key] == []


def test_first_version_pretraining_manifest_is_read():
    old = {"stage": "pretrain", "model": {"n_layer": 2}, "optimizer": {"name": "adamw"},
           "speed": {"transposed_weights": "auto"}}  # fmt: skip
    found = history.recorded("pretrain", old)
    assert history.refused("pretrain", found) == []
    assert found["model"] == {
        "n_layer": 2,
        "position_init": "normal",
        "vocabulary_multiple": 64,
        "n_kv_head": None,
        "n_inner": None,
        "attention_init": "normal",
    }
    assert found["speed"]["head_block_tokens"] == 0 and "keep_memory" not in found["speed"]
    assert found["guard"] == {"action": "stop", "z_score": None, "window": 100, "max_skips": 10}
    assert old["speed"] == {"transposed_weights": "auto"}
    old["speed"]["transposed_weights"] = True
    assert (
        "speed.transposed_weights: true" in history.refused("pretrain", history.recorded("pretrain", old))[0]
    )


def test_first_version_evaluation_manifest_is_read():
    old = {"stage": "evaluate", "win_rate": {"baseline": "a", "data": {"name": "storyworld"}},
           "perplexity": None}  # fmt: skip
    found = history.recorded("evaluate", old)
    assert (
        found["data"] == {**dict.fromkeys(found["data"]), "name": "storyworld", "on_bad_row": "stop"}
        and {"world", "complying_share", "encoding", "columns", "on_bad_row"} <= found["data"].keys()
        and "data" not in found["win_rate"]
    )
    assert found["win_rate"]["stop_early"] is False and found["perplexity"] is None
    keys = {"win_rate.data": 1, "models[0]": 2, "win_rate.baseline": 3}
    assert list(history.recorded_keys("evaluate", keys)) == ["data", "models[0]", "win_rate.baseline"]


def test_history_leaves_current_manifests_unchanged():
    for stage in STAGES:
        cls = STAGES[stage].recipe
        needed = {"data": {"name": "storyworld"}, "tokenizer": "a", "tokens": "a", "train_tokens": 8192,
                  "model": "a", "reward_model": "a", "models": ["a"], "samples": ["b"]}  # fmt: skip
        required = {key: value for key, value in needed.items() if key in cls.model_fields}
        if stage == "pretrain":
            required = {"tokens": "a", "train_tokens": 8192}
        elif stage == "evaluate":
            required = {"models": ["a"], "samples": ["b"]}
        settings = manifest.settings(cls(stage=stage, **required))
        unchanged = json.loads(json.dumps(settings))
        kept = {key: value for key, value in history.recorded(stage, unchanged).items() if key in unchanged}
        assert kept == unchanged


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"trainer": {}}, "last"),
        ({"trainer": {"assistant_only_loss": False}}, "last"),
        ({"trainer": {"assistant_only_loss": True}}, "all"),
        ({"trainer": {}, "multi_turn": "all"}, "all"),
    ],
)
def test_older_fine_tuning_is_rebuilt_with_the_answers_that_it_learned(settings, wanted):
    assert history.as_made("sft", settings)["multi_turn"] == wanted
    assert "multi_turn" not in history.recorded("sft", {"trainer": {}})
    assert history.as_made("dpo", {"trainer": {}}) == {"trainer": {}}
