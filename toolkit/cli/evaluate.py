"""`toolkit evaluate`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.errors import UsageError
from toolkit.cli.parser import MODEL, Parser, add_dtype, add_json, add_sampling, positive_int

if TYPE_CHECKING:
    from toolkit.config.schema import DataSource
    from toolkit.evaluate.context import EvaluationContext
    from toolkit.runs.evaluation import ModelComparison
    from toolkit.runs.hub import Reference

SCORING = ("window", "stride", "prefix", "score_end", "packed")
"""Options that are settings of `perplexity` in an evaluate recipe."""
COMPARISON = (
    "judge", "judge_model", "judge_key_variable", "stop_early", "samples_per_prompt", "max_new_tokens",
    "temperature", "top_k", "top_p",
)  # fmt: skip
"""Options that are settings of `win_rate` in an evaluate recipe."""
OF_RECIPE = ("seed", "precision")
"""Options that are settings of an evaluate recipe."""


def main(arguments: Sequence[str]) -> int:
    options = {argument.partition("=")[0] for argument in arguments}
    if options & {"-h", "--help"}:
        arguments = ["--help"]  # `--tasks --help` gives --tasks no names
    if "--tasks" in options:
        from toolkit.cli import evaluate_tasks

        return evaluate_tasks.main(arguments)
    if "--annotations" in options:
        from toolkit.cli import evaluate_annotations

        return evaluate_annotations.main(arguments)
    args = _parser().parse_intermixed_args(arguments)
    _complete(args)
    from toolkit.cli import evaluate_tables
    from toolkit.evaluate import context, reward_models
    from toolkit.evaluate.naming import models_by_name

    surroundings = context.of_current_folder(Path(args.judgements))
    models = list(dict.fromkeys([*([args.baseline] if args.baseline else []), *args.models]))
    references = {name: surroundings.model_reference(model) for name, model in models_by_name(models).items()}
    show = evaluate_tables.show
    if reward_models.are_reward_models(references):
        results = _measure_reward_models(args, references, surroundings)
        show = evaluate_tables.show_reward_models
    else:
        results = _measure_language_models(args, surroundings)
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        print(json.dumps({**results.to_json(), "settings": settings}, ensure_ascii=False))
    else:
        show(results)
    return 0


def _measure_reward_models(
    args: argparse.Namespace, references: Mapping[str, Reference], surroundings: EvaluationContext
) -> ModelComparison:
    from toolkit.evaluate import reward_models
    from toolkit.models.loading import DTYPES

    if args.baseline is not None:
        raise UsageError("has no effect on reward models", where="--baseline", fix="leave it out")
    return reward_models.measure(
        references,
        _source(args),
        surroundings,
        part=args.part,
        seed=args.seed,
        dtype=DTYPES[args.precision],
    )


def _measure_language_models(args: argparse.Namespace, surroundings: EvaluationContext) -> ModelComparison:
    from toolkit.evaluate import request, stage
    from toolkit.runs import seal

    options = vars(args)
    win_rate = {key: options[key] for key in COMPARISON}
    if args.judge_data is not None:
        win_rate["judge_data"] = request.data_source(args.judge_data, world=args.world)
    if args.best_of is not None:
        win_rate["best_of"] = {"reward_model": args.best_of}
    recipe = request.build_recipe(
        args.models,
        args.data if seal.is_run(Path(args.data)) else _source(args),
        baseline=args.baseline,
        perplexity={key: options[key] for key in SCORING},
        win_rate=win_rate,
        seed=args.seed,
        precision=args.precision,
    )
    if recipe.win_rate is not None:
        _require_judge_options(args)
    elif args.best_of is not None:
        raise UsageError("has an effect only on prompts, with --baseline", where="--best-of", fix="give it")
    elif args.baseline is not None:
        print("the data are text without prompts: no win rate", file=sys.stderr)
    return stage.evaluate(recipe, surroundings, part=args.part)


def _source(args: argparse.Namespace) -> DataSource:
    from toolkit.evaluate import request

    return request.data_source(
        args.data,
        config=args.config,
        split=args.split,
        field=args.field,
        examples=args.examples,
        world=args.world,
    )


def _require_judge_options(args: argparse.Namespace) -> None:
    """Refuse options of an endpoint with another judge, and an endpoint without its model."""
    from toolkit.config.judge_kinds import kind

    is_endpoint = kind(args.judge) == "endpoint"
    if is_endpoint != (args.judge_model is not None):
        raise UsageError(
            "goes with --judge URL, and only with it", where="--judge-model", fix="give both or none"
        )
    if args.stop_early and not is_endpoint:
        raise UsageError("has an effect only with --judge URL", where="--stop-early", fix="leave it out")
    if is_endpoint:
        print(f"judgements are kept in {args.judgements}", file=sys.stderr)


def _parser() -> Parser:
    parser = Parser(
        "evaluate",
        "Measure perplexity and bits per byte of models on any text, with --baseline the win rate of their "
        "answers against it, and reward models on preferences, each number with its interval. Defaults are "
        "those of an evaluate recipe: docs/EVALUATION.md.",
        "toolkit evaluate runs/tiny/pretrain openai-community/gpt2 --data book.txt\n"
        "toolkit evaluate runs/tiny/dpo --data storyworld --world small --baseline runs/tiny/sft --json\n"
        "toolkit evaluate runs/tiny/reward --data storyworld --world small\n"
        "toolkit evaluate runs/tiny/sft --tasks hellaswag (lm-evaluation-harness; see --tasks --help)\n"
        "toolkit evaluate --annotations FILE (existing judgements; see --annotations FILE --help)",
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help=MODEL)
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE|NAME",
        help="a file, folder or glob (docs/DATA.md), a corpus run, storyworld, or owner/name[@revision] of "
        "the Hub",
    )
    parser.add_argument(
        "--world", choices=("small", "large"), help="with --data storyworld: which world; default: large"
    )
    parser.add_argument("--config", metavar="NAME", help="configuration of the dataset")
    parser.add_argument("--split", metavar="NAME", help="split of a Hub dataset or of a saved DatasetDict")
    parser.add_argument("--field", metavar="NAME", help="the column that holds the text; nested: doc.text")
    parser.add_argument(
        "--examples",
        type=positive_int,
        metavar="N",
        help="at most N documents or prompts",
    )
    parser.add_argument(
        "--part",
        choices=("held_out", "train", "all"),
        help="the rows of a file to measure; default: all, but the held-out rows of a file that a model, the "
        "judge, or a run they were made from was trained on",
    )
    parser.add_argument(
        "--window",
        type=positive_int,
        metavar="N",
        help="tokens in one window; default: all positions of the model, 4096 at most",
    )
    parser.add_argument(
        "--stride",
        type=positive_int,
        metavar="N",
        help="tokens between the starts of two windows; default: half a window",
    )
    _add_scoring(parser)
    _add_comparison(parser)
    add_sampling(parser)
    add_json(parser)
    parser.set_defaults(**dict.fromkeys((*OF_RECIPE, *SCORING, *COMPARISON)))
    return parser


def _complete(args: argparse.Namespace) -> None:
    """Set the options that are not given to the defaults of an evaluate recipe."""
    from toolkit.config.schema import EvaluateRecipe, PerplexitySettings, WinRateSettings

    for recipe, keys in (
        (EvaluateRecipe, OF_RECIPE),
        (PerplexitySettings, SCORING),
        (WinRateSettings, COMPARISON),
    ):
        for key in keys:
            if getattr(args, key) is None:
                setattr(args, key, recipe.model_fields[key].default)


def _add_scoring(parser: Parser) -> None:
    """Add the options that say how documents are presented to a model."""
    parser.add_argument(
        "--prefix",
        choices=("auto", "bos", "end", "none"),
        help="the token before a document: beginning-of-text, end-of-text, or nothing (its first token is "
        "then not scored); auto asks the model's configuration",
    )
    parser.add_argument(
        "--no-score-end", dest="score_end", action="store_false", help="do not score end-of-text"
    )
    parser.add_argument("--packed", action="store_true", help="read all documents as one text")
    add_dtype(parser, "--precision", dest="precision")


def _add_comparison(parser: Parser) -> None:
    """Add the options of the win rate."""
    parser.add_argument("--baseline", metavar="MODEL", help="the model that the answers are compared with")
    parser.add_argument(
        "--judge",
        metavar="gold|MODEL|FILE|URL",
        help="the judge: storyworld's utility, a reward model, people's votes, an endpoint",
    )
    parser.add_argument("--judge-model", metavar="NAME", help="name of the model at the endpoint")
    parser.add_argument(
        "--judge-key-variable",
        metavar="NAME",
        help="variable with the endpoint's key",
    )
    parser.add_argument(
        "--stop-early", action="store_true", help="stop asking an endpoint once the interval excludes 50%%"
    )
    parser.add_argument(
        "--judge-data", metavar="FILE|NAME", help="preferences that measure the judge's accuracy (as --data)"
    )
    parser.add_argument(
        "--judgements", default="judgements.jsonl", metavar="FILE", help="log of an endpoint's judgements"
    )
    parser.add_argument(
        "--samples-per-prompt",
        type=positive_int,
        metavar="N",
        help="answers to each prompt",
    )
    parser.add_argument(
        "--best-of", metavar="MODEL", help="a reward model: the best of 2 and of 4 baseline answers, too"
    )
