"""`toolkit generate`."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from toolkit.base.console import tell
from toolkit.base.errors import UsageError
from toolkit.cli.parser import MODEL, Parser, add_dtype, add_json, add_sampling, positive_int, sampling_choice

if TYPE_CHECKING:
    from toolkit.inference.generation import GenerationSettings


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "generate",
        "Print answers of a model to a prompt. A model that was trained on conversations answers it, another "
        "model continues the text.",
        'toolkit generate runs/tiny/pretrain "A story about a fox who"\n'
        'toolkit generate runs/tiny/dpo "Tell me a story about a fox." --n 3 --temperature 0.7',
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("prompt", help="the text; - reads it from stdin")
    parser.add_argument("--n", type=positive_int, default=1, metavar="N", help="how many answers")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--chat", action="store_true", default=None, help="put it into the chat template")
    way.add_argument("--raw", action="store_false", dest="chat", help="continue it as plain text")
    add_sampling(parser)
    add_dtype(parser)
    add_json(parser)
    args = parser.parse_intermixed_args(arguments)

    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    return generate_command(
        args.model,
        prompt,
        settings=sampling_choice(args),
        count=args.n,
        chat=args.chat,
        json=args.json,
        dtype=args.dtype,
    )


def generate_command(
    model: str,
    prompt: str,
    *,
    settings: GenerationSettings,
    count: int = 1,
    chat: bool | None = None,
    json: bool = False,
    dtype: str = "fp32",
) -> int:
    """Print `count` answers on stdout, and remarks about them on stderr.

    Args:
        chat: put the prompt into the chat template, or continue it as plain text. By default a model that was
            trained on conversations gets the template.
        dtype: of the weights, a name of `toolkit.models.loading.DTYPES`.
    """
    from toolkit.inference.generation import generate_answers, own_sampling_note
    from toolkit.inference.opening import open_model
    from toolkit.inference.token_text import LONE_SPACE, ends_in_lone_space, harmless

    if count < 1:
        raise UsageError("--n must be at least 1")
    opened = open_model(model, dtype=dtype)
    if chat and not opened.tokenizer.chat_template:
        raise UsageError("the model has no chat template", where=model, fix="use --raw to continue the text")
    chat = opened.is_chat_model if chat is None else chat
    prompt_ids = opened.prompt_ids(prompt, chat=chat)
    if not chat and ends_in_lone_space(opened.tokenizer, prompt):
        tell(LONE_SPACE)
    note = own_sampling_note(opened, settings)
    if note:
        tell(f"sampling: {note}")
    answers, settings = generate_answers(opened, prompt_ids, settings=settings, count=count)
    if json:
        about = {"model": model, "prompt": prompt, "chat": chat, "settings": asdict(settings)}
        print(
            json_format.dumps(
                {**about, "answers": [asdict(answer) for answer in answers]}, ensure_ascii=False
            )
        )
        return 0
    tell("answering in the chat template; --raw continues the text" if chat else "continuing the text")
    for number, result in enumerate(answers):
        if count > 1:
            tell(f"-- {number + 1} of {count}")
        print(harmless(result.text) if sys.stdout.isatty() else result.text, flush=True)
        if not result.ended:
            tell(f"cut off after {len(result.ids)} tokens")
    return 0
