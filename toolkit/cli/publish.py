"""`toolkit publish`."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.cli.parser import Parser


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "publish",
        "Upload the model of a finished run to the Hugging Face Hub, with a model "
        "card that says where every number comes from.",
        "toolkit publish runs/tiny/dpo me/storyteller --dry-run --output card\n"
        "toolkit publish runs/tiny/dpo me/storyteller --private",
    )
    parser.add_argument("run", metavar="RUN", help="a finished run")
    parser.add_argument("repo_id", metavar="REPO_ID", help="user/name on the Hub")
    parser.add_argument("--dry-run", action="store_true", help="write the folder, upload nothing")
    parser.add_argument("--output", metavar="DIR", help="with --dry-run: where to write it")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    args = parser.parse_intermixed_args(arguments)
    from toolkit.publish.repository import publish_command

    return publish_command(
        args.run, args.repo_id, dry_run=args.dry_run, output=args.output, private=args.private
    )
