"""Rows, splits, provenance and the import of the storyworld as a whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit import storyworld
from toolkit.config import history
from toolkit.storyworld import LARGE, WORLDS, get_world, split_of

EVERY_CONFIG = [(world, config) for world in WORLDS.values() for config in world.sources]
IDS = [f"{world.name}-{config}" for world, config in EVERY_CONFIG]


@pytest.mark.parametrize(("world", "config"), EVERY_CONFIG, ids=IDS)
def test_rows_are_split_by_their_key(world, config):
    for split in ("train", "held_out"):
        listed = list(world.rows(config, 2, split, 8))
        assert len(listed) == 8
        if config != "turns":
            for row in listed:
                assert split_of(row["text"] if config == "stories" else row["prompt"]) == split


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_columns(world):
    columns = {config: set(next(world.rows(config, 1, "train", 1))) for config in world.sources}
    assert columns == {
        **({"turns": {"text"}} if world.name == "small" else {}),
        "stories": {"text", "logprob"},
        "prompts": {"prompt"},
        "conversations": {"prompt", "completion", "flaws"},
        "preferences": {"prompt", "chosen", "rejected", "utility_chosen", "utility_rejected", "probability"},
    }
    row = next(world.rows("preferences", 1, "train", 1))
    assert [message["role"] for message in row["chosen"] + row["rejected"]] == ["assistant"] * 2


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_no_held_out_prompt_is_in_a_training_set(world):
    held_out = {
        row["prompt"][0]["content"]
        for config, seed in (("prompts", 1), ("conversations", 2))
        for row in world.rows(config, seed, "held_out", 100)
    }
    sizes = [("prompts", 1, 2500), ("prompts", 3, 500), ("conversations", 2, 200), ("preferences", 4, 100)]
    trained = {
        row["prompt"][0]["content"]
        for config, seed, count in sizes
        for row in world.rows(config, seed, "train", count)
    }
    assert not held_out & trained and len(trained) > 2000


def test_the_held_out_share_is_as_asked():
    texts = [row["prompt"] for split in ("train", "held_out") for row in LARGE.rows("prompts", 7, split, 10)]
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


@pytest.mark.parametrize(("world", "config"), EVERY_CONFIG, ids=IDS)
def test_workers_share_the_index_range(world, config):
    together = [repr(row) for row in world.rows(config, 3, "train", 12)]
    apart = [
        {repr(row) for row in world.rows(config, 3, "train", 12, start=worker, stride=2)} for worker in (0, 1)
    ]
    if world is LARGE:  # the small world has few prompts, which occur again
        assert not apart[0] & apart[1]
    assert set(together) <= apart[0] | apart[1]


@pytest.mark.parametrize("world", WORLDS)
def test_rows_are_the_same_in_another_process_with_another_hash_seed(world):
    command = (
        f"from hashlib import sha256; from toolkit.storyworld import get_world; world = get_world({world!r});"
        "rows = [list(world.rows(config, 9, 'train', 12)) for config in world.sources];"
        "print(sha256(repr(rows).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", command],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_options_reach_the_rows():
    assert not any(row["flaws"] for row in LARGE.rows("conversations", 1, "train", 20, flawed_share=0.0))
    likely = [row["probability"] for row in LARGE.rows("preferences", 1, "train", 20, temperature=1e-6)]
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
        LARGE.rows(*arguments, **options)


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_the_digest_is_that_of_the_rows(world):
    """Where this fails on purpose, raise VERSION and write the new value down as DIGEST."""
    assert world.compute_digest() == world.digest, (
        "the rows changed: raise VERSION, write down the new DIGEST"
    )


FEW = {"stories": 1000, "conversations": 300, "preferences": 200, "prompts": 500, "turns": 500}
"""Half of the rows of a digest."""


def digest_of_a_copy(folder: Path, world: str, file: str = "", old: str = "", new: str = "") -> str:
    """Return the digest of FEW rows of the package under another name, with one text replaced."""
    package = folder / "moved" / "worlds"
    root = Path(storyworld.__file__).parent
    for source in root.rglob("*.py"):
        text = source.read_text(encoding="utf-8").replace(storyworld.__name__, "moved.worlds")
        if str(source.relative_to(root)) == file:
            assert text.count(old) == 1
            text = text.replace(old, new)
        copy = package / source.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(f"# moved\n{text}", encoding="utf-8")
    command = (
        f"import moved.worlds; moved.worlds.world.GOLDEN = {FEW};"
        f"print(moved.worlds.get_world({world!r}).compute_digest())"
    )
    completed = subprocess.run(
        [sys.executable, "-c", command], check=True, capture_output=True, text=True, cwd=folder
    )
    return completed.stdout.strip()


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr("toolkit.storyworld.world.GOLDEN", FEW)


def test_the_digest_does_not_depend_on_the_location_of_the_files(few, tmp_path):
    assert digest_of_a_copy(tmp_path, "large") == LARGE.compute_digest()


@pytest.mark.parametrize(
    ("world", "file", "old", "new"),
    [
        ("large", "large/words.py", "plucky, wistful", "plucky, wishful"),  # the rarest of its list
        ("large", "large/plots.py", "It smelled of {*tree} and", "It smelt of {*tree} and"),
        ("large", "large/preferences.py", "BOTH_FLAWLESS_SHARE = 0.05", "BOTH_FLAWLESS_SHARE = 0.06"),
        ("large", "large/utility.py", '"repetition": 1.5', '"repetition": 1.6'),
        ("large", "large/requests.py", "Keep it short.", "Keep it brief."),
        ("small", "small/english.py", "Keep it short.", "Keep it brief."),
        ("small", "small/language.py", "UNTOLD_SHARE = 0.5", "UNTOLD_SHARE = 0.45"),
        ("small", "small/utility.py", '"honest": 4.0', '"honest": 4.1'),
    ],
)
def test_a_changed_world_has_another_digest(few, tmp_path, world, file, old, new):
    assert digest_of_a_copy(tmp_path, world, file, old, new) != get_world(world).compute_digest()


def test_the_digest_of_the_version_before_is_still_this_world():
    sources = next(iter(history.DATA))
    assert history.data_digest(sources) == f"storyworld:{LARGE.digest}"
    assert history.data_digest(f"storyworld:{'0' * 64}") != f"storyworld:{LARGE.digest}"


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


def test_a_source_without_a_world_is_of_the_large_one():
    assert get_world() is get_world(None) is LARGE
    with pytest.raises(ValueError, match="unknown world 'tiny'; there are small, large"):
        get_world("tiny")
