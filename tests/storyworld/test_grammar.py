"""The combinators: one object generates, parses and enumerates, and its probabilities sum to one."""

from math import exp, isclose, log

import pytest

from toolkit.storyworld.grammar import (
    Alternation,
    Lexicon,
    Optional,
    Sentence,
    Sequence,
    Slot,
    Text,
    derivations,
    total_logprob,
)
from toolkit.storyworld.large.lexicon import LEXICONS, compile_template
from toolkit.storyworld.large.stories import story_grammar
from toolkit.storyworld.rng import RandomStream

PRONOUN = {"Ada": "she", "Bo": "he", "Cy": "he"}
PEOPLE = Lexicon([(name, {"": name, "he": PRONOUN[name]}) for name in PRONOUN], kinds=PRONOUN)


def hero(form=""):
    return Slot(PEOPLE, role="hero", form=form, apart=("friend",))


def friend():
    return Slot(PEOPLE, role="friend", apart=("hero",))


def small_grammar():
    meets = Sentence(Sequence([hero(), Text(" met "), friend(), Text(".")]), kind="opening", lead="")
    rest = Sentence(Sequence([Text("Then "), hero("he"), Text(" slept.")]), kind="middle")
    ends = {
        "well": Sentence(Sequence([hero(), Text(" smiled.")]), kind="closing"),
        "badly": Sentence(Sequence([friend(), Text(" wept.")]), kind="closing"),
    }
    return Sequence(
        [meets, Optional(rest, probability=0.3), Alternation(ends, weights=[2.0, 1.0], role="ending")]
    )


def restricted(node, memo=None):
    """The same grammar with two names and animals, one word of the others, and two options a choice."""
    memo = {} if memo is None else memo
    if id(node) in memo:
        return memo[id(node)]
    if isinstance(node, Slot):
        full = node.lexicon
        kept = full.keys[:2] if full in (LEXICONS["name"], LEXICONS["animal"]) else full.keys[:1]
        words = [(key, {form: surfaces[key] for form, surfaces in full.forms.items()}) for key in kept]
        lexicon = memo.setdefault(id(full), Lexicon(words, kinds=full.kinds))
        new = Slot(lexicon, role=node.role, form=node.form, apart=node.apart)
    elif isinstance(node, Alternation):
        options = [restricted(child, memo) for child in node.children[:2]]
        new = Alternation(
            dict(zip(node.values, options, strict=False)) if node.role else options, role=node.role
        )
    elif isinstance(node, Sequence):
        new = Sequence([restricted(child, memo) for child in node.children])
    elif isinstance(node, Optional):
        new = Optional(restricted(node.children[0], memo), probability=node.probability)
    elif isinstance(node, Sentence):
        new = Sentence(restricted(node.node, memo), kind=node.kind, lead=node.lead)
    else:
        new = node
    memo[id(node)] = new
    return new


def test_probabilities_of_a_small_grammar_sum_to_one_and_each_text_has_its_own():
    grammar = small_grammar()
    texts = [(text, logprob) for text, _, logprob in grammar.enumerate({})]
    assert len({text for text, _ in texts}) == len(texts) == 3 * 2 * 2 * 2
    assert isclose(sum(exp(logprob) for _, logprob in texts), 1.0, abs_tol=1e-12)
    for text, logprob in texts:
        assert isclose(total_logprob(derivations(grammar, text)), logprob, abs_tol=1e-12)


def test_probability_by_hand():
    weights = [1 / (rank + 3.0) ** 0.5 for rank in range(3)]
    total = sum(weights)
    by_hand = log(weights[1] / total) + log(weights[0] / (total - weights[1])) + log(0.3) + log(1 / 3)
    [(roles, logprob)] = derivations(small_grammar(), "Bo met Ada. Then he slept. Ada wept.")
    assert isclose(logprob, by_hand, abs_tol=1e-12)
    assert roles == {"hero": "Bo", "friend": "Ada", "ending": "badly"}


@pytest.mark.parametrize(
    "text",
    [
        "Bo met Bo. Bo smiled.",
        "Bo met Ada. Then she slept. Bo smiled.",
        "Bo met Ada. Cy smiled.",
        "Bo met Ada. Bo smiled. ",
        "Bo met Ada.",
        "",
        "Bo met Ada. Then he slept. Then he slept. Bo smiled.",
    ],
)
def test_texts_outside_the_language(text):
    assert total_logprob(derivations(small_grammar(), text)) is None


def test_derivations_of_an_ambiguous_text_are_summed():
    grammar = Alternation([Text("a"), Text("a"), Text("b")])
    assert isclose(total_logprob(derivations(grammar, "a")), log(2 / 3), abs_tol=1e-12)


def test_the_story_grammar_restricted_to_few_words_sums_to_one_without_ambiguity():
    plots = story_grammar().children[-1]
    for plot, beats in list(zip(plots.values, plots.children, strict=True))[::6]:
        grammar = restricted(Sequence([*story_grammar().children[:1], beats]))
        mass, texts = 0.0, []
        for text, _, logprob in grammar.enumerate({}):
            mass += exp(logprob)
            texts.append((text, logprob))
        assert isclose(mass, 1.0, abs_tol=1e-9), plot
        assert len({text for text, _ in texts}) == len(texts) > 100, plot
        for text, logprob in texts[:: max(1, len(texts) // 40)]:
            [(_, parsed)] = derivations(grammar, text)
            assert isclose(parsed, logprob, abs_tol=1e-9)


def test_generation_has_the_frequencies_that_the_probabilities_say():
    grammar, counts, draws = small_grammar(), {}, 4000
    for index in range(draws):
        out = []
        grammar.generate(RandomStream("frequency", index), {}, out)
        counts["".join(out)] = counts.get("".join(out), 0) + 1
    for text, _, logprob in grammar.enumerate({}):
        expected = draws * exp(logprob)
        assert abs(counts.get(text, 0) - expected) < 5 * expected**0.5 + 1, text


def test_a_bound_role_is_a_constraint_and_costs_nothing():
    out = []
    roles = {"hero": "Cy", "ending": "well", "length": "short"}
    logprob = small_grammar().generate(RandomStream("bound"), roles, out)
    assert "".join(out) in ("Cy met Ada. Cy smiled.", "Cy met Bo. Cy smiled.")
    assert isclose(logprob, PEOPLE.logprob_without(roles["friend"], ["Cy"]), abs_tol=1e-12)


def test_a_pronoun_before_its_word_is_a_bug_of_the_grammar():
    with pytest.raises(AssertionError, match="hero.he"):
        hero("he").generate(RandomStream("x"), {}, [])


def test_a_pronoun_of_an_unknown_word_is_read_by_its_kind():
    node = Sequence([hero("he"), Text(" saw "), hero()])
    assert [roles["hero"] for roles, _ in derivations(node, "he saw Bo")] == ["Bo"]
    assert derivations(node, "she saw Bo") == []


def test_templates():
    node = compile_template("[One|Two [big|]] {animal.a}[!|.]")
    assert derivations(node, "Two  an owl.") and derivations(node, "Two big a fox!")
    assert not derivations(node, "One an fox.")
    with pytest.raises(ValueError, match="does not close"):
        compile_template("a [b|c")
    with pytest.raises(ValueError, match="unbalanced"):
        compile_template("a ] b")


def test_streams_are_named_and_independent_of_each_other():
    first, again, other = RandomStream("a", 1), RandomStream("a", 1), RandomStream("a", 2)
    values = [first.uniform() for _ in range(300)]
    assert values == [again.uniform() for _ in range(300)]
    assert values != [other.uniform() for _ in range(300)]
    assert all(0.0 <= value < 1.0 for value in values) and 0.4 < sum(values) / 300 < 0.6
    assert RandomStream("a").child(1).uniform() == RandomStream("a", 1).uniform()
