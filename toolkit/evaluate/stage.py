"""The evaluate stage: every model measured in the same way, on text and prompts that no stage trained on."""

from __future__ import annotations

import json
from pathlib import Path

from toolkit.base.errors import RunError
from toolkit.config.judge_kinds import kind as judge_kind
from toolkit.config.schema import BestOfSettings, EvaluateRecipe, PerplexitySettings, WinRateSettings
from toolkit.data import files
from toolkit.data.chat import sources
from toolkit.data.text import documents
from toolkit.evaluate import judge_factory, judges, perplexity
from toolkit.evaluate.best_of import BestOf
from toolkit.evaluate.judges import AnyJudge
from toolkit.evaluate.naming import models_by_name
from toolkit.evaluate.perplexity import HeldOutText, ScoringSettings
from toolkit.evaluate.session import DTYPES, Measured, Session, answers_of
from toolkit.evaluate.win_rate import Contest, Judged
from toolkit.runs import checkpoint, layout
from toolkit.runs.run import Run
from toolkit.runtime.devices import select

MEASURED = "measured.json"
JUDGEMENTS = "judgements.jsonl"


def run(recipe: EvaluateRecipe, run: Run) -> None:
    """Measure each model, then judge all answers together; writes evaluation.json and answers.jsonl.

    What was measured of a model is sealed as a checkpoint, so that a run which goes on does not measure it
    again. One process does all the work.
    """
    if not run.is_main:
        return
    session = open_session(recipe, run)
    judge = open_judge(recipe.win_rate, run, session.contest) if recipe.win_rate else None
    measured = load_measured(run)
    for step, name in enumerate(session.references, 1):
        if name in measured:
            continue
        measured[name] = session.measure(name)
        checkpoint.save(run, step, lambda folder: _write(folder, measured), keep=1)
    results = session.results(measured, judge)
    results["settings"] = recipe.model_dump(mode="json", exclude={"stage", "run"})
    if session.judged is not None:
        write_answers(run, session.contest, measured, session.judged)
    run.metrics.truncate(0)
    for step, (name, row) in enumerate(results["models"].items(), 1):
        run.metrics.log(step, model=name, **{key: row[key] for key in SHOWN if key in row})
    run.write_json(layout.EVALUATION, results)


SHOWN = ("bits_per_byte", "perplexity", "score", "kl_to_baseline", "mean_length", "ended")
"""What goes into metrics.jsonl, one line a model."""


def open_session(recipe: EvaluateRecipe, run: Run) -> Session:
    """Find the models and read the data."""
    names = models_by_name(recipe.models)
    contest = recipe.win_rate
    baseline = next((name for name, model in names.items() if contest and model == contest.baseline), None)
    settings = recipe.perplexity
    return Session(
        references={name: run.model_reference(model) for name, model in names.items()},
        device=select(recipe.device),
        seed=recipe.seed,
        baseline=baseline,
        text=open_text(settings, run, recipe.seed) if settings else None,
        scoring=ScoringSettings(**(settings.model_dump(exclude={"tokens", "data"}) if settings else {})),
        dtype=DTYPES[recipe.precision],
        contest=open_contest(recipe) if contest else None,
        best_of=open_best_of(contest.best_of, run) if contest and contest.best_of else None,
        samples=recipe.samples,
    )


def open_text(settings: PerplexitySettings, run: Run, seed: int) -> HeldOutText:
    """The held-out part of a corpus run or of a text source."""
    if settings.tokens is None:
        return perplexity.from_data(settings.data, part="held_out", seed=seed)
    corpus = run.reference(settings.tokens)
    if not isinstance(corpus, Path):
        raise RunError("is not a corpus run", where=settings.tokens, fix="name one, or give perplexity.data")
    return perplexity.from_corpus(corpus)


def open_contest(recipe: EvaluateRecipe) -> Contest:
    """The held-out prompts, and how they are answered."""
    settings, seed = recipe.win_rate, recipe.seed
    prompts = sources.prompts(recipe.data, part="held_out", seed=seed)
    is_storyworld = all(source.name == files.STORYWORLD for source in documents.as_sources(recipe.data))
    return Contest(
        prompts=[row["prompt"] for row in prompts for _ in range(settings.samples_per_prompt)],
        samples_per_prompt=settings.samples_per_prompt,
        seed=seed,
        known_world=is_storyworld,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        batch_examples=settings.batch_examples,
        bootstrap_samples=settings.bootstrap_samples,
    )


def open_best_of(settings: BestOfSettings, run: Run) -> BestOf:
    """The reward model that chooses among the baseline's answers."""
    reference, target = run.model_reference(settings.reward_model), select(run.recipe.device)
    chooser = judges.reward_judge(settings.reward_model, reference, device=target, seed=run.seed)
    return BestOf(tuple(settings.counts), settings.reward_model, chooser.score)


def open_judge(settings: WinRateSettings, run: Run, contest: Contest) -> AnyJudge:
    """Whoever the recipe names; what an endpoint says is kept in the run's judgements.jsonl."""
    named = judge_factory.Named(
        settings.judge,
        settings.judge_model,
        settings.judge_key_variable,
        settings.judge_data,
        stop_early=settings.stop_early,
    )
    is_model = judge_kind(settings.judge) == "model"
    folder = run.reference(settings.judge) if is_model else None
    return judge_factory.open_judge(
        named,
        contest,
        reference=run.model_reference(settings.judge) if is_model else None,
        known=judge_factory.known_accuracy(folder) if isinstance(folder, Path) else None,
        journal=run.path / JUDGEMENTS,
        device=select(run.recipe.device),
        where="win_rate.judge",
    )


def load_measured(run: Run) -> dict[str, Measured]:
    """What earlier attempts have measured, by model."""
    saved = checkpoint.latest(run)
    return json.loads((saved[1] / MEASURED).read_text(encoding="utf-8")) if saved else {}


def _write(folder: Path, measured: dict[str, Measured]) -> None:
    (folder / MEASURED).write_text(json.dumps(measured), encoding="utf-8")


def write_answers(run: Run, contest: Contest, measured: dict[str, Measured], judged: Judged) -> None:
    """answers.jsonl: every answer of every model with its score and its outcome, to be read by people."""
    lines = []
    for name, answers in answers_of(measured).items():
        rows = zip(contest.prompts, answers["texts"], answers["ended"], strict=True)
        for number, (prompt, text, ended) in enumerate(rows):
            row = {"model": name, "number": number, "prompt": prompt, "answer": text, "ended": ended}
            for key, values in (("score", judged.scores), ("outcome", judged.outcomes)):
                row |= {key: values[name][number]} if name in values else {}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    run.write_text(layout.ANSWERS, "".join(lines))
