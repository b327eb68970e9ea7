"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from toolkit.base.errors import UsageError

if TYPE_CHECKING:
    from toolkit.inference.generation import GenerationSettings

MODEL = "a run, a model folder, or hub-id[@revision]"


class Parser(argparse.ArgumentParser):
    """argparse whose errors are UsageErrors, with a suggestion for a mistyped option."""

    def __init__(self, verb: str, description: str, examples: str):
        super().__init__(
            prog=f"toolkit {verb}",
            description=textwrap.fill(description, 100),
            epilog="examples:\n" + textwrap.indent(examples, "  "),
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        message = message.removesuffix(", key=value")  # argparse also lists optional arguments
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            message += did_you_mean(unknown[1].partition("=")[0], options)
        raise UsageError(message, where=self.prog, fix=f"`{self.prog} --help` lists what it takes")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def add_recipe(parser: Parser, nargs: str | None = None) -> None:
    parser.add_argument(
        "recipe", metavar="RECIPE|FOLDER", nargs=nargs, help="a recipe, or a folder of recipes"
    )
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="settings to override, such as trainer.learning_rate=5e-5; in a folder, in the "
        "recipes that set the key",
    )


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="exactly one JSON object on stdout")


def positive_int(text: str) -> int:
    """Parse an integer greater than 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def non_negative_int(text: str) -> int:
    """Parse an integer from 0 up."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be an integer that is not negative, not {text!r}")
    return int(text)


def add_sampling(parser: Parser) -> None:
    parser.add_argument("--max-new-tokens", type=positive_int, default=200, metavar="N")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="0 is greedy; default: that of the model, else 0.8"
    )
    parser.add_argument(
        "--top-k",
        type=int,
        metavar="K",
        help="sample from the K most probable tokens; 0: all; default: that of the model, else 0",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="sample from the smallest set of tokens with total probability P; default: that of the model, "
        "else 1",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed; an equal seed gives an equal answer"
    )


def add_dtype(parser: Parser, *other_names: str, **options: str) -> None:
    parser.add_argument(
        "--dtype",
        *other_names,
        choices=("auto", "fp32", "bf16", "fp16"),
        default="fp32",
        help="precision of the weights; default: fp32; auto: that of the checkpoint",
        **options,
    )


def sampling_choice(args: argparse.Namespace) -> GenerationSettings:
    from toolkit.inference.generation import GenerationSettings

    return GenerationSettings(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
    )


def run_parser(verb: str, description: str, examples: str, run: str) -> Parser:
    parser = Parser(verb, description, examples)
    parser.add_argument("run", metavar="RUN", help=run)
    parser.add_argument("--json", action="store_true", help="exactly one JSON object on stdout")
    return parser
