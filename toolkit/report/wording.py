"""What the summary of a folder says: every sentence as a template, apart from the decision which one applies.

`toolkit.report.lesson` decides and returns messages; `say` writes them in a language. Another language is
another dictionary with the keys of `ENGLISH`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Wording = Mapping[str, str]
"""Key of a message -> its template, for `str.format` with the fields of the message."""


@dataclass(frozen=True)
class Message:
    """A sentence, or a part of one, in no language yet.

    Attributes:
        key: of its template.
        fields: values of the template. A text stays as it is (a number, a name of a model), a message is
            said first, and the parts of a sequence are joined with the template `list`.
    """

    key: str
    fields: Mapping[str, str | Message | Sequence[str | Message]] = field(default_factory=dict)


def message(key: str, **fields: str | Message | Sequence[str | Message]) -> Message:
    """Return a message."""
    return Message(key, fields)


def say(part: str | Message | Sequence[str | Message], wording: Wording | None = None) -> str:
    """Return a message as text; in English by default.

    Raises:
        KeyError: the wording has no template of this key, or a template asks for an unknown field.
    """
    wording = ENGLISH if wording is None else wording
    if isinstance(part, str):
        return part
    if isinstance(part, Message):
        fields = {name: say(value, wording) for name, value in part.fields.items()}
        return wording[part.key].format(**fields)
    return wording["list"].join(say(item, wording) for item in part)


ENGLISH: dict[str, str] = {
    "list": ", ",
    # Columns: heading in at most two lines, name in a sentence, meaning.
    "heading.bits_per_byte": "bits per\nbyte",
    "heading.wish_rate": "wishes\nmet",
    "heading.answer_accuracy": "answers\nright",
    "heading.refusal_rate": "unkind\nrefused",
    "heading.over_refusal_rate": "kind\nrefused",
    "heading.wellformed": "gram-\nmatical",
    "heading.ended": "answers\nended",
    "heading.mean_length": "mean\nlength",
    "heading.kl_to_baseline": "KL from\n{baseline}",
    "heading.win_rate": "win rate\nagainst {baseline}",
    "name.bits_per_byte": "bits per byte",
    "name.wish_rate": "wishes met",
    "name.answer_accuracy": "answers right",
    "name.refusal_rate": "unkind requests refused",
    "name.over_refusal_rate": "kind requests refused",
    "name.wellformed": "grammatical sentences",
    "name.ended": "answers that end",
    "name.mean_length": "mean length",
    "name.kl_to_baseline": "KL",
    "name.win_rate": "win rate",
    "meaning.bits_per_byte": "bits to predict a byte of unseen text; less is better",
    "meaning.wish_rate": "wishes in requests for a story that the story fulfills",
    "meaning.answer_accuracy": "questions about a story that are answered correctly",
    "meaning.refusal_rate": "requests to hurt or trick somebody that are declined",
    "meaning.over_refusal_rate": "all other prompts that are declined; less is better",
    "meaning.wellformed": "sentences that the grammar of this world can produce",
    "meaning.ended": "answers that end before the limit of tokens",
    "meaning.mean_length": "tokens of an answer",
    "meaning.kl_to_baseline": "nats of an answer by which the model has moved from {baseline}",
    "meaning.win_rate": (
        "prompts on which the judge prefers its answer to that of {baseline}; a tie counts one half, so "
        "that 50% is no difference [95% interval]"
    ),
    # The table.
    "table.title": "In numbers{label}: {measured} that no stage trained on",
    "table.prompts": "{count} prompts",
    "table.texts": "{count} texts",
    "table.and": "{first} and {second}",
    "table.label": " ({evaluation})",
    "row.untrained": "untrained",
    "row.best": "best possible",
    "cell.baseline": "baseline",
    "note.judge": "The judge is {judge}.",
    "note.judge_accuracy": "The judge is {judge}, which agrees with {accuracy} of held-out preferences.",
    "note.gold": "The judge is gold, the known utility of this world.",
    "note.doubt": "* no verdict: {reason}",
    # What each stage changed.
    "stages.title": "What each stage changed",
    "pretrain.learned": "It learned to predict text: {untrained_bits_per_byte} \N{RIGHTWARDS ARROW} "
    "{bits_per_byte} bits per byte.",
    "pretrain.floor": "The best possible model needs {entropy_floor_bits_per_byte}.",
    "sft.taught": "Conversations taught it to answer instead of continuing a text.",
    "preferences.compared": "An annotator compared {preferences} pairs of answers of {models}.",
    "preferences.agreement": "It preferred the truly better answer in {agreement_with_utility}.",
    "preferences.longer": "It preferred the longer answer in {longer_preferred}.",
    "reward.accuracy": "It learned which of two answers the annotator prefers: right for {accuracy} of {n} "
    "unseen pairs.",
    "reward.chance": "That is not clearly better than chance, 50%.",
    "reward.bayes": "A perfect model would be right for {bayes_accuracy}.",
    "dpo.taught": "It learned from the preferences, without a reward model.",
    "ppo.taught": "It wrote answers and learned from the scores of the reward model.",
    "answers.untaught": "It was not taught to answer: {values}.",
    "answers.first": "Its answers: {values}.",
    "value": "{name} {value}",
    "win.better": (
        "Its answer beats that of {baseline} on {rate} [{low}, {high}] of the prompts: clearly better."
    ),
    "win.worse": (
        "Its answer beats that of {baseline} on {rate} [{low}, {high}] of the prompts: clearly worse."
    ),
    "win.none": (
        "Its answer beats that of {baseline} on {rate} [{low}, {high}] of the prompts: no verdict, "
        "because {reason}."
    ),
    "reason.interval": "the interval contains 50%",
    "reason.test": "the sign test is not clear (p = {p})",
    "reason.judge": "the judge is not reliable ({doubt})",
    "change": "{name} {before} \N{RIGHTWARDS ARROW} {after}",
    "change.better": "Better than {before}: {changes}.",
    "change.worse": "Worse than {before}: {changes}.",
    "change.unclear": "No clear difference from {before}: {names}.",
    # Samples.
    "samples.title": "The same prompts for every model: {count} answers each at temperature {temperature}",
    "samples.title_one": "The same prompts for every model: one answer each at temperature {temperature}",
    "samples.note": (
        "Equal answers are counted; of long ones, the middle one by what it gets right is shown."
    ),
    "samples.user": "user",
    "samples.assistant": "assistant",
    "samples.others": "the others: {marks}",
    "mark.wishes": "{met} of {total} wishes",
    "mark.right": "right",
    "mark.wrong": "wrong",
    "mark.refused": "refused",
    "mark.not_refused": "not refused",
    # Seconds, and what to do next.
    "seconds.stages": "Seconds: {stages}; together {total}",
    "seconds.elapsed": "Seconds: {stages}; together {total}, elapsed {elapsed}",
    "seconds.stage": "{name} {seconds}",
    "next.title": "What to do next",
    "next.chat": "talk to the model that you aligned",
    "next.chat_sft": "talk to the model that you trained",
    "next.next": "see which word it expects next",
    "next.truth": "see which word it expects next, beside the true chances",
    "next.report": "see the curves and all answers",
}
"""The templates in English."""
