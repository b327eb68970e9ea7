"""Rows, splits, provenance and the import of the storyworld as a whole."""

import subprocess
import sys
from pathlib import Path

import pytest

from toolkit import storyworld
from toolkit.config import history
from toolkit.storyworld import CONFIGS, compute_digest, digest, rows, split_of


@pytest.mark.parametrize("config", CONFIGS)
def test_rows_are_plain_and_split_by_their_key(config):
    for split in ("train", "held_out"):
        listed = list(rows(config, 2, split, 8))
        assert len(listed) == 8
        for row in listed:
            assert split_of(row["text"] if config == "stories" else row["prompt"]) == split


def test_columns():
    columns = {config: set(next(rows(config, 1, "train", 1))) for config in CONFIGS}
    assert columns == {
        "stories": {"text", "logprob"},
        "prompts": {"prompt"},
        "conversations": {"prompt", "completion", "flaws"},
        "preferences": {"prompt", "chosen", "rejected", "utility_chosen", "utility_rejected", "probability"},
    }
    row = next(rows("preferences", 1, "train", 1))
    assert [message["role"] for message in row["chosen"] + row["rejected"]] == ["assistant"] * 2


def test_a_held_out_prompt_is_in_no_training_set():
    held_out = {
        row["prompt"][0]["content"]
        for config, seed in (("prompts", 1), ("conversations", 2))
        for row in rows(config, seed, "held_out", 100)
    }
    sizes = [("prompts", 1, 2500), ("prompts", 3, 500), ("conversations", 2, 200), ("preferences", 4, 100)]
    trained = {
        row["prompt"][0]["content"]
        for config, seed, count in sizes
        for row in rows(config, seed, "train", count)
    }
    assert not held_out & trained and len(trained) > 3000


def test_the_held_out_share_is_as_asked():
    texts = [row["prompt"] for split in ("train", "held_out") for row in rows("prompts", 7, split, 10)]
    assert {split_of(text) for text in texts} == {"train", "held_out"}
    names = [f"story number {index}" for index in range(4000)]
    for fraction in (0.1, 0.5):
        share = sum(split_of(name, held_out_fraction=fraction) == "held_out" for name in names) / len(names)
        assert abs(share - fraction) < 4 * (fraction * (1 - fraction) / len(names)) ** 0.5


def test_the_split_looks_at_the_first_user_message_alone_and_not_at_its_spacing():
    for index in range(50):
        text = f"Tell me a story number {index}."
        first = [{"role": "user", "content": text}]
        longer = [
            {"role": "user", "content": f"  {text.upper()}\n"},
            {"role": "assistant", "content": "Well"},
            {"role": "user", "content": "Who?"},
        ]
        assert split_of(first) == split_of(longer) == split_of(text)


@pytest.mark.parametrize("config", CONFIGS)
def test_workers_share_the_index_range(config):
    together = [repr(row) for row in rows(config, 3, "train", 12)]
    apart = [{repr(row) for row in rows(config, 3, "train", 12, start=worker, stride=2)} for worker in (0, 1)]
    assert not apart[0] & apart[1]
    assert set(together) <= apart[0] | apart[1]


def test_options_reach_the_rows():
    assert not any(row["flaws"] for row in rows("conversations", 1, "train", 20, flawed_share=0.0))
    likely = [row["probability"] for row in rows("preferences", 1, "train", 20, temperature=1e-6)]
    assert all(value == 0.5 or value > 0.999 for value in likely)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("tales", 1, "train", 1), {}, "unknown storyworld config 'tales'"),
        (("stories", 1, "test", 1), {}, "unknown split 'test'"),
        (("stories", 1, "train", 1), {"temperature": 1.0}, "no option temperature"),
        (("prompts", 1, "train", 1), {"stride": 0}, "stride"),
        (("prompts", 1, "train", 1), {"held_out_fraction": 1.5}, "held_out_fraction"),
    ],
)
def test_what_rows_refuse(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        rows(*arguments, **options)


def test_the_digest_is_that_of_the_rows():
    """Where this fails on purpose, raise VERSION and write the new value down as DIGEST."""
    assert compute_digest() == digest(), (
        "the rows changed: raise lexicon.VERSION and write down the new DIGEST"
    )


def digests_of_a_copy(folder: Path, file: str = "", old: str = "", new: str = "") -> list[str]:
    """(digest written down, digest of the rows) of the package under another name, with one text replaced."""
    place = folder / "moved" / "world"
    place.mkdir(parents=True)
    for source in Path(storyworld.__file__).parent.glob("*.py"):
        text = source.read_text(encoding="utf-8").replace(storyworld.__name__, "moved.world")
        if source.name == file:
            assert text.count(old) == 1
            text = text.replace(old, new)
        (place / source.name).write_text(f"# moved\n{text}", encoding="utf-8")
    command = "import moved.world; print(moved.world.digest(), moved.world.compute_digest())"
    found = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True,
                           cwd=folder)  # fmt: skip
    return found.stdout.split()


def test_where_the_files_lie_does_not_matter(tmp_path):
    assert digests_of_a_copy(tmp_path) == [digest(), digest()]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("words.py", "plucky, wistful", "plucky, wishful"),  # the rarest of its list
        ("plots.py", "It smelled of {*tree} and {*food}.", "It smelt of {*tree} and {*food}."),
        ("annotator.py", "BOTH_FLAWLESS_SHARE = 0.05", "BOTH_FLAWLESS_SHARE = 0.06"),
        ("utility.py", '"repetition": 1.5', '"repetition": 1.6'),
        ("requests.py", "Keep it short.", "Keep it brief."),
    ],
)
def test_a_changed_world_has_another_digest(tmp_path, file, old, new):
    written, rows_now = digests_of_a_copy(tmp_path, file, old, new)
    assert written == digest() != rows_now


def test_the_digest_of_the_version_before_is_still_this_world():
    sources = next(iter(history.DATA))
    assert history.data_digest(sources) == f"storyworld:{digest()}"
    assert history.data_digest(f"storyworld:{'0' * 64}") != f"storyworld:{digest()}"


def test_the_public_names_exist():
    assert all(hasattr(storyworld, name) for name in storyworld.__all__)


def test_the_import_is_light():
    command = (
        "import sys, toolkit.storyworld;"
        "print(sorted({'torch', 'datasets', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", command],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert found.stdout.strip() == "[]"
