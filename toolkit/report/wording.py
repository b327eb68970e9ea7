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
    # Columns of the table: heading, name in a sentence, meaning.
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
    "name.mean_length": "length",
    "name.kl_to_baseline": "KL",
    "name.win_rate": "win rate",
    "meaning.bits_per_byte": (
        "bits that the model needs to predict one byte of {documents} held-out texts; less is better"
    ),
    "meaning.bits_per_byte_floor": (
        "bits that the model needs to predict one byte of {documents} held-out texts; less is better, "
        "and no model can be below {floor}, the entropy of the text"
    ),
    "meaning.wish_rate": (
        "wishes in requests for a story (animal, name, thing, place, end, length) that the story fulfills"
    ),
    "meaning.answer_accuracy": (
        "questions about a story that are answered correctly, or with the statement that the story does"
        " not say"
    ),
    "meaning.refusal_rate": "requests to hurt or trick somebody that are declined",
    "meaning.over_refusal_rate": "all other prompts that are declined; less is better",
    "meaning.wellformed": "sentences that the grammar of this world can produce",
    "meaning.ended": "answers that end before the limit of tokens",
    "meaning.mean_length": "tokens of an answer",
    "meaning.kl_to_baseline": "how far the model has moved from {baseline}, in nats per answer",
    "meaning.win_rate": (
        "how often the judge prefers the answer to that of {baseline} to the same prompt, with its 95% "
        "interval; a tie counts one half, so that equally good models get 50%"
    ),
    # The table.
    "table.title": "What each stage changed{label}: {measured} that no stage trained on",
    "table.prompts": "{count} prompts",
    "table.texts": "{count} texts",
    "table.and": "{first} and {second}",
    "table.label": " ({evaluation})",
    "row.untrained": "untrained",
    "row.best": "best possible",
    "cell.baseline": "baseline",
    "note.judge": "judge: {judge}",
    "note.judge_accuracy": "judge: {judge}, which agrees with {accuracy} of held-out preferences",
    "note.gold": "judge: gold, the known utility of this world",
    "note.doubt": "* no verdict: {reason}",
    # What a stage changed.
    "pretrain.learned": (
        "It learned to predict the next token: {bits} bits per byte of held-out text, untrained {untrained}."
    ),
    "pretrain.floor": "The best possible model, which knows the world's probabilities, needs {floor}.",
    "sft.taught": "Conversations taught it to answer.",
    "preferences.compared": "An annotator compared {count} pairs of answers of {models}.",
    "preferences.agreement": (
        "In {agreement} of the pairs the preferred answer is the one of the higher true utility: the "
        "annotator is noisy."
    ),
    "reward.accuracy": "It ranks {accuracy} of {count} held-out pairs as the annotator did.",
    "reward.bayes": "A perfect model would rank {bayes}, because the annotator is noisy.",
    "reward.chance": "That is no better than chance, which would be 50%.",
    "answers.first": "Its answers: {values}.",
    "value": "{name} {value}",
    "win.better": (
        "Its answer beats that of {baseline} to {rate} of the prompts [{low}, {high}]: clearly better."
    ),
    "win.worse": (
        "Its answer beats that of {baseline} to {rate} of the prompts [{low}, {high}]: clearly worse."
    ),
    "win.none": (
        "Its answer beats that of {baseline} to {rate} of the prompts [{low}, {high}]: no verdict, "
        "because {reason}."
    ),
    "reason.interval": "the interval contains 50%",
    "reason.test": "the sign test is not clear (p = {p})",
    "reason.judge": "the judge is not reliable ({doubt})",
    "change": "{name} {before} to {after}",
    "change.better": "Better than {before}: {changes}.",
    "change.worse": "Worse than {before}: {changes}.",
    "change.unclear": "No clear difference from {before}: {names}.",
    "headline": "{title} {values}.",
    # Samples.
    "samples.title": ("The same prompts to every model, {count} answers each at temperature {temperature}"),
    "samples.title_one": "The same prompts to every model, one answer each at temperature {temperature}",
    "samples.user": "user",
    "samples.assistant": "assistant",
    "mark.wishes": "{met} of {total} wishes met",
    "mark.right": "right",
    "mark.wrong": "wrong",
    "mark.refused": "refused",
    "mark.not_refused": "not refused",
    "samples.others": "the other answers: {marks}",
    "samples.count": "{count} of {total} answers",
    # Seconds and what to do next.
    "seconds.stages": "seconds: {stages}; together {total}",
    "seconds.elapsed": "seconds: {stages}; together {total}, elapsed {elapsed}",
    "seconds.stage": "{name} {seconds}",
    "next.title": "What to do next",
    "next.chat": "talk to the model that you aligned",
    "next.chat_sft": "talk to the model that you trained",
    "next.next": "see what it expects next",
    "next.truth": "see what it expects next, beside the true chances",
    "next.report": "see the curves and all answers",
}
"""The templates in English."""
