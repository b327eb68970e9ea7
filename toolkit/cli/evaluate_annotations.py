"""`toolkit evaluate --annotations`: judgements that exist already; no model is run."""

from __future__ import annotations

import json
from collections.abc import Sequence

from toolkit.cli.parser import Parser, add_json, non_negative_int


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "evaluate --annotations FILE",
        "Evaluate judgements that exist already: win rates, raw and at equal lengths, a ranking of more than "
        "two models, agreement between annotators, and how position and length bias each annotator.",
        "toolkit evaluate --annotations annotations.json --baseline gpt4\n"
        "toolkit evaluate --annotations preferences.jsonl --json",
    )
    parser.usage = "toolkit evaluate --annotations FILE [--baseline MODEL] [--seed N] [--json]"
    parser.add_argument(
        "--annotations",
        required=True,
        metavar="FILE",
        help="AlpacaEval's annotations.json (instruction, output_1, output_2, preference from 1 to 2), the "
        "same in any other table (docs/DATA.md), or preferences (chosen, rejected); or a folder or a glob",
    )
    parser.add_argument("--baseline", metavar="MODEL", help="a generator that others are compared with")
    parser.add_argument(
        "--seed", type=non_negative_int, default=0, metavar="N", help="seed of the bootstrap; default: 0"
    )
    add_json(parser)
    args = parser.parse_args(arguments)
    from toolkit.cli import annotation_tables
    from toolkit.data.chat import annotations
    from toolkit.evaluate.annotations import measure

    rows = annotations.read(args.annotations)
    results = measure(rows, file=args.annotations, baseline=args.baseline, seed=args.seed)
    if args.json:
        print(json.dumps(results, ensure_ascii=False, allow_nan=False))
    else:
        annotation_tables.show(results)
    return 0
