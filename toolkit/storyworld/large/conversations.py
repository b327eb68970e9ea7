"""Conversations: a request and its story, or a question about a story, with flaws in some answers."""

from dataclasses import dataclass

from toolkit.storyworld.grammar import Roles
from toolkit.storyworld.large.lexicon import LEXICONS
from toolkit.storyworld.large.requests import question, request, wrong_answer
from toolkit.storyworld.large.stories import ENDINGS, reader, story_given
from toolkit.storyworld.reading import split_sentences
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.world import Message

QUESTION_SHARE = 0.2
SHORT_WORDS = (30, 64)
STORY_WORDS = (45, 88)
RAMBLING_WORDS = 115
_TEXT_FLAWS = ("rambling", "switched_name", "repeated_sentence", "missing_ending")
STORY_FLAWS = ("wrong_animal", "wrong_object", "wrong_ending", *_TEXT_FLAWS, "garbled")
QUESTION_FLAWS = ("wrong_answer", *_TEXT_FLAWS)
FLAWS = tuple(dict.fromkeys(STORY_FLAWS + QUESTION_FLAWS))
_GARBLED_SHARE = 0.4
# wrong_ending is open only if an ending was asked for; its weight restores the balance.
_FLAW_WEIGHT = {"wrong_ending": 1.9}
_TRIES = 250  # about 60 microseconds each; only short stories need more than a few


@dataclass(frozen=True)
class ConversationExample:
    """Messages that end with the user's turn, an answer, and the names of the answer's flaws."""

    messages_prompt: list[Message]
    answer: str
    flaws: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """A prompt with the requested roles; for a question also the roles of the story and the right answer."""

    messages: list[Message]
    asked: Roles
    told: Roles | None = None
    right_answer: str = ""

    @property
    def open_flaws(self) -> tuple[str, ...]:
        """The flaws that an answer to this prompt can have."""
        if self.told is not None:
            named = self.told["hero"] in self.right_answer
            return tuple(flaw for flaw in QUESTION_FLAWS if flaw != "switched_name" or named)
        return tuple(flaw for flaw in STORY_FLAWS if flaw != "wrong_ending" or "ending" in self.asked)


def word_range(asked: Roles) -> tuple[int, int]:
    """Return the fewest and most words of a story that answers a request."""
    return SHORT_WORDS if asked.get("length") == "short" else STORY_WORDS


def make_prompt(stream: RandomStream) -> Prompt:
    """Draw a prompt: a request, or with probability QUESTION_SHARE a question about a preceding story."""
    text, asked = request(stream.child("request"))
    messages = [{"role": "user", "content": text}]
    if stream.uniform() >= QUESTION_SHARE:
        return Prompt(messages, asked)
    story, told = _fitting_story(stream.child("told"), asked)
    asked_question, right_answer = question(stream.child("question"), told)
    messages += [{"role": "assistant", "content": story}, {"role": "user", "content": asked_question}]
    return Prompt(messages, asked, told, right_answer)


def answer(stream: RandomStream, prompt: Prompt, flaws: tuple[str, ...] = ()) -> str:
    """Draw an answer to a prompt with exactly these flaws."""
    if prompt.told is None:
        return _story_answer(stream, prompt.asked, flaws)
    return _question_answer(stream, prompt, flaws)


def draw_flaws(stream: RandomStream, prompt: Prompt, count: int) -> tuple[str, ...]:
    """Draw ``count`` different flaws that this prompt allows, in the order in which they are applied."""
    left = list(prompt.open_flaws)
    chosen = set()
    for _ in range(min(count, len(left))):
        cumulative, total = [], 0.0
        for flaw in left:
            total += _FLAW_WEIGHT.get(flaw, 1.0)
            cumulative.append(total)
        chosen.add(left.pop(stream.weighted(cumulative)))
    return tuple(flaw for flaw in prompt.open_flaws if flaw in chosen)


def conversation(seed: int, index: int, flawed_share: float = 0.5) -> ConversationExample:
    """Return conversation ``index`` of a seed; a share of the answers has one flaw (mostly) or two."""
    stream = RandomStream("conversations", seed, index)
    prompt = make_prompt(stream.child("prompt"))
    flaws: tuple[str, ...] = ()
    if stream.uniform() < flawed_share:
        flaws = draw_flaws(stream, prompt, 1 if stream.uniform() < 0.75 else 2)
    return ConversationExample(prompt.messages, answer(stream.child("answer"), prompt, flaws), flaws)


def _fitting_story(stream: RandomStream, asked: Roles, *, names_late: bool = False) -> tuple[str, Roles]:
    """Draw a story for a request within its range of words: the first that fits, else the nearest.

    names_late: the hero must be named in the later half.
    """
    fewest, most = word_range(asked)
    drafts = []
    for attempt in range(_TRIES):
        story = story_given(stream.child(attempt), **asked)
        sentences = split_sentences(story.text)
        late = sentences[len(sentences) // 2 :]
        if names_late and not any(story.roles["hero"] in sentence for sentence in late):
            continue
        words = len(story.text.split())
        if fewest <= words <= most:
            return story.text, story.roles
        drafts.append((max(fewest - words, words - most), story.text, story.roles))
    return min(drafts, key=lambda draft: draft[0])[1:]


def _other(stream: RandomStream, lexicon: str, *excluded: str | None) -> str:
    return LEXICONS[lexicon].draw(stream, [word for word in excluded if word])


def _story_answer(stream: RandomStream, asked: Roles, flaws: tuple[str, ...]) -> str:
    given = dict(asked)
    if "wrong_animal" in flaws:
        given["animal"] = _other(stream, "animal", asked.get("animal"), asked.get("pal"))
    if "wrong_object" in flaws:
        given["object"] = _other(stream, "object", asked.get("object"))
    if "wrong_ending" in flaws:
        given["ending"] = next(ending for ending in ENDINGS if ending != asked["ending"])
    text, roles = _fitting_story(stream.child("story"), given, names_late="switched_name" in flaws)
    sentences = split_sentences(text)
    if "rambling" in flaws:
        sentences = _ramble(stream.child("ramble"), sentences, roles)
    if "switched_name" in flaws:
        half = len(sentences) // 2
        sentences = sentences[:half] + _rename(stream, sentences[half:], roles)
    if "repeated_sentence" in flaws:
        repeated = 1 + stream.index(len(sentences) - 2)
        sentences.insert(repeated + 1 + stream.index(2), sentences[repeated])
    if "missing_ending" in flaws:
        sentences = _cut(stream, sentences)
    if "garbled" in flaws:
        sentences = _garble(stream.child("garble"), sentences)
    return " ".join(sentences)


def _garble(stream: RandomStream, sentences: list[str]) -> list[str]:
    """Replace the ends of some middle sentences by ends of others, as a weak model writes."""
    middle = list(range(1, len(sentences) - 1)) or [0]
    result = list(sentences)
    for _ in range(max(1, round(_GARBLED_SHARE * len(sentences)))):
        if not middle:
            break
        position = middle.pop(stream.index(len(middle)))
        head = sentences[position].split()
        ends = [other.split() for other in sentences if other != sentences[position]] or [head[::-1]]
        for _ in range(_TRIES):
            tail = ends[stream.index(len(ends))]
            begun = head[: 1 + stream.index(max(1, len(head) - 2))]
            mixed = " ".join([*begun, *tail[1 + stream.index(max(1, len(tail) - 1)) :]])
            mixed = mixed.replace(". ", " ").rstrip(".,") + "."
            if not reader.sentence_readings(mixed) and len(split_sentences(mixed)) == 1:
                break
        result[position] = mixed
    return result


def _ramble(stream: RandomStream, sentences: list[str], roles: Roles) -> list[str]:
    """Insert middle sentences of other stories with the same roles until the answer is far too long."""
    middle: list[str] = []
    constraints = {role: value for role, value in roles.items() if role != "length"}
    attempt = 0
    while len(" ".join(sentences + middle).split()) < RAMBLING_WORDS and attempt < 40:
        told = story_given(stream.child(attempt), **constraints)
        constraints.update(told.roles)  # later stories keep the roles that earlier ones drew
        more = [
            sentence for sentence in split_sentences(told.text)[1:-2] if sentence not in sentences + middle
        ]
        middle += more[:3]
        attempt += 1
    return [*sentences[:-2], *middle, *sentences[-2:]]


def _rename(stream: RandomStream, sentences: list[str], roles: Roles) -> list[str]:
    """Replace the hero's name by another name of the same kind."""
    lexicon = LEXICONS["name"]
    hero = roles["hero"]
    other = hero
    while other == hero or lexicon.kinds[other] != lexicon.kinds[hero]:
        other = _other(stream, "name", hero, roles["friend"])
    return [sentence.replace(hero, other) for sentence in sentences]


def _cut(stream: RandomStream, sentences: list[str]) -> list[str]:
    """Remove the last sentence and cut off the one before; a single sentence is cut off."""
    kept = sentences[:-1] if len(sentences) > 1 else sentences
    words = kept[-1].split()
    broken = words[: max(1, len(words) - 2 - stream.index(max(1, len(words) - 4)))]
    return [*kept[:-1], " ".join(broken).rstrip(".,!?")]


def _question_answer(stream: RandomStream, prompt: Prompt, flaws: tuple[str, ...]) -> str:
    told = prompt.told or {}
    sentences = [prompt.right_answer]
    if "wrong_answer" in flaws:
        sentences = [wrong_answer(stream, told, prompt.messages[-1]["content"])]
    if "rambling" in flaws:
        more = split_sentences(prompt.messages[1]["content"])
        first = stream.index(len(more) - 2)
        sentences += more[first : first + 3]
    if "switched_name" in flaws:
        sentences = _rename(stream, sentences, told)
    if "repeated_sentence" in flaws:
        sentences.insert(1, sentences[0])
    if "missing_ending" in flaws:
        sentences = [*sentences[:-1], *_cut(stream, sentences[-1:])]
    return " ".join(sentences)
