"""`toolkit publish`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit.cli.parser import Parser


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "publish",
        "Upload the model of a finished run to the Hugging Face Hub, with a model card that names the source "
        "of every number.",
        "toolkit publish runs/tiny/dpo me/storyteller --dry-run --output card\n"
        "toolkit publish runs/tiny/dpo me/storyteller --private",
    )
    parser.add_argument("run", metavar="RUN", help="a finished run")
    parser.add_argument("repo_id", metavar="REPO_ID", help="user/name on the Hub")
    parser.add_argument("--dry-run", action="store_true", help="write the folder, upload nothing")
    parser.add_argument("--output", metavar="DIR", help="with --dry-run: where to write it")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--license", metavar="ID",
        help="the licence of the model, as the Hub names it, such as apache-2.0; the default is none",
    )  # fmt: skip
    args = parser.parse_intermixed_args(arguments)
    if args.output is not None and not args.dry_run:
        parser.error("--output has an effect only with --dry-run")
    from toolkit.base.console import tell
    from toolkit.publish import repository

    if args.license is None:
        tell("the card states no licence: give --license ID, such as apache-2.0, if others may use the model")
    run = Path(args.run)
    if not args.dry_run:
        print(repository.publish(run, args.repo_id, private=args.private, license=args.license))
        return 0
    folder = Path(args.output) if args.output else repository.default_folder(run)
    repository.write_repository(run, args.repo_id, folder, license=args.license)
    print(f"nothing was uploaded; the repository is in {folder}", file=sys.stderr)
    print(folder)
    return 0
