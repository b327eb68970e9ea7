"""`toolkit evaluate`: any models on any data, as a table on stderr or one JSON object on stdout."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from toolkit.base.console import number_table
from toolkit.base.errors import UsageError
from toolkit.config.judge_kinds import kind as judge_kind
from toolkit.config.schema import DataSource
from toolkit.data import files, hub
from toolkit.data.chat import formats, sources
from toolkit.data.text import documents
from toolkit.data.text.documents import Part
from toolkit.evaluate import judge_factory, judges, perplexity, reward_models
from toolkit.evaluate.best_of import BestOf
from toolkit.evaluate.judges import AnyJudge
from toolkit.evaluate.naming import models_by_name
from toolkit.evaluate.perplexity import HeldOutText, Prefix, ScoringSettings
from toolkit.evaluate.session import DTYPES, Session
from toolkit.evaluate.win_rate import Contest
from toolkit.models.loading import Reference
from toolkit.runs import layout, references, seal
from toolkit.runtime import devices
from toolkit.stats import interval_text, kl_text

DEFAULT_EXAMPLES = 200
"""Of storyworld and of hub datasets, which may be endless or very large; a file is read whole."""
BEST_OF = (2, 4)
CONVERSATION_COLUMNS = {*formats.CONVERSATION_COLUMNS, "prompt", "completion", "chosen"}


@dataclass(frozen=True)
class Options:
    """What the command line says besides the models."""

    data: str
    config: str | None = None
    split: str | None = None
    field: str | None = None
    examples: int | None = None
    baseline: str | None = None
    judge: str = "gold"
    judge_model: str | None = None
    judge_key_variable: str = "JUDGE_API_KEY"
    stop_early: bool = False
    judge_data: str | None = None
    judgements: str = "judgements.jsonl"
    samples_per_prompt: int = 1
    best_of: str | None = None
    window: int | None = None
    stride: int | None = None
    prefix: Prefix = "auto"
    score_end: bool = True
    packed: bool = False
    precision: str = "fp32"
    max_new_tokens: int = 96
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    json: bool = False


def evaluate_command(models: list[str], **given: object) -> int:
    """Measure perplexity on text, and with a baseline the win rate on prompts; see Options.

    Of a file everything is measured on, of storyworld the held-out part, of a corpus run its held-out tokens.

    Raises:
        ToolkitError: a model or data that cannot be had, data of neither kind, two models of one name.
    """
    options = Options(**given)
    wanted = list(dict.fromkeys([*([options.baseline] if options.baseline else []), *models]))
    names = models_by_name(wanted)
    places = {name: references.named_model(model) for name, model in names.items()}
    if reward_models.are_reward_models(places):
        return _evaluate_reward_models(places, options, models)
    text, contest = open_data(options)
    if options.best_of is not None and contest is None:
        raise UsageError("has an effect only on prompts, with --baseline", where="--best-of", fix="give it")
    if contest is None and text is None:
        raise UsageError(
            "these are prompts without a model to compare with",
            where=options.data,
            fix="give --baseline MODEL",
        )
    baseline = next((name for name, model in names.items() if model == options.baseline), None)
    device = devices.select("auto")
    session = Session(
        references=places,
        device=device,
        seed=options.seed,
        baseline=baseline,
        text=text,
        scoring=ScoringSettings(
            options.window, options.stride, options.prefix, options.score_end, options.packed
        ),
        dtype=DTYPES[options.precision],
        contest=contest,
        best_of=open_best_of(options, device) if contest and options.best_of else None,
    )
    judge = open_judge(options, contest, device) if contest else None
    results = session.results({name: session.measure(name) for name in names}, judge)
    if options.json:
        _print_json(results, options, models)
    else:
        show(results)
    return 0


def _print_json(results: dict[str, object], options: Options, models: list[str]) -> None:
    settings = {key: value for key, value in asdict(options).items() if key != "json"}
    print(json_format.dumps({**results, "settings": {"models": models, **settings}}, ensure_ascii=False))


def _evaluate_reward_models(places: dict[str, Reference], options: Options, models: list[str]) -> int:
    if options.baseline is not None:
        raise UsageError("has no effect on reward models", where="--baseline", fix="leave it out")
    source, part = _source(options)
    device = devices.select("auto")
    found = reward_models.measure(places, source, part=part, device=device, seed=options.seed)
    if options.json:
        _print_json({"models": found}, options, models)
    else:
        reward_models.show(found)
    return 0


def _source(options: Options) -> tuple[DataSource, Part]:
    """What --data and the options beside it name: of storyworld the held-out part, of a file all."""
    known = options.data == files.STORYWORLD
    limit = options.examples or (None if files.is_local(options.data) else DEFAULT_EXAMPLES)
    source = DataSource(
        name=options.data,
        config=options.config,
        split=options.split,
        field=options.field,
        examples=None if known else limit,
        held_out_examples=limit if known else None,
    )
    return source, "held_out" if known else "all"


def open_data(options: Options) -> tuple[HeldOutText | None, Contest | None]:
    """The text, and the prompts, that the data hold; prompts only where there is a baseline."""
    if seal.is_run(Path(options.data)):
        run = Path(options.data)
        seal.require_sealed(run)
        if not (run / layout.CORPUS / "held_out").is_dir():
            raise UsageError(
                "is not a corpus run", where=options.data, fix="give a corpus run, a file, or a name"
            )
        return perplexity.from_corpus(run), None
    (source, part), known = _source(options), options.data == files.STORYWORLD
    has_text, has_prompts = kinds(source)
    text = perplexity.from_data(source, part=part, seed=options.seed) if has_text else None
    contest = None
    if has_prompts and options.baseline:
        if known and options.config is None:
            source = source.model_copy(update={"config": "prompts"})
        rows, times = sources.prompts(source, part=part, seed=options.seed), options.samples_per_prompt
        contest = Contest(
            prompts=[row["prompt"] for row in rows for _ in range(times)],
            samples_per_prompt=times,
            seed=options.seed,
            known_world=known,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
        )
    elif options.baseline:
        print("the data are text without prompts: no win rate", file=sys.stderr)
    return text, contest


def kinds(source: DataSource) -> tuple[bool, bool]:
    """Whether a source holds text, and whether it holds prompts; the first row of a table says so.

    Raises:
        UsageError: neither.
    """
    if source.name == files.STORYWORLD:
        return source.config in (None, "stories"), source.config != "stories"
    documents.as_sources(source)
    paths = files.resolve(source)
    if paths and files.suffix_of(paths[0]) == ".txt":
        return True, False
    row = _first_row(source, paths)
    if source.field is not None and source.field in row:
        return isinstance(row[source.field], str), not isinstance(row[source.field], str)
    if "text" in row or CONVERSATION_COLUMNS & row.keys():
        return "text" in row, bool(CONVERSATION_COLUMNS & row.keys())
    raise UsageError(
        f"neither text nor conversations: the columns are {', '.join(row)}",
        where=source.name,
        fix="name the column with --field",
    )


def _first_row(source: DataSource, paths: list[Path] | None) -> dict[str, object]:
    if paths is not None:
        return next(files.rows(paths[0]), ("", {}))[1]
    return next(hub.rows(source, streaming=True), ("", {}))[1]


def open_judge(options: Options, contest: Contest, device: object) -> AnyJudge:
    """Whoever --judge names; what an endpoint says is kept in --judgements."""
    sort = judge_kind(options.judge)
    if (sort == "endpoint") != (options.judge_model is not None):
        raise UsageError(
            "goes with --judge URL, and only with it", where="--judge-model", fix="give both or none"
        )
    if options.stop_early and sort != "endpoint":
        raise UsageError("has an effect only with --judge URL", where="--stop-early", fix="leave it out")
    reference = references.named_model(options.judge) if sort == "model" else None
    if sort == "endpoint":
        print(f"judgements are kept in {options.judgements}", file=sys.stderr)
    return judge_factory.open_judge(
        _named_judge(options),
        contest,
        reference=reference,
        known=judge_factory.known_accuracy(Path(reference[0])) if reference else None,
        journal=Path(options.judgements),
        device=device,
        where=options.data,
    )


def _named_judge(options: Options) -> judge_factory.Named:
    data, part = None, "held_out"
    if options.judge_data is not None:
        checked = replace(
            options, data=options.judge_data, config=None, split=None, field=None, examples=None
        )
        data, part = _source(checked)
    return judge_factory.Named(
        options.judge, options.judge_model, options.judge_key_variable, data, part, options.stop_early
    )


def open_best_of(options: Options, device: object) -> BestOf:
    """The reward model that chooses among 2 and among 4 answers of the baseline."""
    reference = references.named_model(options.best_of)
    chooser = judges.reward_judge(options.best_of, reference, device=device, seed=options.seed)
    return BestOf(BEST_OF, options.best_of, chooser.score)


def show(results: dict[str, object]) -> None:
    """Print the numbers as tables on stderr."""
    console = Console(stderr=True, highlight=False)
    models = results["models"]
    first = next(iter(models.values()))
    if "bits_per_byte" in first:
        console.print(perplexity_table(models))
        console.print(reading(models), style="dim")
    if results["judge"] is not None:
        console.print(win_rate_table(models, results["baseline"]))
        judge = results["judge"]
        accuracy = f", accuracy {interval_text(judge, 'accuracy')}" if "accuracy" in judge else ""
        power = judge["power"] or "asked until 50% was excluded, so that intervals hold at any time"
        console.print(f"judge: {judge['name']}{accuracy}; {power}; KL in nats an answer, length in tokens")
        if "position_bias" in judge:
            bias = judge["position_bias"]
            share = interval_text(bias, "inconsistent", percent=True)
            console.print(f"verdicts that changed with the order: {share}, which count as ties", style="dim")
        if judge["doubt"]:
            console.print(f"no verdict: {judge['doubt']}", style="yellow")


def perplexity_table(models: dict[str, dict[str, object]]) -> Table:
    """One row a model; the entropy floor, where it is known, is what no model can beat."""
    first = next(iter(models.values()))
    size = f"{first['documents']:,} documents, {first['bytes']:,} bytes"
    compared = any("bits_per_byte_difference" in row for row in models.values())
    columns = ["bits per byte", *(["minus baseline"] if compared else []), "perplexity", "by word"]
    table = number_table(f"{size}; 95% intervals over {first['interval_over']}", ["model"], columns)
    for name, row in models.items():
        difference = [interval_text(row, "bits_per_byte_difference")] if compared else []
        words = "-" if row["word_perplexity"] is None else f"{row['word_perplexity']:.3g}"
        table.add_row(
            name, interval_text(row, "bits_per_byte"), *difference, f"{row['perplexity']:.2f}", words
        )
    if first["entropy_floor_bits_per_byte"] is not None:
        table.add_row("entropy floor", f"{first['entropy_floor_bits_per_byte']:.3f} (exact)", style="dim")
    return table


def reading(models: dict[str, dict[str, object]]) -> str:
    """How the text was put before the models, in words."""

    def each(key: str) -> str:
        return "/".join(dict.fromkeys(str(row[key]) for row in models.values()))

    first, unscored = next(iter(models.values())), each("unscored_tokens")
    words = [
        f"window {each('window')}",
        f"stride {each('stride')}",
        f"prefix {each('prefix')}",
        each("dtype"),
    ]
    words += [] if first["end_scored"] else ["end-of-text not scored"]
    words += ["packed"] if first["packed"] else []
    words += [] if unscored == "0" else [f"{unscored} tokens without context not scored"]
    return ", ".join(words)


def win_rate_table(models: dict[str, dict[str, object]], baseline: str) -> Table:
    """One row a model: how often its answer is better than the baseline's, and what that has cost."""
    prompts = next(iter(models.values()))["prompts"]
    some = any(row["win_rate"]["unjudged"] for row in models.values() if "win_rate" in row)
    scored = any("score" in row for row in models.values())
    columns = ["verdict", "win rate", *(["judged"] if some else []), "equally\nlong", "ties"]
    columns += ["KL", "length", "ended", *(["score"] if scored else [])]
    title = f"win rate against {baseline} on {prompts} prompts, 95% intervals"
    table = number_table(title, ["model"], columns)
    for name, row in models.items():
        rate = row.get("win_rate")
        cells = ["baseline", *["-"] * (4 if some else 3)]
        if rate:
            share = f"{rate['estimate']:.1%} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
            judged = [f"{rate['n']:,}"] if some else []
            equal = f"{rate['length_controlled']:.1%}"
            cells = [rate["verdict"], share, *judged, equal, str(rate["ties"])]
        numbers = [kl_text(row), f"{row['mean_length']:.1f}", f"{row['ended']:.0%}"]
        numbers += [f"{row['score']:.2f}"] if scored else []
        table.add_row(name, *cells, *numbers)
    return table
