"""Pairs of answers that people compare blindly: who sees which pair, on which side, and how often.

What a person sees is a `Showing`, whose id is random and tells nothing. Sides, repeats and checks are drawn
from streams that are named after the contest, the annotator and the pair.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from toolkit.base.errors import UsageError
from toolkit.base.rng import derive
from toolkit.playground.feedback import NewVote, VoteLog

Message = dict[str, str]

VALUES = ("left", "right", "tie", "bad")
LEAVE_SECONDS = 600.0
"""After this time a pair that was shown and not voted on is shown to another annotator."""
REPEAT_DISTANCE = 4
"""Votes between a pair and its repetition."""
FEWEST_WORDS = 6
"""Of an answer whose shuffled words are an attention check."""
SHUFFLED = "shuffled words"
"""Name of the source of damaged answers."""
MAX_VOTERS = 1000
CHECKED_PAIRS = 200
"""The newest pairs, of which an answer may be an attention check."""
AHEAD, MAX_AHEAD = 3, 16
"""Pairs that nobody has seen yet: as many as people vote, and some more."""


@dataclass(frozen=True)
class ContestSettings:
    """What is compared.

    Attributes:
        models: ids; with one, its answers are compared with each other.
        prompt: the only prompt, that somebody typed; None for those of the data.
        max_new_tokens, temperature: of the answers; None is the model's own.
        annotators: different people that vote on each pair.
        repeats, checks: share of the pairs that are shown again to the same person, and of the pairs of
            which one answer is damaged.
        reveal: tell the models after each vote.
    """

    models: tuple[str, ...]
    prompt: str | None = None
    max_new_tokens: int = 200
    temperature: float | None = None
    annotators: int = 1
    repeats: float = 0.1
    checks: float = 0.05
    reveal: bool = False


@dataclass(eq=False)
class AnswerPair:
    """Two answers to a prompt.

    Attributes:
        number: position among the pairs of the contest, for random streams.
        models, answers, ended: of a and b; `ended` is False where the limit of tokens cut an answer off.
        given: voter -> when the pair was shown to them.
        voted: those who voted.
        refused: those who are not to see it again: they skipped it, or were told its models.
    """

    number: int
    prompt: list[Message]
    models: tuple[str, str]
    answers: tuple[str, str]
    ended: tuple[bool, bool] = (True, True)
    given: dict[str, float] = field(default_factory=dict)
    voted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Showing:
    """A pair as one person sees it.

    Attributes:
        id: what the browser calls it.
        order: `ab` or `ba`, which answer is on the left.
        kind: as in the file of votes.
        vote: how it was voted on; `vote_id` is in the file.
    """

    id: str
    pair: AnswerPair
    voter: str
    order: str
    kind: str
    vote: str | None = None
    vote_id: str | None = None

    def sides(self) -> list[int]:
        """Return which answer is on the left and which on the right."""
        return [0, 1] if self.order == "ab" else [1, 0]

    def new_vote(self, value: str) -> NewVote:
        """Return the vote for a side as it is recorded."""
        vote = {"left": self.order[0], "right": self.order[1]}.get(value, value)
        return NewVote(self.pair.prompt, *self.pair.answers, vote, self.voter, self.pair.models, self.order,
                       self.kind)  # fmt: skip


@dataclass(eq=False)
class _Voter:
    """Attributes:
    shown: number of pairs shown so far.
    waiting: what they see now, and what an undo put off.
    history: what they voted on, in order.
    lock: held while something of this person is written to the disk.
    """

    shown: int = 0
    seen: float = 0.0
    waiting: list[Showing] = field(default_factory=list)
    history: list[Showing] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class BlindContest:
    """The state of one comparison. Thread-safe; no method waits for a model.

    Attributes:
        identical: pairs that were left out because both answers are the same.
    """

    def __init__(self, settings: ContestSettings, *, seed: int = 0, name: str = ""):
        self.settings, self.seed, self.name = settings, seed, name
        self.identical = 0
        self._lock = threading.Lock()
        self._newest: deque[AnswerPair] = deque(maxlen=CHECKED_PAIRS)
        self._open: list[AnswerPair] = []
        self._voters: dict[str, _Voter] = {}
        self._showings: dict[str, Showing] = {}

    def add(self, pair: AnswerPair) -> bool:
        """Add a pair; return False, and count it, if both answers are the same."""
        with self._lock:
            if pair.answers[0].strip() == pair.answers[1].strip():
                self.identical += 1
                return False
            self._newest.append(pair)
            self._open.append(pair)
            return True

    def wanted(self) -> int:
        """Return how many more pairs should be made ahead."""
        now = time.monotonic()
        with self._lock:
            active = sum(now - voter.seen < LEAVE_SECONDS for voter in self._voters.values())
            fresh = sum(not (pair.given or pair.voted or pair.refused) for pair in self._open)
        return min(AHEAD + active, MAX_AHEAD) - fresh

    def next(self, name: str) -> Showing | None:
        """Return what a voter sees now; None if a pair has to be made first.

        Raises:
            UsageError: too many people vote.
        """
        with self._lock:
            voter = self._voter(name)
            voter.seen = time.monotonic()
            if voter.waiting:
                return voter.waiting[-1]
            showing = self._check(name, voter) or self._repeat(name, voter) or self._fresh(name, voter)
            if showing is None:
                return None
            voter.shown += 1
            voter.waiting.append(showing)
            self._showings[showing.id] = showing
            return showing

    def vote(self, log: VoteLog, name: str, showing_id: str, value: str) -> Showing:
        """Record a vote; the same vote again changes nothing.

        Raises:
            UsageError: this person does not see such a pair, or voted differently on it.
        """
        with self._lock:
            voter = self._voter(name)
        with voter.lock:
            with self._lock:
                showing = self._showing(name, showing_id)
            if showing.vote is not None:
                if showing.vote == value:
                    return showing
                raise UsageError("you voted on this pair already", where="vote", fix="undo that vote first")
            showing.vote_id = log.add(showing.new_vote(value))  # milliseconds, in which others go on
            with self._lock:
                showing.vote = value
                voter.waiting.remove(showing)
                voter.history.append(showing)
                if showing.kind == "normal":
                    showing.pair.voted.add(name)
                    self._close(showing.pair)
                if self.settings.reveal:
                    showing.pair.refused.add(name)
            return showing

    def skip(self, name: str, showing_id: str) -> None:
        """Show another pair instead.

        Raises:
            UsageError: this person does not see such a pair.
        """
        with self._lock:
            voter = self._voter(name)
        with voter.lock, self._lock:
            showing = self._showing(name, showing_id)
            if showing not in voter.waiting:
                return
            voter.waiting.remove(showing)
            del self._showings[showing_id]
            showing.pair.refused.add(name)
            showing.pair.given.pop(name, None)

    def undo(self, log: VoteLog, name: str) -> Showing | None:
        """Take back the last vote of a person, who sees its pair again, unless its models were told.

        Returns:
            What was voted on; None if this person has not voted.
        """
        with self._lock:
            voter = self._voter(name)
        with voter.lock:
            if not voter.history:
                return self._undo_earlier(log, name)
            showing = voter.history[-1]
            assert showing.vote_id is not None
            log.undo(showing.vote_id)
            with self._lock:
                voter.history.pop()
                showing.vote = showing.vote_id = None
                if showing.kind == "normal":
                    showing.pair.voted.discard(name)
                    if showing.pair not in self._open:
                        self._open.insert(0, showing.pair)
                if self.settings.reveal:
                    del self._showings[showing.id]
                else:
                    voter.waiting.append(showing)
            return showing

    def progress(self, name: str) -> dict[str, int]:
        """Return numbers for a voter: their votes, and the identical pairs that were left out."""
        with self._lock:
            voter = self._voters.get(name)
            return {"votes": len(voter.history) if voter else 0, "identical": self.identical}

    def restore(self, pairs: Iterable[AnswerPair]) -> None:
        """Take over pairs of before that have fewer votes than `annotators`."""
        with self._lock:
            self._open.extend(pairs)

    def _undo_earlier(self, log: VoteLog, name: str) -> Showing | None:
        """Take back a vote that was given before the server started."""
        last = log.last(name)
        if last is None or not set(_names(last["models"])) <= {*self.settings.models, SHUFFLED}:
            return None
        log.undo(last["id"])
        order = last["shown"] or "ab"
        pair = AnswerPair(-1, [], ("", ""), (last["answer_a"], last["answer_b"]))
        return Showing("", pair, name, order, last["kind"])

    def _voter(self, name: str) -> _Voter:
        if name not in self._voters and len(self._voters) >= MAX_VOTERS:
            raise UsageError(f"{MAX_VOTERS} people vote already", where="voter", fix="use a name of before")
        return self._voters.setdefault(name, _Voter())

    def _showing(self, name: str, showing_id: str) -> Showing:
        found = self._showings.get(showing_id)
        if found is None or found.voter != name:
            raise UsageError(
                "this pair is not shown any more", where="item", fix="vote on the next pair; nothing is lost"
            )
        return found

    def _draw(self, *names: str | int) -> float:
        return derive(self.seed, "compare", self.name, *names) / 2**63

    def _show(self, name: str, voter: _Voter, pair: AnswerPair, kind: str) -> Showing:
        order = "ab" if self._draw("side", name, voter.shown) < 0.5 else "ba"
        return Showing(secrets.token_hex(12), pair, name, order, kind)

    def _check(self, name: str, voter: _Voter) -> Showing | None:
        """Return a check: an answer beside the same one with its words shuffled."""
        if self._draw("check", name, voter.shown) >= self.settings.checks:
            return None
        for pair in reversed(self._newest):
            words = pair.answers[0].split()
            if len(words) < FEWEST_WORDS or name in pair.voted or name in pair.given:
                continue
            generator = np.random.default_rng(derive(self.seed, "shuffle", self.name, pair.number, name))
            shuffled = [words[index] for index in generator.permutation(len(words))]
            if shuffled == words:
                continue
            damaged = AnswerPair(
                pair.number, pair.prompt, (pair.models[0], SHUFFLED), (pair.answers[0], " ".join(shuffled))
            )
            return self._show(name, voter, damaged, "attention")
        return None

    def _repeat(self, name: str, voter: _Voter) -> Showing | None:
        if self._draw("repeat", name, voter.shown) >= self.settings.repeats:
            return None
        again = {id(one.pair) for one in voter.history if one.kind == "repeat"}
        for old in voter.history[: max(0, len(voter.history) - REPEAT_DISTANCE)]:
            if old.kind == "normal" and id(old.pair) not in again and old.pair.number >= 0:
                return self._show(name, voter, old.pair, "repeat")
        return None

    def _fresh(self, name: str, voter: _Voter) -> Showing | None:
        now = time.monotonic()
        for pair in self._open:
            others = {other for other, when in pair.given.items() if now - when < LEAVE_SECONDS} | pair.voted
            is_known = name in pair.voted or name in pair.refused
            if is_known or len(others - {name}) >= self.settings.annotators:
                continue
            pair.given[name] = now
            return self._show(name, voter, pair, "normal")
        return None

    def _close(self, pair: AnswerPair) -> None:
        if len(pair.voted) >= self.settings.annotators and pair in self._open:
            self._open.remove(pair)


def _names(models: str | None) -> list[str]:
    return json.loads(models) if models else []
