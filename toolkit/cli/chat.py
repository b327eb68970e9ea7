"""`toolkit chat`."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.cli.parser import MODEL, Parser, add_dtype, add_sampling, sampling_choice


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "chat",
        "Chat with a model. /help lists the commands, Ctrl-D exits.",
        'toolkit chat runs/tiny/ppo\ntoolkit chat runs/tiny/sft --system "Answer briefly."',
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--system", metavar="TEXT", help="a system message before the conversation")
    add_sampling(parser)
    add_dtype(parser)
    args = parser.parse_intermixed_args(arguments)
    from toolkit.cli.conversation import chat_command

    return chat_command(args.model, choice=sampling_choice(args), system=args.system, dtype=args.dtype)
