"""`toolkit evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.cli.parser import MODEL, Parser, add_json, add_sampling, positive_int


def add_scoring(parser: Parser) -> None:
    """How documents are put before a model: evaluate.perplexity.ScoringSettings, but for the window."""
    parser.add_argument(
        "--prefix",
        choices=("auto", "bos", "end", "none"),
        default="auto",
        help="what stands before a document: beginning-of-text, end-of-text, or nothing (its first token is "
        "then not scored); auto asks the model's configuration",
    )
    parser.add_argument(
        "--no-score-end", dest="score_end", action="store_false", help="do not score end-of-text"
    )
    parser.add_argument("--packed", action="store_true", help="read all documents as one text")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the weights")


def add_comparison(parser: Parser) -> None:
    """Who is compared, and who judges."""
    parser.add_argument("--baseline", metavar="MODEL", help="the model that the answers are compared with")
    parser.add_argument(
        "--judge",
        default="gold",
        metavar="gold|MODEL|FILE|URL",
        help="who compares: storyworld's known utility, a reward model, people's votes, an endpoint",
    )
    parser.add_argument("--judge-model", metavar="NAME", help="the model that the endpoint is asked for")
    parser.add_argument(
        "--judge-key-variable",
        default="JUDGE_API_KEY",
        metavar="NAME",
        help="variable with the endpoint's key",
    )
    parser.add_argument(
        "--stop-early", action="store_true", help="ask an endpoint only until one half is excluded"
    )
    parser.add_argument("--judge-data", metavar="FILE|NAME", help="preferences that the judge is checked on")
    parser.add_argument(
        "--judgements", default="judgements.jsonl", metavar="FILE", help="what an endpoint says is kept here"
    )
    parser.add_argument(
        "--samples-per-prompt", type=positive_int, default=1, metavar="N", help="answers to each prompt"
    )
    parser.add_argument(
        "--best-of", metavar="MODEL", help="a reward model: the best of 2 and of 4 baseline answers, too"
    )


def main(arguments: Sequence[str]) -> int:
    from toolkit.cli import evaluate_annotations, evaluate_tasks

    if any(argument.partition("=")[0] == "--tasks" for argument in arguments):
        return evaluate_tasks.main(arguments)
    if any(argument.partition("=")[0] == "--annotations" for argument in arguments):
        return evaluate_annotations.main(arguments)
    parser = Parser(
        "evaluate",
        "Measure perplexity and bits per byte of models on any text, with --baseline the win rate of their "
        "answers against it, and reward models on preferences, each number with its interval.",
        "toolkit evaluate runs/tiny/pretrain openai-community/gpt2 --data book.txt\n"
        "toolkit evaluate runs/tiny/dpo --data storyworld --baseline runs/tiny/sft --json\n"
        "toolkit evaluate runs/tiny/reward --data storyworld\n"
        "toolkit evaluate runs/tiny/sft --tasks hellaswag (lm-evaluation-harness; --tasks --help says more)\n"
        "toolkit evaluate --annotations FILE (judgements that exist already; --annotations FILE --help)",
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help=MODEL)
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE|NAME",
        help="a file or glob, a corpus run, storyworld, or owner/name[@revision] of the Hub",
    )
    parser.add_argument("--config", metavar="NAME", help="configuration of the dataset")
    parser.add_argument("--split", metavar="NAME", help="split of a hub dataset")
    parser.add_argument("--field", metavar="NAME", help="the column that holds the text")
    parser.add_argument("--examples", type=positive_int, metavar="N", help="at most N documents or prompts")
    parser.add_argument(
        "--window",
        type=positive_int,
        metavar="N",
        help="tokens a model sees at once; default all of its positions",
    )
    parser.add_argument(
        "--stride", type=positive_int, metavar="N", help="tokens the window moves; default half"
    )
    add_scoring(parser)
    add_comparison(parser)
    add_sampling(parser, max_new_tokens=96)
    parser.set_defaults(temperature=1.0)
    add_json(parser)
    args = parser.parse_intermixed_args(arguments)
    from toolkit.evaluate.command import evaluate_command

    given = vars(args)
    return evaluate_command(given.pop("models"), **given)
