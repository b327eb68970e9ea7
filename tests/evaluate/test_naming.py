"""The names under which models are reported."""

from __future__ import annotations

import pytest

from toolkit.base.errors import UsageError
from toolkit.evaluate.naming import display_names, require_distinct


@pytest.mark.parametrize(
    ("references", "names"),
    [
        (["runs/tiny/sft", "org/gpt2@main", "models/dpo/"], ["sft", "gpt2", "dpo"]),
        (["runs/a/ppo", "runs/b/ppo", "runs/b/sft"], ["a/ppo", "b/ppo", "sft"]),
        (["runs/x/s1/ppo", "runs/x/s2/ppo", "runs/y/s1/ppo"], ["x/s1/ppo", "s2/ppo", "y/s1/ppo"]),
        (["ppo", "a/ppo"], ["ppo", "a/ppo"]),
        (["/a/ppo", "a/ppo", "b/a/ppo"], ["/a/ppo", "a/ppo", "b/a/ppo"]),
        (["org/gpt2@v1", "org/gpt2@v2", "org/gpt2"], ["gpt2@v1", "gpt2@v2", "org/gpt2"]),
        (["org/gpt2@refs/pr/1", "other/gpt2"], ["org/gpt2", "other/gpt2"]),
        (["/home/a@b/ppo", "./c@d/sft"], ["ppo", "sft"]),
        (["../x/ppo", "runs/./x/dpo"], ["ppo", "dpo"]),
    ],
)
def test_a_name_is_the_shortest_unique_suffix(references, names):
    assert list(display_names(references).values()) == names


@pytest.mark.parametrize("second", ["runs/a/ppo", "runs/a/ppo/", "./runs/a/ppo", "runs/a/x/../ppo"])
def test_the_same_reference_twice_is_an_error(second):
    with pytest.raises(UsageError, match="are the same") as error:
        display_names(["runs/a/ppo", "runs/b/ppo", second])
    assert error.value.exit_status == 2


def test_two_names_for_one_folder_are_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    require_distinct({"a": ("a", None), "b": ("b", None), "v1": ("org/x", "1"), "v2": ("org/x", "2")})
    with pytest.raises(UsageError, match="a and c are the same"):
        require_distinct({"a": ("a", None), "c": (str(tmp_path / "a"), None)})
    with pytest.raises(UsageError):
        require_distinct({"x": ("org/x", "1"), "y": ("org/x", "1")})


@pytest.mark.parametrize(
    ("references", "names"),
    [
        (["/a/model", "/b/model/"], ["a/model", "b/model"]),
        (["/x/model", "/x/sub/model"], ["x/model", "sub/model"]),
        (["model", "./sub/model", "/far/model"], ["model", "sub/model", "far/model"]),
        (["runs/a/sft/model", "runs/b/sft/model"], ["a/sft/model", "b/sft/model"]),
        (["org/model", "other/model@main"], ["org/model", "other/model"]),
    ],
)
def test_folders_of_one_name_get_distinct_names(references, names):
    assert list(display_names(references).values()) == names


def test_the_current_folder_has_its_own_name(tmp_path, monkeypatch):
    (tmp_path / "first" / "model").mkdir(parents=True)
    (tmp_path / "second" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "first" / "model")
    names = display_names([".", "../../second/model", ".."])
    assert list(names.values()) == ["first/model", "second/model", "first"]


def test_a_link_to_a_model_is_the_same_model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    with pytest.raises(UsageError, match="link and model are the same|model and link are the same"):
        require_distinct({name: (str(tmp_path / name), None) for name in ("model", "link")})
