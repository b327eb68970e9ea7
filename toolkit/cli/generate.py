"""`toolkit generate`."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from toolkit.base.errors import UsageError
from toolkit.cli.parser import MODEL, Parser, add_json, add_sampling, positive_int, sampling_choice
from toolkit.inference.token_text import harmless

if TYPE_CHECKING:
    from toolkit.inference.generation import Choice


def generate_command(
    model: str, prompt: str, *, choice: Choice, count: int = 1, chat: bool | None = None, json: bool = False
) -> int:
    """Print `count` answers on stdout, what is to be said about them on stderr.

    `chat` puts the prompt into the chat template, False continues it as plain text; by default a model that
    was trained on conversations is asked, and another one continues.
    """
    from toolkit.inference.generation import answer
    from toolkit.inference.opening import open_model, tell

    if count < 1:
        raise UsageError("--n must be at least 1")
    opened = open_model(model)
    if chat and not opened.tokenizer.chat_template:
        raise UsageError("the model has no chat template", where=model, fix="use --raw to continue the text")
    chat = opened.converses if chat is None else chat
    answers, choice = answer(opened, opened.prompt_ids(prompt, chat=chat), choice=choice, count=count)
    if json:
        about = {"model": model, "prompt": prompt, "chat": chat, "settings": asdict(choice)}
        print(json_format.dumps({**about, "answers": [asdict(one) for one in answers]}, ensure_ascii=False))
        return 0
    tell("answering in the chat template; --raw continues the text" if chat else "continuing the text")
    for number, one in enumerate(answers):
        if count > 1:
            tell(f"-- {number + 1} of {count}")
        print(harmless(one.text) if sys.stdout.isatty() else one.text, flush=True)
        if not one.ended:
            tell(f"cut off after {len(one.ids)} tokens")
    return 0


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "generate",
        "Print what a model answers to a prompt. A model of conversations is asked, "
        "another one continues the text.",
        'toolkit generate runs/tiny/pretrain "Once upon a time"\n'
        'toolkit generate runs/tiny/dpo "Tell me a story about a fox." --n 3 --temperature 0.7',
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("prompt", help="the text; - reads it from stdin")
    parser.add_argument("--n", type=positive_int, default=1, metavar="N", help="how many answers")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--chat", action="store_true", default=None, help="put it into the chat template")
    way.add_argument("--raw", action="store_false", dest="chat", help="continue it as plain text")
    add_sampling(parser)
    add_json(parser)
    args = parser.parse_intermixed_args(arguments)

    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    return generate_command(
        args.model, prompt, choice=sampling_choice(args), count=args.n, chat=args.chat, json=args.json
    )
