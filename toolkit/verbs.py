"""The verbs: what each takes on the command line, and the module that carries it out, imported only then."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from toolkit.recipe.errors import UsageError

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
        message = message.removesuffix(", key=value")  # argparse says that of what may be left out
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            message += did_you_mean(unknown[1].partition("=")[0], options)
        raise UsageError(message, where=self.prog, fix=f"`{self.prog} --help` lists what it takes")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _recipe(parser: Parser, nargs: str | None = None) -> None:
    parser.add_argument(
        "recipe", metavar="RECIPE|FOLDER", nargs=nargs, help="a recipe, or a folder of recipes"
    )
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="settings to change, as in trainer.learning_rate=5e-5; in a folder, in the "
        "recipes that set the key",
    )


def _json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="exactly one JSON object on stdout")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def _sampling(parser: Parser, max_new_tokens: int = 200) -> None:
    parser.add_argument("--max-new-tokens", type=_positive, default=max_new_tokens, metavar="N")
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="0 takes the likeliest token"
    )
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="of the K likeliest tokens; 0: all")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="of the likeliest, up to P")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same answer")


def _choice(args: argparse.Namespace) -> Any:
    from toolkit.see.generate import Choice

    return Choice(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
    )


def _run(arguments: Sequence[str]) -> int:
    parser = Parser(
        "run",
        "Run a recipe, or a folder of recipes in the order that their references give. "
        "What is finished is skipped; what was interrupted goes on from its last checkpoint.",
        "toolkit run recipes/tiny\ntoolkit run recipes/tiny/dpo.yaml trainer.beta=0.2\n"
        "toolkit run recipes/gpt2-124m --launch recipes/accelerate/gpus.yaml",
    )
    _recipe(parser, "?")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="root of all runs")
    parser.add_argument("--fresh", action="store_true", help="start over where inputs have changed")
    parser.add_argument(
        "--launch",
        metavar="ACCELERATE.yaml",
        help="start each stage with accelerate launch and this configuration",
    )
    parser.add_argument(
        "--replay-incident",
        type=Path,
        metavar="FILE",
        help="make a step again that a pretraining held up (RUN/incidents/step-N); RECIPE may be left out",
    )
    _json(parser)
    args = parser.parse_intermixed_args(arguments)
    if args.replay_incident is not None:
        return _replay_incident(parser, args)
    if args.recipe is None:
        parser.error("the following arguments are required: RECIPE|FOLDER")
    from toolkit.execute import run_command
    from toolkit.recipe.shipped import locate

    overrides = _literal(args.overrides, args.runs_dir)
    return run_command(
        locate(args.recipe),
        overrides,
        runs_dir=args.runs_dir,
        fresh=args.fresh,
        launch=args.launch and locate(args.launch),
        json=args.json,
    )


def _replay_incident(parser: Parser, args: argparse.Namespace) -> int:
    if args.fresh or args.launch:
        parser.error("--replay-incident makes one step in this process; it takes no --fresh and no --launch")
    from toolkit.pretrain.incident_replay import incident_command
    from toolkit.recipe.shipped import locate

    recipe = args.recipe and locate(args.recipe)
    return incident_command(args.replay_incident, recipe, args.overrides, json=args.json)


def _literal(overrides: Sequence[str], runs_dir: Path) -> list[str]:
    """Paths on the command line are literal: with another --runs-dir `runs/x` still means ./runs/x."""
    if Path(runs_dir).absolute() == Path("runs").absolute():
        return list(overrides)
    references = r"(\w+\.)*(tokenizer|tokens|model|reward_model|models|baseline|judge)(\.\d+)?="
    return [
        re.sub(r"(?<![\w./-])runs/", "./runs/", text) if re.match(references, text) else text
        for text in overrides
    ]


def _check(arguments: Sequence[str]) -> int:
    parser = Parser(
        "check",
        "Find every mistake in a recipe or a folder of them, and say what cannot be "
        "checked without data and parents. Nothing is run or written.",
        "toolkit check recipes/tiny\ntoolkit check my.yaml trainer.beta=0.2 --json",
    )
    _recipe(parser)
    _json(parser)
    args = parser.parse_intermixed_args(arguments)
    from toolkit.check import check_command
    from toolkit.recipe.shipped import locate

    return check_command(locate(args.recipe), args.overrides, json=args.json)


def _plan(arguments: Sequence[str]) -> int:
    parser = Parser(
        "plan",
        "Say what a recipe or a folder will cost before it runs: parameters, tokens, FLOPs, memory, time and "
        "money. Time comes from a few real training steps on this machine, in a few seconds.",
        "toolkit plan recipes/tiny\ntoolkit plan recipes/tiny/pretrain.yaml model.n_layer=8 --no-probe\n"
        "toolkit plan recipes/gpt2-124m --processes 8 --price 2.5",
    )
    _recipe(parser)
    for option, metavar, kind, text in (
        ("--price", "P", float, "money for an hour of one process (a GPU, or this machine)"),
        ("--processes", "N", _positive, "plan for N processes, each on hardware like this (default 1)"),
        ("--runs-dir", "DIR", Path, "where a finished corpus is looked for (default runs)"),
    ):  # what is not given has the default of plan_command
        parser.add_argument(option, type=kind, default=argparse.SUPPRESS, metavar=metavar, help=text)
    off = {"dest": "probe", "action": "store_false", "default": argparse.SUPPRESS}
    parser.add_argument("--no-probe", help="make no training steps: only count, at once", **off)
    _json(parser)
    given = vars(parser.parse_intermixed_args(arguments))
    from toolkit.plan import plan_command
    from toolkit.recipe.shipped import locate

    return plan_command(str(locate(given.pop("recipe"))), given.pop("overrides"), **given)


def _evaluate(arguments: Sequence[str]) -> int:
    from toolkit import harness

    if any(argument.partition("=")[0] == "--tasks" for argument in arguments):
        return harness.evaluate_tasks(arguments)
    if any(argument.partition("=")[0] == "--annotations" for argument in arguments):
        return harness.evaluate_annotations(arguments)
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
    parser.add_argument("--examples", type=_positive, metavar="N", help="at most N documents or prompts")
    parser.add_argument(
        "--window",
        type=_positive,
        metavar="N",
        help="tokens a model sees at once; default all of its positions",
    )
    parser.add_argument("--stride", type=_positive, metavar="N", help="tokens the window moves; default half")
    harness.add_scoring(parser)
    harness.add_comparison(parser)
    _sampling(parser, max_new_tokens=96)
    parser.set_defaults(temperature=1.0)
    _json(parser)
    args = parser.parse_intermixed_args(arguments)
    from toolkit.evaluate.command import evaluate_command

    given = vars(args)
    return evaluate_command(given.pop("models"), **given)


def _generate(arguments: Sequence[str]) -> int:
    parser = Parser(
        "generate",
        "Print what a model answers to a prompt. A model of conversations is asked, "
        "another one continues the text.",
        'toolkit generate runs/tiny/pretrain "Once upon a time"\n'
        'toolkit generate runs/tiny/dpo "Tell me a story about a fox." --n 3 --temperature 0.7',
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("prompt", help="the text; - reads it from stdin")
    parser.add_argument("--n", type=_positive, default=1, metavar="N", help="how many answers")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--chat", action="store_true", default=None, help="put it into the chat template")
    way.add_argument("--raw", action="store_false", dest="chat", help="continue it as plain text")
    _sampling(parser)
    _json(parser)
    args = parser.parse_intermixed_args(arguments)
    from toolkit.see.generate import generate_command

    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    return generate_command(
        args.model, prompt, choice=_choice(args), count=args.n, chat=args.chat, json=args.json
    )


def _chat(arguments: Sequence[str]) -> int:
    parser = Parser(
        "chat",
        "Talk with a model; /help lists what you can do, Ctrl-D ends.",
        'toolkit chat runs/tiny/ppo\ntoolkit chat runs/tiny/sft --system "Answer briefly."',
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--system", metavar="TEXT", help="a system message before the conversation")
    _sampling(parser)
    args = parser.parse_intermixed_args(arguments)
    from toolkit.see.chat import chat_command

    return chat_command(args.model, choice=_choice(args), system=args.system)


def _next(arguments: Sequence[str]) -> int:
    parser = Parser(
        "next",
        "Show the distribution of the next token as a table with bars: what a language model is.",
        'toolkit next runs/tiny/pretrain "Once upon a"\n'
        'toolkit next runs/tiny/sft "The fox" --top 20 --steps 5 --temperature 0.8',
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("text", help="the text so far")
    parser.add_argument("--top", type=_positive, default=10, metavar="K", help="rows of the table")
    parser.add_argument("--steps", type=_positive, default=1, metavar="N", help="go on for N tokens")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="above 0: the token to go on with is drawn (0: the likeliest)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--chat", action="store_true", help="put the text into the chat template")
    _json(parser)
    args = parser.parse_intermixed_args(arguments)
    from toolkit.see.next_token import next_command

    given = vars(args)
    return next_command(given.pop("model"), given.pop("text"), **given)


def _report(arguments: Sequence[str]) -> int:
    parser = Parser(
        "report",
        "Write one self-contained HTML page about runs; its path goes to stdout.",
        "toolkit report runs/tiny\ntoolkit report runs/tiny/dpo runs/tiny/ppo --output compared.html",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory, or a folder of them")
    parser.add_argument("--output", metavar="FILE", help="where to write it")
    args = parser.parse_intermixed_args(arguments)
    from toolkit.report.command import report_command

    return report_command(args.runs, output=args.output)


def _publish(arguments: Sequence[str]) -> int:
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
    from toolkit.publish import publish_command

    return publish_command(
        args.run, args.repo_id, dry_run=args.dry_run, output=args.output, private=args.private
    )


def _schema(arguments: Sequence[str]) -> int:
    parser = Parser(
        "schema",
        "Write the JSON schema of recipes, with which editors complete and check them.",
        "toolkit schema\ntoolkit schema --output - | head",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="where to write it, - for stdout (default recipes/recipe.schema.json where it "
        "is there, else stdout)",
    )
    args = parser.parse_args(arguments)
    from toolkit.recipe.editor import schema_command

    return schema_command(output=args.output)


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": _run,
    "check": _check,
    "plan": _plan,
    "evaluate": _evaluate,
    "generate": _generate,
    "chat": _chat,
    "next": _next,
    "report": _report,
    "publish": _publish,
    "schema": _schema,
}
