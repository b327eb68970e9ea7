"""`toolkit chat`: a conversation in the terminal, or line by line through a pipe."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, fields, replace

with suppress(ImportError):  # line editing and history at the prompt; not on every platform
    import readline  # noqa: F401

from jinja2 import TemplateError

from toolkit.base.console import tell
from toolkit.base.errors import ModelError, ToolkitError
from toolkit.inference import sampling
from toolkit.inference.engine import Finished, answer
from toolkit.inference.generation import GenerationSettings, own_sampling_note
from toolkit.inference.opening import OpenModel, open_model
from toolkit.inference.prompts import fitted_conversation
from toolkit.inference.token_text import harmless

HELP = """\
/reset            forget the conversation
/undo             take back the last question and its answer
/retry            answer the last question again, by other chance
/system TEXT      instructions for the model; without TEXT none
/temperature X    0 takes the most probable token; also /top_k N, /top_p X, /max_new_tokens N, /seed N
/settings         show them
/quit             end (also end-of-file); Ctrl-C stops an answer"""

TICK_SECONDS = 0.2
"""The longest that a Ctrl-C at the prompt can wait."""


class StopChat(Exception):
    """The person wants to leave."""


@dataclass
class Conversation:
    """What was said so far. `draws` counts answers, so that each draws from its own stream of the seed."""

    opened: OpenModel
    choice: GenerationSettings
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    draws: int = 0

    def __post_init__(self) -> None:
        self.choice = self.choice.for_opened(self.opened)

    def fit(self) -> tuple[list[int], int]:
        """Ids of the conversation, and how many of the oldest messages had to be left out.

        Raises:
            ToolkitError: the last message does not fit the context.
        """
        system = [{"role": "system", "content": self.system}] if self.system else []
        return fitted_conversation(
            self.opened, system + self.messages, max_new_tokens=self.choice.max_new_tokens
        )

    def answer(self) -> Iterator[str]:
        """Yield the answer in pieces; an interrupted answer stays in the conversation."""
        ids, dropped = self.fit()
        if dropped:
            self.messages = self.messages[dropped:]
            tell(f"[the context is full: the oldest {dropped} messages are forgotten]")
        given: list[str] = []
        stream = ("chat", self.draws)
        self.draws += 1
        try:
            for event in answer(self.opened, ids, settings=self.choice, stream=stream):
                given.append(event.text)
                if event.text:
                    yield event.text
        finally:
            self.messages.append({"role": "assistant", "content": "".join(given)})
        if isinstance(event, Finished) and event.reason == "length":
            tell(f"\n[cut off after {event.tokens} tokens]")

    def undo(self) -> bool:
        """Take back the last question and its answer; False where there is none."""
        asked = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if asked:
            del self.messages[asked[-1] :]
        return bool(asked)

    def forget_unanswered(self) -> None:
        """Take back a question whose answer did not begin: two questions in a row are no conversation."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.undo()


def chat_command(
    model: str, *, choice: GenerationSettings, system: str | None = None, dtype: str = "fp32"
) -> int:
    """Talk with a model until /quit or end-of-file."""
    opened = open_model(model, dtype=dtype)
    note = own_sampling_note(opened, choice)
    conversation = Conversation(opened, choice, system)
    warn(opened)
    if note:
        tell(f"sampling: {note}; /temperature, /top_k and /top_p change it")
    if sys.stdin.isatty():
        tell(f"{model}: /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends")
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    with ticking() if interactive else nullcontext():
        while turn(conversation, interactive=interactive):
            pass
    return 0


@contextmanager
def ticking() -> Iterator[None]:
    """Have a Ctrl-C noticed that comes after the prompt is shown and before readline waits for a key.

    Python's handler only sets a flag then. readline's loop looks at the flag when its select() is
    interrupted, so such a Ctrl-C did nothing until the next one: on a loaded machine 2 of 1450 that
    were sent as soon as the prompt came, and 10 of 10 with that moment stretched to 30 ms. A timer's signal
    interrupts the select(). It does not interrupt writes to a slow terminal, which are restarted.
    """
    if not hasattr(signal, "setitimer"):  # Windows, which has no readline either
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, TICK_SECONDS, TICK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # first: without a handler the signal kills
        signal.signal(signal.SIGALRM, before)


def warn(opened: OpenModel) -> None:
    """Say so where the model was not made for conversations."""
    if not opened.tokenizer.chat_template:
        tell("warning: the model has no chat template: it continues your text, it does not answer")
    elif not opened.is_chat_model:
        tell("warning: the model was only pretrained: it saw no conversations and may answer anything")


def turn(conversation: Conversation, *, interactive: bool) -> bool:
    """Read a line and carry it out; False at the end. In a terminal no Ctrl-C ends the conversation."""
    try:
        line = read_line(interactive=interactive)
        if line is None:
            return False
        respond(conversation, line)
    except StopChat:
        return False
    except KeyboardInterrupt:  # at the prompt, which clears the line, or just before or after an answer
        if not interactive:
            raise
        conversation.forget_unanswered()
        tell("\n[/quit or Ctrl-D ends]")
    except ModelError:  # no other message helps
        raise
    except (ToolkitError, TemplateError) as error:
        tell(f"[{error}]")
    return True


def read_line(*, interactive: bool) -> str | None:
    """Return the next typed or piped line; None at the end of input."""
    if not interactive:
        line = sys.stdin.readline()
        return line.strip() if line else None
    try:
        return input("> ").strip()
    except EOFError:
        tell("")
        return None


def respond(conversation: Conversation, line: str) -> None:
    """Carry out a command, or ask the model."""
    if line.startswith("/"):
        name, _, argument = line[1:].partition(" ")
        command(conversation, name.replace("-", "_"), argument.strip())
    elif line:
        ask(conversation, line)


def ask(conversation: Conversation, question: str) -> None:
    """Print the answer while it is made; Ctrl-C stops it. A question that cannot be asked is taken back."""
    try:
        conversation.messages.append({"role": "user", "content": question})
        with closing(conversation.answer()) as pieces:
            for piece in pieces:
                print(harmless(piece) if sys.stdout.isatty() else piece, end="", flush=True)
    except KeyboardInterrupt:
        conversation.forget_unanswered()
        tell("\n[stopped]")
    except (ToolkitError, TemplateError):
        conversation.undo()
        raise
    print(flush=True)


def command(conversation: Conversation, name: str, argument: str) -> None:
    """One of the commands of HELP."""
    settings = {one.name for one in fields(GenerationSettings)}
    if name in ("quit", "exit"):
        raise StopChat
    if name == "reset":
        conversation.messages, conversation.draws = [], 0
        tell("[forgotten]")
    elif name == "undo":
        tell("[taken back]" if conversation.undo() else "[there is nothing to take back]")
    elif name == "retry":
        question = next((m["content"] for m in reversed(conversation.messages) if m["role"] == "user"), None)
        if question is None:
            tell("[there is no question yet]")
        else:
            conversation.undo()
            ask(conversation, question)
    elif name == "system":
        conversation.system = argument or None
        tell(
            "[noted]"
            if conversation.opened.tokenizer.chat_template
            else "[no effect without a chat template]"
        )
    elif name == "settings":
        tell(f"[{conversation.choice}, system={conversation.system!r}]")
    elif name in settings:
        change(conversation, name, argument)
    else:
        tell(HELP if name == "help" else f"[no command /{name}]\n{HELP}")


def change(conversation: Conversation, name: str, argument: str) -> None:
    """Set one setting of sampling; a value that cannot be used changes nothing."""
    kind = type(getattr(conversation.choice, name))
    try:
        choice = replace(conversation.choice, **{name: kind(argument)})
    except ValueError:
        tell(f"[/{name} needs a number, not {argument!r}]")
        return
    settings = {key: value for key, value in asdict(choice).items() if key != "seed"}
    sampling.SamplingSettings(**settings)  # raises if the value is invalid
    conversation.choice = choice
    tell(f"[{name} {kind(argument)}]")
