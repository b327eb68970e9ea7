"""The verbs that prove what a run says of itself: hashes, batches, steps made again, runs made again."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from toolkit.verbs import Parser


def whole(text: str, *, least: int) -> int:
    if not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} on, not {text!r}")
    return int(text)


_positive = functools.partial(whole, least=1)
_count = functools.partial(whole, least=0)


def _parser(verb: str, description: str, examples: str, run: str) -> Parser:
    parser = Parser(verb, description, examples)
    parser.add_argument("run", metavar="RUN", help=run)
    parser.add_argument("--json", action="store_true", help="exactly one JSON object on stdout")
    return parser


def _verify(arguments: Sequence[str]) -> int:
    parser = _parser(
        "verify",
        "Check every file of a finished run, and of the runs that it was made from, against what was sealed. "
        "With --replay also train again: N optimizer steps of a pretraining, each compared bit for bit "
        "with what the run wrote down, and weights and optimizer with its checkpoints.",
        "toolkit verify runs/tiny/ppo\ntoolkit verify runs/tiny/pretrain --replay 20",
        "a run directory",
    )
    parser.add_argument(
        "--replay",
        type=_positive,
        metavar="N",
        help="make N steps again, from the newest checkpoint that allows it, else from the start; nothing is "
        "written into the run",
    )
    args = parser.parse_intermixed_args(arguments)
    from toolkit.execute import verify_command

    if args.replay is None:
        return verify_command(args.run, json=args.json)
    from toolkit.pretrain.replay_command import replayed  # torch: 3 s

    return verify_command(args.run, json=args.json, also=lambda: replayed(Path(args.run), args.replay))


def _batch(arguments: Sequence[str]) -> int:
    parser = _parser(
        "batch",
        "Show which documents and tokens an optimizer step of a pretraining read: from its settings and its "
        "corpus alone, compared with what the run wrote down.",
        "toolkit batch runs/tiny/pretrain --step 100\n"
        "toolkit batch runs/tiny/pretrain --step 1 --rows 2 --text\n"
        "toolkit batch runs/tiny/pretrain --step 1 --json --tokens",
        "a pretrain run, finished or not",
    )
    parser.add_argument("--step", type=_positive, required=True, metavar="N", help="the first step is 1")
    parser.add_argument("--rows", type=_count, default=8, metavar="K", help="rows to show; 0: all")
    parser.add_argument("--text", action="store_true", help="show the whole text of the rows")
    parser.add_argument("--tokens", action="store_true", help="with --json: the token ids too")
    args = parser.parse_intermixed_args(arguments)
    if args.tokens and not args.json:
        parser.error("--tokens has an effect only with --json")
    from toolkit.see.batch import batch_command

    given = vars(args)
    return batch_command(given.pop("run"), **given)


def _reproduce(arguments: Sequence[str]) -> int:
    parser = _parser(
        "reproduce",
        "Make a finished run again from nothing, with the same settings and parents, in another place, and "
        "compare every file with what was sealed.",
        "toolkit reproduce runs/tiny/corpus\ntoolkit reproduce runs/tiny/pretrain --output again",
        "a finished run",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="keep the new run below this folder (default: do not keep it)",
    )
    parser.add_argument(
        "--launch",
        type=Path,
        metavar="ACCELERATE.yaml",
        help="start it with accelerate launch, as it was made",
    )
    args = parser.parse_intermixed_args(arguments)
    from toolkit.reproduce import reproduce_command

    return reproduce_command(Path(args.run), output=args.output, launch=args.launch, json=args.json)


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "verify": _verify,
    "batch": _batch,
    "reproduce": _reproduce,
}
