"""The true distribution of the next token at each position of a text that a grammar derives.

A language model's surprise about a token divides into two parts: what chance explains (the surprise of the
truth, -log p(token | prefix)) and what the model has not learned. This module computes the first exactly,
for the tokenizer in use.

The grammar derives text, a tokenizer reads text. Byte-level BPE first splits a text into pieces (words with
their space, punctuation) and encodes each piece by itself. So a derivation gives a sequence of tokens as
soon as the end of each piece is known. The computation is the forward algorithm: a set of partial
derivations, each with its probability, that agree with all tokens so far; those of them that go on with the
next token are kept.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import exp, log

from toolkit.storyworld.grammar import Roles

Splitter = Callable[[str], list[str]]
Encoder = Callable[[str], list[int]]
_Stack = tuple | None


@dataclass(frozen=True)
class _Partial:
    """A partial derivation that agrees with all tokens so far.

    stack: linked list of the nodes that are still to be derived. text: derived but not yet in tokens.
    tokens: of the pieces that are complete. ended: nothing is left to derive, the end token included.
    """

    stack: _Stack
    roles: Roles
    logprob: float
    text: str = ""
    tokens: tuple[int, ...] = ()
    ended: bool = False


@dataclass(frozen=True)
class TokenTruth:
    """The truth about one position.

    Attributes:
        probabilities: token -> probability that it is next; they sum to 1.
        token: the token that is next in the text.
    """

    probabilities: dict[int, float]
    token: int

    @property
    def surprise(self) -> float:
        """-log p(token), in nats."""
        return -log(self.probabilities[self.token])

    @property
    def entropy(self) -> float:
        """Mean surprise over all tokens that can be next, in nats."""
        return -sum(value * log(value) for value in self.probabilities.values() if value > 0)


class NextTokenTruth:
    """Computes the true next-token distributions of the texts of a grammar.

    Args:
        grammar: node that derives whole texts.
        split: text -> pieces that the tokenizer encodes independently; their concatenation is the text.
        encode: text -> token ids.
        end: id of the token that ends a text.
    """

    def __init__(self, grammar, split: Splitter, encode: Encoder, end: int) -> None:
        self._grammar, self._end = grammar, end
        self._split = lru_cache(maxsize=100_000)(lambda text: tuple(split(text)))
        self._encode = lru_cache(maxsize=100_000)(lambda text: tuple(encode(text)))
        self._encode_whole = encode

    @classmethod
    def of_tokenizer(cls, grammar, tokenizer) -> "NextTokenTruth":
        """Return the truth for a tokenizer of transformers; its eos ends a text.

        Raises:
            ValueError: the tokenizer does not split texts into pieces.
        """
        splitter = tokenizer.backend_tokenizer.pre_tokenizer if tokenizer.is_fast else None
        if splitter is None:
            raise ValueError("the tokenizer does not split texts into pieces, so tokens can span words")

        def split(text: str) -> list[str]:
            spans = [span for _, span in splitter.pre_tokenize_str(text)]
            return [text[start:end] for start, end in spans]

        def encode(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        return cls(grammar, split, encode, tokenizer.eos_token_id)

    def __call__(self, text: str, *, ended: bool = True) -> list[TokenTruth]:
        """Return the truth about each token of a text, and about the end token after it if it has `ended`.

        Raises:
            ValueError: the grammar does not derive the text, or the tokenizer merges across pieces.
        """
        ids = self._encode_whole(text)
        if ids != [token for piece in self._split(text) for token in self._encode(piece)]:
            raise ValueError("the tokenizer merges across words, so the truth cannot be computed for it")
        partials, truths = self._start(), []
        for position, token in enumerate([*ids, self._end] if ended else ids):
            extended, probabilities = self._distribution(partials)
            if token not in probabilities:
                raise ValueError(f"the grammar does not derive this text, from token {position} on")
            truths.append(TokenTruth(probabilities, token))
            partials = self._followed(extended, token)
        return truths

    def after(self, ids: Sequence[int]) -> dict[int, float]:
        """Return token -> probability that it follows the first tokens of a text.

        Raises:
            ValueError: no text of the grammar begins with these tokens.
        """
        partials = self._start()
        for position, token in enumerate(ids):
            extended, probabilities = self._distribution(partials)
            if token not in probabilities:
                raise ValueError(f"no text of the grammar begins like this, from token {position} on")
            partials = self._followed(extended, token)
        return self._distribution(partials)[1]

    def _start(self) -> list[_Partial]:
        return [_Partial((self._grammar, None), {}, 0.0)]

    def _distribution(self, partials: list[_Partial]) -> tuple[dict[int, list[_Partial]], dict[int, float]]:
        """Return the partial derivations by their next token, and the probability of each token."""
        by_token: dict[int, list[_Partial]] = defaultdict(list)
        for partial in partials:
            for extended in self._with_next_token(partial):
                by_token[extended.tokens[0]].append(extended)
        weights = {key: sum(exp(item.logprob) for item in items) for key, items in by_token.items()}
        total = sum(weights.values())
        return by_token, {key: weight / total for key, weight in weights.items()}

    def _followed(self, by_token: dict[int, list[_Partial]], token: int) -> list[_Partial]:
        """Return the partial derivations that go on with a token; their probabilities sum to 1."""
        total = sum(exp(item.logprob) for item in by_token[token])
        return [
            replace(item, tokens=item.tokens[1:], logprob=item.logprob - log(total))
            for item in by_token[token]
        ]

    def _with_next_token(self, partial: _Partial) -> list[_Partial]:
        """Extend a partial derivation in every way until its next token is known."""
        finished, open_partials = [], [partial]
        while open_partials:
            current = open_partials.pop()
            if current.tokens:
                finished.append(current)
                continue
            pieces = self._split(current.text) if current.text else ()
            if len(pieces) > 1:
                # The last piece may still grow.
                tokens = tuple(token for piece in pieces[:-1] for token in self._encode(piece))
                finished.append(replace(current, text=pieces[-1], tokens=tokens))
            elif current.stack is None:
                tokens = self._encode(current.text) if current.text else ()
                finished.append(replace(current, text="", tokens=(*tokens, self._end), ended=True))
            else:
                node, rest = current.stack
                for emitted, children, roles, logprob in node.expand(current.roles):
                    stack = rest
                    for child in reversed(children):
                        stack = (child, stack)
                    open_partials.append(
                        _Partial(stack, roles, current.logprob + logprob, current.text + emitted)
                    )
        return [item for item in finished if not (item.ended and not item.tokens)]
