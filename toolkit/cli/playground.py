"""`toolkit playground`."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.cli.parser import Parser


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "playground",
        "Serve a local web page: talk to models, see the next word, surprise and attention, compare answers "
        "blindly, and train on the votes. Without MODEL, all finished runs of the runs directory.",
        "toolkit playground\ntoolkit playground runs/tiny/sft runs/tiny/dpo\n"
        "toolkit playground --tour --open",
    )
    parser.add_argument(
        "models", metavar="MODEL", nargs="*", help="runs, model folders, or hub-id[@revision]"
    )
    parser.add_argument(
        "--runs-dir", default="runs", metavar="DIR", help="the folder of the runs; default: runs"
    )
    parser.add_argument(
        "--feedback", default="feedback.sqlite", metavar="FILE", help="votes; default: feedback.sqlite"
    )
    parser.add_argument(
        "--prompts", metavar="FILE",
        help="prompts on which answers are compared: a file or Hub dataset of prompts, conversations or "
        "preferences; default: those of the storyworld that a model was trained on",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the pairs that are compared; default: 0"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to listen on; default: 127.0.0.1, this machine only. Any other asks for a token",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=int, default=8765, metavar="N", help="0 takes a free one; default: 8765"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--tour", action="store_true", help="begin with the guided tour")
    args = parser.parse_intermixed_args(arguments)
    from toolkit.playground.serve import serve_command

    return serve_command(**vars(args), announce=lambda address: print(address, flush=True))
