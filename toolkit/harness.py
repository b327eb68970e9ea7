"""More arguments of `toolkit evaluate`: how text is scored, tasks of lm-evaluation-harness, annotations."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from toolkit.proofs import whole
from toolkit.recipe.errors import UsageError
from toolkit.verbs import MODEL, Parser

_positive = functools.partial(whole, least=1)
_count = functools.partial(whole, least=0)


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


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("names of tasks, with commas between them")
    return names


def evaluate_tasks(arguments: Sequence[str]) -> int:
    """Read the arguments and hand over.

    Raises:
        UsageError: lm-evaluation-harness is not installed.
    """
    parser = Parser(
        "evaluate",
        "Measure models on tasks of lm-evaluation-harness, which has to be installed "
        "(pip install 'toolkit[tasks]'): its own code and its own numbers, for any of our checkpoints.",
        "toolkit evaluate runs/tiny/sft openai-community/gpt2 --tasks hellaswag,piqa --examples 200\n"
        "toolkit evaluate runs/tiny/sft --tasks my_task --include-path my-tasks --json",
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help=MODEL)
    parser.add_argument(
        "--tasks", required=True, type=_names, metavar="NAME,...", help="tasks or groups of tasks"
    )
    parser.add_argument("--include-path", type=Path, metavar="DIR", help="a folder of your own tasks (YAML)")
    parser.add_argument("--examples", type=_positive, metavar="N", help="only the first N of each task")
    parser.add_argument("--few-shot", type=_count, metavar="N", help="examples before each question")
    parser.add_argument("--batch-examples", type=_positive, default=16, metavar="N", help="default 16")
    parser.add_argument("--chat", action="store_true", help="put questions into the chat template")
    parser.add_argument("--seed", type=_count, default=0, metavar="N", help="of few-shot examples")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the weights")
    parser.add_argument("--json", action="store_true", help="exactly one JSON object on stdout")
    args = parser.parse_intermixed_args(arguments)
    try:
        from toolkit.evaluate.tasks import tasks_command
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise UsageError(
            "tasks are measured by lm-evaluation-harness, which is not installed",
            where="--tasks",
            fix="pip install 'toolkit[tasks]'",
        ) from None
    given = vars(args)
    return tasks_command(given.pop("models"), given.pop("tasks"), **given)


def evaluate_annotations(arguments: Sequence[str]) -> int:
    """Read the arguments and measure what a file of judgements says; no model is run."""
    parser = Parser(
        "evaluate --annotations FILE",
        "Measure what people or judges have said of answers already: win rates, raw and at equal lengths, a "
        "ranking of more than two models, agreement, and what each annotator listens to besides the answer.",
        "toolkit evaluate --annotations annotations.json --baseline gpt4\n"
        "toolkit evaluate --annotations preferences.jsonl --json",
    )
    parser.usage = "toolkit evaluate --annotations FILE [--baseline MODEL] [--seed N] [--json]"
    parser.add_argument(
        "--annotations",
        required=True,
        metavar="FILE",
        help="AlpacaEval's annotations.json (instruction, output_1, output_2, preference from 1 to 2), the "
        "same as .jsonl or .parquet, or preferences (chosen, rejected); or a glob of such files",
    )
    parser.add_argument("--baseline", metavar="MODEL", help="a generator that others are compared with")
    parser.add_argument("--seed", type=_count, default=0, metavar="N", help="of the bootstrap; default 0")
    parser.add_argument("--json", action="store_true", help="exactly one JSON object on stdout")
    args = parser.parse_args(arguments)
    from toolkit.evaluate.annotations import annotations_command

    return annotations_command(args.annotations, baseline=args.baseline, seed=args.seed, json=args.json)


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
        "--samples-per-prompt", type=_positive, default=1, metavar="N", help="answers to each prompt"
    )
    parser.add_argument(
        "--best-of", metavar="MODEL", help="a reward model: the best of 2 and of 4 baseline answers, too"
    )
