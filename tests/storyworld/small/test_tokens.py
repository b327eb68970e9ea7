"""The tokenizer of recipes/tiny has one token for every word of the world."""

from pathlib import Path

from toolkit.config import loader
from toolkit.data.text import documents
from toolkit.stages.tokenizer import learn
from toolkit.storyworld import SMALL

RECIPE = Path(__file__).parents[3] / "recipes" / "tiny" / "tokenizer.yaml"


def test_every_word_is_one_token_and_no_entry_is_missing():
    recipe = loader.load(RECIPE).recipe
    stream = documents.Stream(recipe.data, part="train", seed=recipe.seed)
    pieces = [piece.text for piece in documents.whole_words(stream)]
    tokenizer = learn(pieces, vocab_size=recipe.vocab_size + 100)
    assert len(tokenizer) == recipe.vocab_size
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    words = set()
    for config in ("stories", "turns"):
        for row in SMALL.rows(config, 5, "held_out", 300):
            text = row["text"]
            words |= {text[start:end] for _, (start, end) in splitter.pre_tokenize_str(text)}
    assert len(words) > 300
    assert [word for word in sorted(words) if len(tokenizer(word)["input_ids"]) > 1] == []
