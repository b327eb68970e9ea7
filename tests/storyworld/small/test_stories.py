"""The small world's stories: exact probabilities of texts, of prefixes and of next tokens."""

import re
from collections import Counter, defaultdict
from math import exp, isclose, log
from statistics import mean

import pytest

from toolkit.stages.tokenizer import learn
from toolkit.storyworld import SMALL
from toolkit.storyworld.grammar import Alternation, ByRoles, Lexicon, Optional, Sentence, Sequence, Slot
from toolkit.storyworld.next_token import NextTokenTruth
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.small import meaning
from toolkit.storyworld.small.prompts import read_prompt
from toolkit.storyworld.small.stories import (
    LANGUAGE,
    document,
    document_logprob,
    next_token_truth,
    story,
    story_derivations,
)

STORIES = [story(5, index) for index in range(300)]
DOCUMENTS = [document(5, index) for index in range(300)]
TWO_WORDS = ("name", "animal")


def cut_down(node, memo=None, wordings=1):
    """Return the grammar with two names and animals, one word of the others, two values of each role.

    wordings: options of a choice that binds no role; questions always have two.
    """
    memo = {} if memo is None else memo
    if id(node) in memo:
        return memo[id(node)][1]
    if isinstance(node, Slot):
        full = node.lexicon
        keys = full.keys[: 2 if any(full is LANGUAGE.lexicons[name] for name in TWO_WORDS) else 1]
        words = [(key, {form: surfaces[key] for form, surfaces in full.forms.items()}) for key in keys]
        _, lexicon = memo.setdefault(id(full), (full, Lexicon(words, exponent=0.0, kinds=full.kinds)))
        new = Slot(lexicon, role=node.role, form=node.form, apart=node.apart)
    elif isinstance(node, Alternation):
        count = 2 if node.role else wordings
        options = [cut_down(child, memo, wordings) for child in node.children[:count]]
        weights = [exp(logprob) for logprob in node.logprobs[:count]]
        by_value = dict(zip(node.values, options, strict=False)) if node.role else options
        new = Alternation(by_value, weights=weights, role=node.role)
    elif isinstance(node, Sentence):
        new = Sentence(cut_down(node.node, memo, wordings), kind=node.kind, lead=node.lead)
    elif isinstance(node, Sequence):
        new = Sequence([cut_down(child, memo, wordings) for child in node.children])
    elif isinstance(node, Optional):
        new = Optional(cut_down(node.children[0], memo, wordings), probability=node.probability)
    elif isinstance(node, ByRoles):
        new = ByRoles(lambda roles: cut_down(node.choose(roles), memo, wordings=2))
    else:
        new = node
    memo[id(node)] = (node, new)  # with the node, so that no other one gets its id
    return new


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer in which words of the world are single tokens, and some are not."""
    return learn((row["text"] + " " for row in SMALL.rows("stories", 0, "train", 400)), vocab_size=700)


@pytest.fixture(scope="module")
def enumerated():
    """Every text of the cut-down grammar with its probability."""
    probabilities = defaultdict(float)
    for text, _, logprob in cut_down(LANGUAGE.document_grammar).enumerate({}):
        probabilities[text] += exp(logprob)
    return dict(probabilities)


def test_every_story_has_one_derivation_with_its_probability_and_roles():
    for drawn in STORIES:
        [(roles, logprob)] = story_derivations(drawn.text)
        assert roles == drawn.roles
        assert isclose(logprob, drawn.logprob, abs_tol=1e-9)
        facts = LANGUAGE.reader.read(drawn.text)
        assert None not in facts.kinds and facts.conflicts == 0
        assert {"length": "short", **facts.facts} == drawn.roles


def test_every_document_has_its_probability_and_true_answers():
    untold = 0
    for drawn in DOCUMENTS:
        assert isclose(document_logprob(drawn.text), drawn.logprob, abs_tol=1e-9)
        blurb, text, *questions = drawn.text.split("\n")
        [(roles, _)] = story_derivations(text)
        assert roles == drawn.roles
        assert len(questions) == (1 if meaning.PLOTS[roles["plot"]].unkind else 2)
        for line in questions:
            question, _, given = line.partition("? ")
            messages = [{"role": "assistant", "content": text}, {"role": "user", "content": question + "?"}]
            right = read_prompt([{"role": "user", "content": blurb}, *messages]).right
            assert given == right
            untold += right == LANGUAGE.not_told
    assert 0.2 < untold / len(DOCUMENTS) < 0.7


def test_a_habit_is_asked_about_whether_the_story_says_it_or_not():
    """Without such questions, the kind of question alone would show that the story leaves it open."""
    told = Counter()
    for drawn in (document(11, index) for index in range(2000)):
        for line in drawn.text.split("\n")[2:]:
            if line.startswith(("Where did", "How many", "What did")) and re.search(
                "live|coins|love to eat", line
            ):
                told[LANGUAGE.not_told not in line] += 1
    assert 0.15 < told[True] / told.total() < 0.5


def test_the_enumerated_probabilities_sum_to_one_and_give_the_floor(enumerated, tokenizer):
    """The entropy by enumeration equals the expected surprise of the truth at every position."""
    assert len(enumerated) > 2000
    assert isclose(sum(enumerated.values()), 1.0, abs_tol=1e-9)
    floor = -sum(value * log(value) for value in enumerated.values())
    truth = NextTokenTruth.of_tokenizer(cut_down(LANGUAGE.document_grammar), tokenizer)
    first = truth(next(iter(enumerated)))
    chain = 0.0
    texts = sorted(enumerated)[::40]
    for text in texts:
        surprise = sum(position.surprise for position in truth(text))
        assert isclose(surprise, -log(enumerated[text]), abs_tol=1e-9)
        chain += enumerated[text] * surprise
    assert isclose(chain, -sum(enumerated[text] * log(enumerated[text]) for text in texts), abs_tol=1e-9)
    assert 0 < max(position.entropy for position in first) < floor


def test_prefix_probabilities_equal_those_of_the_enumerated_texts(enumerated, tokenizer):
    truth = NextTokenTruth.of_tokenizer(cut_down(LANGUAGE.document_grammar), tokenizer)
    encoded = {
        text: (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
        for text in enumerated
    }
    mass = Counter()
    for text, ids in encoded.items():
        for length in range(len(ids) + 1):
            mass[ids[:length]] += enumerated[text]
    for text in sorted(enumerated)[::150]:
        ids = encoded[text]
        for position, known in enumerate(truth(text)):
            prefix = ids[:position]
            for token, probability in known.probabilities.items():
                assert isclose(probability, mass[(*prefix, token)] / mass[prefix], abs_tol=1e-9)


def test_the_truth_explains_whole_documents_and_knows_what_is_certain(tokenizer):
    truth = next_token_truth(tokenizer)
    for drawn in DOCUMENTS[:40]:
        positions = truth(drawn.text)
        assert isclose(-sum(position.surprise for position in positions), drawn.logprob, abs_tol=1e-9)
        assert all(isclose(sum(position.probabilities.values()), 1.0) for position in positions)
        assert positions[-1].token == tokenizer.eos_token_id and positions[-1].surprise < 1e-12
    with pytest.raises(ValueError, match="does not derive this text, from token"):
        truth("A story about a fox who finds a zebra.\nMia was a small fox.")


def test_the_truth_after_a_prefix_is_that_at_its_position_in_a_document(tokenizer):
    truth = next_token_truth(tokenizer)
    text = DOCUMENTS[0].text
    ids = tokenizer(text)["input_ids"]
    positions = truth(text)
    for length in (0, 1, 5, 30, len(ids)):
        after = truth.after(ids[:length])
        assert after.keys() == positions[length].probabilities.keys()
        for token, probability in after.items():
            assert isclose(probability, positions[length].probabilities[token], rel_tol=1e-12)
    with pytest.raises(ValueError, match="begins like this, from token 2 on"):
        truth.after([*ids[:2], tokenizer.eos_token_id])


def test_frequencies_of_stories_agree_with_their_probabilities(enumerated):
    """Pearson's chi-squared over 20,000 texts; rare texts are pooled so that each cell expects 20."""
    grammar, count = cut_down(LANGUAGE.document_grammar), 20_000
    seen = Counter()
    for index in range(count):
        out = []
        grammar.generate(RandomStream("chi squared", index), {}, out)
        seen["".join(out)] += 1
    assert set(seen) <= set(enumerated)
    cells, pool = [], [0, 0.0]
    for text, probability in enumerated.items():
        pool[0] += seen[text]
        pool[1] += count * probability
        if pool[1] >= 20:
            cells.append(tuple(pool))
            pool = [0, 0.0]
    statistic = sum((observed - expected) ** 2 / expected for observed, expected in cells)
    freedom = len(cells) - 1
    # A chi-squared variable has mean f and variance 2f; five standard deviations are one in three million.
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5, (statistic, freedom)


def test_role_frequencies_of_the_full_grammar_agree_with_the_tables():
    stories = [story(7, index) for index in range(4000)]
    expected = {
        ("plot", name): plot.share / sum(other.share for other in meaning.PLOTS.values())
        for name, plot in meaning.PLOTS.items()
    }
    expected |= {("ending", name): share for name, share in meaning.ENDINGS.items()}
    expected |= {("animal", name): 1 / len(meaning.ANIMALS) for name in meaning.ANIMALS}
    for (role, value), probability in expected.items():
        share = mean(drawn.roles[role] == value for drawn in stories)
        assert abs(share - probability) < 5 * (probability * (1 - probability) / len(stories)) ** 0.5


def test_the_world_is_small_and_its_stories_are_short():
    texts = [story(3, index).text for index in range(3000)]
    words = {word for text in texts for word in re.findall(r"[A-Za-z]+", text)}
    lengths = sorted(len(text.split()) for text in texts)
    assert 200 <= len(words) <= 400 and len(meaning.NAMES) == 30
    assert lengths[len(lengths) // 50] >= 25 and mean(lengths) < 50
    assert {name for name, kind in meaning.NAMES.items() if kind == "she"} & words


def test_a_bank_is_by_the_river_or_full_of_money():
    texts = [story(3, index).text for index in range(3000)]
    sentences = {
        sentence for text in texts for sentence in re.split(r"(?<=[.]) ", text) if "bank" in sentence
    }
    river = {text for text in sentences if re.search("river|water", text)}
    money = {text for text in sentences if re.search("coins|money", text)}
    assert river and money and not river & money and river | money == sentences


def test_changed_stories_are_not_in_the_language():
    for drawn in STORIES[:60]:
        assert story_derivations(drawn.text + " ") == []
        assert story_derivations(drawn.text.rsplit(". ", 1)[0] + ".") == []
        other = next(name for name in meaning.NAMES if name not in drawn.text)
        head, hero, tail = drawn.text.rpartition(drawn.roles["hero"])
        assert story_derivations(head + other + tail) == []
        assert hero and LANGUAGE.reader.read(head + other + tail).conflicts == 1
