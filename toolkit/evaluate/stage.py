"""The evaluate stage: every model measured in the same way, on text and prompts that no stage trained on."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from toolkit.base.console import tell, tell_once
from toolkit.base.errors import UsageError
from toolkit.config.judge_kinds import kind as judge_kind
from toolkit.config.schema import EvaluateRecipe, PerplexitySettings
from toolkit.data import files
from toolkit.data.chat import sources
from toolkit.data.chat.dates import TEMPLATE_DATE
from toolkit.data.data_sources import Part, as_sources, world_of
from toolkit.evaluate import context, judge_factory, judges, perplexity, trained_on, votes
from toolkit.evaluate.best_of import BestOf
from toolkit.evaluate.context import EvaluationContext
from toolkit.evaluate.judges import AnyJudge
from toolkit.evaluate.naming import models_by_name
from toolkit.evaluate.perplexity import HeldOutText, ScoringSettings
from toolkit.evaluate.session import NO_TEMPLATE, Measured, Session, answers_of
from toolkit.evaluate.win_rate import Contest, Judged
from toolkit.models.loading import DTYPES
from toolkit.models.tokenizer_loading import load_tokenizer
from toolkit.runs import checkpoint, layout
from toolkit.runs.evaluation import ModelComparison
from toolkit.runs.hub import Reference
from toolkit.runs.run import Run
from toolkit.runtime.devices import select

MEASURED = "measured.json"
TEMPLATE_FIX = "fine-tune it with the sft stage first, which adds one"


def run(recipe: EvaluateRecipe, run: Run) -> None:
    """Measure each model, then judge all answers together; writes evaluation.json and answers.jsonl.

    The measurements of each model are sealed as a checkpoint, so that a resumed run does not repeat them. One
    process does all the work.
    """
    if not run.is_main:
        return
    surroundings = context.of_run(run)
    surroundings = replace(surroundings, models=_models(recipe, surroundings))
    session = open_session(recipe, surroundings)
    judge = open_judge(recipe, surroundings, session.contest) if session.contest else None
    measured = load_measured(run)
    for step, name in enumerate(session.references, 1):
        if name in measured:
            continue
        measured[name] = session.measure(name)
        run.describe("stop_tokens", {**(run.decisions.stop_tokens or {}), **session.stop_tokens})
        if session.prints_date:
            run.describe("chat_template_date", TEMPLATE_DATE.isoformat())
        checkpoint.save(run, step, lambda folder: _write(folder, measured), keep=1)
    results = session.results(measured, judge)
    results = replace(
        surroundings.complete(results), settings=recipe.model_dump(mode="json", exclude={"stage", "run"})
    )
    for name, row in results.models.items():
        if row.lost_text is not None:
            tell(f"warning: {name}: {perplexity.lost_text_note(row)}")
    if session.judged is not None:
        write_answers(run, session.contest, measured, session.judged)
    run.metrics.truncate(0)
    content = results.to_json()
    for step, (name, row) in enumerate(content["models"].items(), 1):
        run.metrics.log(step, model=name, **{key: row[key] for key in SHOWN if key in row})
    run.write_json(layout.EVALUATION, content)


SHOWN = ("bits_per_byte", "perplexity", "score", "kl_to_baseline", "mean_length", "ended")
"""The numbers that metrics.jsonl has of each model."""


def evaluate(
    recipe: EvaluateRecipe, surroundings: EvaluationContext, *, part: Part | None = None
) -> ModelComparison:
    """Measure the models of a recipe without a run.

    Args:
        part: of the data; by default all rows, or those that no training of the models read.

    Raises:
        ToolkitError: a model, data or a judge that cannot be used.
    """
    recipe, surroundings = _with_parts(recipe, surroundings, part)
    session = open_session(recipe, surroundings)
    judge = open_judge(recipe, surroundings, session.contest) if session.contest else None
    results = session.results({name: session.measure(name) for name in session.references}, judge)
    return surroundings.complete(results)


def _with_parts(
    recipe: EvaluateRecipe, surroundings: EvaluationContext, part: Part | None
) -> tuple[EvaluateRecipe, EvaluationContext]:
    """Return the recipe whose sources hold out the rows to measure, by the trainings of the models."""
    settings, contest = recipe.perplexity, recipe.win_rate
    models, judging = (
        [surroundings.model_reference(model) for model in names] for names in (recipe.models, _judges(recipe))
    )
    answering = _models(recipe, surroundings)
    measured_part = None
    if settings and settings.tokens is not None and part not in (None, "held_out"):
        raise UsageError("has no effect on a corpus run, whose held-out part is measured", where="--part",
                         fix="name the file of its text")  # fmt: skip
    if settings and settings.data:
        measured_part = trained_on.select(settings.data[0], models, part=part, is_text=True)
        recipe = recipe.model_copy(
            update={"perplexity": settings.model_copy(update={"data": [measured_part.source]})}
        )
    if recipe.data:
        measured_part = trained_on.select(recipe.data[0], answering, part=part, is_text=False)
        recipe = recipe.model_copy(update={"data": [measured_part.source]})
    if contest and contest.judge_data:
        measured = trained_on.select(
            contest.judge_data[0], judging, part=None, is_text=False, keeps_field=False
        )
        if measured.trained_on:
            tell_once(
                f"{measured.trained_on[0]} was trained on {measured.source.name}: the judge's accuracy is "
                f"measured on the held-out rows"
            )
        judged = contest.model_copy(update={"judge_data": [measured.source]})
        recipe = recipe.model_copy(update={"win_rate": judged})
    return recipe, replace(surroundings, measured_part=measured_part, models=answering)


def _judges(recipe: EvaluateRecipe) -> list[str]:
    """Return the reward model that judges, if there is one."""
    contest = recipe.win_rate
    return [contest.judge] if contest and judge_kind(contest.judge) == "model" else []


def _models(recipe: EvaluateRecipe, surroundings: EvaluationContext) -> tuple[Reference, ...]:
    """Return the models and the reward models that read their answers."""
    names = [*recipe.models, *_reward_models(recipe)]
    return tuple(surroundings.model_reference(name) for name in names)


def open_session(recipe: EvaluateRecipe, surroundings: EvaluationContext) -> Session:
    """Find the models and read the data."""
    names = models_by_name(recipe.models)
    settings, contest = recipe.perplexity, recipe.win_rate
    not_scoring = {"tokens", "data", "baseline"}
    silent = _require_templates(recipe, surroundings) if contest else frozenset()
    if settings is None and not recipe.samples:
        names = {name: model for name, model in names.items() if name not in silent}
    return Session(
        references={name: surroundings.model_reference(model) for name, model in names.items()},
        silent=silent,
        device=select(recipe.device),
        seed=recipe.seed,
        baseline=next((name for name, model in names.items() if model == recipe.baseline), None),
        text=open_text(settings, surroundings, recipe.seed) if settings else None,
        scoring=ScoringSettings(**(settings.model_dump(exclude=not_scoring) if settings else {})),
        dtype=DTYPES[recipe.precision],
        contest=open_contest(recipe, surroundings) if contest else None,
        best_of=open_best_of(recipe, surroundings) if contest and contest.best_of else None,
        samples=[[sample] if isinstance(sample, str) else sample for sample in recipe.samples],
        answers=recipe.answers_per_sample,
    )


def open_text(settings: PerplexitySettings, surroundings: EvaluationContext, seed: int) -> HeldOutText:
    """Read the text of a corpus run or of a text source."""
    if settings.tokens is not None:
        return perplexity.from_corpus(surroundings.corpus(settings.tokens))
    return surroundings.read_text(settings.data, seed=seed)


def open_contest(recipe: EvaluateRecipe, surroundings: EvaluationContext) -> Contest:
    """Read the prompts; the contest also defines how they are answered."""
    settings, seed = recipe.win_rate, recipe.seed
    read = functools.partial(sources.prompts, tokenizers=_tokenizers(recipe, surroundings))
    prompts = surroundings.read_rows(read, recipe.data, unit="prompts", seed=seed)
    return Contest(
        prompts=[row["prompt"] for row in prompts for _ in range(settings.samples_per_prompt)],
        samples_per_prompt=settings.samples_per_prompt,
        seed=seed,
        world=world_of(recipe.data),
        max_prompt_tokens=settings.max_prompt_tokens,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        batch_examples=settings.batch_examples,
        bootstrap_samples=settings.bootstrap_samples,
    )


def _require_templates(recipe: EvaluateRecipe, surroundings: EvaluationContext) -> frozenset[str]:
    """Return the names of the models that cannot answer, because they have no chat template, and say so.

    Raises:
        UsageError: the baseline or a reward model that reads the answers has none, or no other model has one.
    """
    settings, names = recipe.win_rate, models_by_name(recipe.models)
    has_template = {
        model: bool(load_tokenizer(surroundings.model_reference(model)).chat_template)
        for model in [*names.values(), *_reward_models(recipe)]
    }
    needed = [("baseline", recipe.baseline), *(("judge", name) for name in _judges(recipe))]
    if settings.best_of is not None:
        needed.append(("best_of.reward_model", settings.best_of.reward_model))
    for key, model in needed:
        if not has_template[model]:
            raise UsageError(f"{model} {NO_TEMPLATE}", where=f"win_rate.{key}", fix=TEMPLATE_FIX)
    silent = [name for name, model in names.items() if not has_template[model]]
    if silent and len(silent) == len(names) - 1 and settings.best_of is None:
        raise UsageError(f"no model but the baseline can answer: {', '.join(silent)} {NO_TEMPLATE}",
                         where="models", fix=TEMPLATE_FIX)  # fmt: skip
    for name in silent:
        tell(f"{name} {NO_TEMPLATE}: it is left out of the win rate")
    return frozenset(silent)


def _reward_models(recipe: EvaluateRecipe) -> list[str]:
    """Return the reward model that judges and that of best of n, without those that are not used."""
    best_of = recipe.win_rate.best_of if recipe.win_rate else None
    return [*_judges(recipe), *([best_of.reward_model] if best_of else [])]


def _tokenizers(recipe: EvaluateRecipe, surroundings: EvaluationContext) -> list[PreTrainedTokenizerBase]:
    """Return the tokenizers that render the prompts: of the models, and of reward models that judge."""
    if all(source.name == files.STORYWORLD for source in as_sources(recipe.data)):
        return []  # no tools
    names = dict.fromkeys([*recipe.models, *_reward_models(recipe)])
    tokenizers = [load_tokenizer(surroundings.model_reference(name)) for name in names]
    return [tokenizer for tokenizer in tokenizers if tokenizer.chat_template]


def open_best_of(recipe: EvaluateRecipe, surroundings: EvaluationContext) -> BestOf:
    """Load the reward model that chooses among the baseline's answers."""
    settings = recipe.win_rate.best_of
    reference = surroundings.model_reference(settings.reward_model)
    chooser = judges.reward_judge(
        settings.reward_model,
        reference,
        device=select(recipe.device),
        dtype=DTYPES[recipe.precision],
        seed=recipe.seed,
    )
    return BestOf(tuple(settings.counts), settings.reward_model, chooser.score)


def open_judge(recipe: EvaluateRecipe, surroundings: EvaluationContext, contest: Contest) -> AnyJudge:
    """Open the judge that the recipe names."""
    settings = recipe.win_rate
    judge_settings = judge_factory.JudgeSettings(
        settings.judge,
        settings.judge_model,
        settings.judge_key_variable,
        settings.judge_data,
        "held_out",
        settings.stop_early,
    )
    if judge_kind(settings.judge) == "votes":
        votes.require_prompts(Path(settings.judge), contest.prompts)
    is_model = judge_kind(settings.judge) == "model"
    reference = surroundings.model_reference(settings.judge) if is_model else None
    is_local = reference is not None and Path(reference[0]).exists()
    if is_local and settings.judge_data:
        surroundings.compare_judge_data(settings.judge_data, reference, seed=recipe.seed)
    return judge_factory.open_judge(
        judge_settings,
        world=contest.world,
        seed=contest.seed,
        reference=reference,
        run_evaluation=judge_factory.read_run_evaluation(Path(reference[0])) if is_local else None,
        log_path=surroundings.judgements,
        device=select(recipe.device),
        dtype=DTYPES[recipe.precision],
        where=", ".join(source.name for source in as_sources(recipe.data)),
    )


def load_measured(run: Run) -> dict[str, Measured]:
    """Return the measurements of earlier attempts by model."""
    saved = checkpoint.latest(run)
    content = json.loads((saved[1] / MEASURED).read_text(encoding="utf-8")) if saved else {}
    return {name: Measured.from_json(values) for name, values in content.items()}


def _write(folder: Path, measured: dict[str, Measured]) -> None:
    content = {name: values.to_json() for name, values in measured.items()}
    (folder / MEASURED).write_text(json.dumps(content), encoding="utf-8")


def write_answers(run: Run, contest: Contest, measured: dict[str, Measured], judged: Judged) -> None:
    """answers.jsonl: every answer of every model with its score and its outcome, to be read by people."""
    lines = []
    for name, answers in answers_of(measured).items():
        rows = zip(contest.prompts, answers.texts, answers.ended, strict=True)
        for number, (prompt, text, ended) in enumerate(rows):
            row = {"model": name, "number": number, "prompt": prompt, "answer": text, "ended": ended}
            for key, values in (("score", judged.scores), ("outcome", judged.outcomes)):
                row |= {key: values[name][number]} if name in values else {}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    run.write_text(layout.ANSWERS, "".join(lines))
