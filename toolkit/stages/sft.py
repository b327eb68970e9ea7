"""Supervised fine-tuning on conversations with TRL's SFTTrainer; the loss covers answers and end-of-text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from trl import SFTConfig, SFTTrainer

from toolkit import stats
from toolkit.base import ranks
from toolkit.base.console import tell
from toolkit.base.progress import slowly
from toolkit.base.rng import derive
from toolkit.config.registry import STAGES
from toolkit.config.schema import SftRecipe
from toolkit.data.chat import answer_end, fitting, sources, template
from toolkit.data.chat.report import LengthReport, ReadingReport
from toolkit.data.chat.rows import RowTable, labelled
from toolkit.inference.illustrations import attempt
from toolkit.inference.logprobs import answer_logprobs
from toolkit.inference.sampling import generate
from toolkit.models import checks, stop_tokens
from toolkit.models.context_length import default_length
from toolkit.models.loading import load_causal_lm
from toolkit.models.saving import ModelWriter
from toolkit.models.stop_tokens import StopTokens, stop_at_all_ends
from toolkit.runs import layout
from toolkit.runs.evaluation import AnswerLoss, Sample, SftEvaluation
from toolkit.runs.run import Run
from toolkit.runtime.devices import select
from toolkit.stages.adapters import lora, merges, quantization, show_bias_of_head
from toolkit.stages.trainer_checks import require_supported
from toolkit.stages.trainer_runner import Measure, arguments, fit, max_length, probe_rows, quiet

MEASURED_WHILE_TRAINING = STAGES["sft"].held_out_while_training
"""Held-out conversations to measure during training; after it all of them are measured."""

SAMPLES = 5
"""Held-out prompts whose answers are kept in evaluation.json."""


@dataclass(frozen=True)
class HeldOutConversations:
    """Tokenized held-out conversations; `messages` are the prompts as text."""

    prompts: list[list[int]]
    answers: list[list[int]]
    messages: list[list[template.Message]]
    lengths: LengthReport

    def rows(self) -> list[list[int]]:
        """Return prompt and answer of each conversation."""
        return [[*prompt, *answer] for prompt, answer in zip(self.prompts, self.answers, strict=True)]


class CpuSFTTrainer(SFTTrainer):
    """TRL's trainer with the model's own loss: the same value without TRL's extra metrics.

    To save GPU memory TRL computes the logits in tiles, twice, and the entropy and rank of every position.
    On a CPU a step then takes 0.48 s instead of 0.35 s (16 conversations, 2.6 million parameters).
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.args.loss_type != "nll":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)


def run(recipe: SftRecipe, run: Run) -> None:
    """Fine-tune `recipe.model`; writes the model, metrics, and evaluation.json."""
    target = select(recipe.device)
    reference = run.model_reference(recipe.model)
    quantized = quantization(recipe, run, target)
    model, tokenizer = load_causal_lm(reference, device=target, quantization=quantized)
    new_tokens = make_conversational(model, tokenizer, chat_template=recipe.chat_template, seed=recipe.seed)
    stop_tokens.record(run, model, tokenizer)
    length = max_length(recipe, SFTConfig, model)
    require_supported(recipe, model, length=length)
    report = ReadingReport()
    table = conversation_rows(recipe, tokenizer, length, report=report)
    held_out = held_out_conversations(recipe, tokenizer, length, report=report)
    report.held_out_lengths = held_out.lengths
    report.print()
    config, rows = arguments(SFTConfig, recipe, run, table=table, length=length)
    writer = ModelWriter(
        model, tokenizer, reference=reference, rows=probe_rows(held_out.rows(), rows), merge=merges(recipe)
    )
    before = token_nats(model, held_out, shown_as=f"{run.name}: held-out answers") if run.is_main else []
    trainer = quiet(SFTTrainer if target.type == "cuda" else CpuSFTTrainer)(
        model=model, args=config, train_dataset=rows, processing_class=tokenizer,
        peft_config=lora(recipe, model, "CAUSAL_LM", learned_tokens=new_tokens),
    )  # fmt: skip
    show_bias_of_head(trainer.model)
    trained = fit(trainer, run, writer, measure=_measure(held_out))
    if trained is not None:
        after = token_nats(trained, held_out, shown_as=f"{run.name}: held-out answers")
        measured = held_out_loss(after, before, seed=recipe.seed)
        missing: dict[str, str] = {}
        samples = attempt(
            lambda: sample_answers(trained, tokenizer, held_out, seed=recipe.seed, run_name=run.name),
            keys=["samples"], run=run.name, missing=missing,
        )  # fmt: skip
        evaluation = SftEvaluation.combined(
            measured, examples=len(table), steps=config.max_steps, seed=recipe.seed, samples=samples,
            data=report.as_json(), not_measured=missing or None,
        )  # fmt: skip
        evaluation = replace(evaluation, nulls=evaluation.nulls | missing.keys())
        run.write_json(layout.EVALUATION, evaluation.to_json())


def make_conversational(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, chat_template: str, seed: int
) -> list[int]:
    """Add the chat template and its tokens to a base model's tokenizer, and an embedding for each token.

    Returns:
        The tokens that the model does not know: those of a template that it did not have. End-of-text of the
        base model is none of them.
    """
    known = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    before, own_template = len(tokenizer), tokenizer.chat_template
    template.configure(tokenizer, chat_template)
    answer_end.require_answers(tokenizer)
    new_tokens = set(range(before, len(tokenizer)))
    if tokenizer.chat_template != own_template:
        new_tokens |= answer_end.marker_ids(tokenizer)
    question = fitting.prompt_ids(tokenizer, [{"role": "user", "content": "Hi"}])
    needed = {answer_end.end_id(tokenizer), tokenizer.pad_token_id, *question}
    idle = checks.unreadable_tokens(model).keys() - needed  # images and the like
    if set(range(model.get_input_embeddings().num_embeddings, len(tokenizer))) - idle:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "rows of the chat tokens") % 2**63)
            model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    rows = model.get_input_embeddings().num_embeddings
    if rows > len(tokenizer):
        model.generation_config.suppress_tokens = [*sorted(idle), *range(len(tokenizer), rows)]
    stop_at_all_ends(model, tokenizer)
    return sorted(new_tokens - known - {tokenizer.pad_token_id})


def conversation_rows(
    recipe: SftRecipe,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    *,
    report: ReadingReport | None = None,
) -> RowTable:
    """Tokenize the training conversations: columns input_ids and labels.

    Args:
        report: receives the counts of rows.
    """
    loss_on = "tokens" if recipe.trainer.get("completion_only_loss") is False else recipe.multi_turn
    table, unmasked, lengths = RowTable(["input_ids", "labels"]), 0, LengthReport(length)
    refusal: template.RenderedDifferently | None = None
    examples = sources.conversations(
        recipe.data, part="train", seed=recipe.seed, report=report, tokenizers=[tokenizer]
    )
    for example in slowly(examples, "conversations as tokens", total=len(examples), unit="conversation"):
        messages, answer = example["prompt"], example["completion"][0]
        if loss_on == "tokens" and not all(message.get("learned", True) for message in [*messages, answer]):
            unmasked += 1  # the loss on all tokens would teach these answers
            continue
        try:
            row = labelled(tokenizer, messages, answer, max_length=length, loss_on=loss_on, lengths=lengths)
        except fitting.TooLong:
            lengths.add(left_out=True)
            continue
        except template.RenderedDifferently as error:
            lengths.add(rendered_differently=True)
            refusal = error
            continue
        table.append(row)
    if refusal is not None and not len(table):
        raise refusal
    if unmasked and ranks.rank() == 0:
        tell(
            f"{unmasked:,} conversations left out: an answer has weight 0, and completion_only_loss: false "
            "learns all tokens"
        )
    lengths.require_ends()
    if report is not None:
        report.lengths = lengths
    return table


def held_out_conversations(
    recipe: SftRecipe, tokenizer: PreTrainedTokenizerBase, length: int, *, report: ReadingReport
) -> HeldOutConversations:
    """Tokenize the held-out conversations.

    Args:
        report: of the training rows; receives the counts of the held-out rows.
    """
    held_out = HeldOutConversations([], [], [], LengthReport(length))
    rows = sources.measured_while_training(
        sources.conversations, recipe.data, seed=recipe.seed, tokenizer=tokenizer, report=report
    )
    for example in slowly(rows, "held-out conversations as tokens", total=len(rows), unit="conversation"):
        try:
            fitted = fitting.fitted_example(
                tokenizer, example["prompt"], example["completion"][0], max_tokens=length
            )
        except fitting.TooLong:
            held_out.lengths.add(left_out=True)
            continue
        except template.RenderedDifferently:
            held_out.lengths.add(rendered_differently=True)
            continue
        held_out.lengths.add(shortened=fitted.is_shortened, cut=fitted.is_cut)
        held_out.prompts.append(fitted.prompt)
        held_out.answers.append(fitted.answer)
        held_out.messages.append(example["prompt"])
    return held_out


def token_nats(
    model: PreTrainedModel, held_out: HeldOutConversations, *, shown_as: str | None = None
) -> list[np.ndarray]:
    """Return -log p in nats of each token of each answer, end-of-text included.

    Args:
        shown_as: as in `answer_logprobs`.
    """
    logprobs = answer_logprobs(model, held_out.prompts, held_out.answers, shown_as=shown_as)
    return [-values for values in logprobs]


def held_out_loss(after: Sequence[np.ndarray], before: Sequence[np.ndarray], *, seed: int) -> AnswerLoss:
    """Return the loss as the mean over tokens, with an interval by resampling answers."""
    if not after:
        return AnswerLoss(
            n=0, nulls=frozenset({"held_out_loss", "held_out_perplexity", "held_out_loss_before"})
        )
    lengths = [len(nats) for nats in after]
    loss = stats.ratio_bootstrap([nats.sum() for nats in after], lengths, seed=seed)
    return AnswerLoss(
        held_out_loss=loss,
        held_out_perplexity=loss.map(lambda nats: float(np.exp(nats))),
        held_out_loss_before=float(np.concatenate(before).mean()),
        n=len(after),
        held_out_tokens=sum(lengths),
    )


def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    held_out: HeldOutConversations,
    *,
    seed: int,
    run_name: str,
) -> list[Sample]:
    """Return answers at temperature 0.7 to the first held-out prompts."""
    context = default_length(model)
    found = fitting.prompts_that_fit(tokenizer, held_out.messages, max_tokens=context // 2, count=SAMPLES)
    if not found:
        return []
    prompts = [ids for _, ids in found]
    room = min(128, context - max(len(prompt) for prompt in prompts))
    answers = generate(
        model, prompts, seed=derive(seed, "samples"), end_id=StopTokens.of(model, tokenizer).ids,
        pad_id=tokenizer.pad_token_id, max_new_tokens=room, temperature=0.7,
        shown_as=f"{run_name}: samples",
    )  # fmt: skip
    return [
        Sample(
            prompt=messages[-1]["content"],
            answer=answer_end.decode_answer(tokenizer, answers.ids[i]),
            ended=answers.ended[i],
        )
        for i, (messages, _) in enumerate(found)
    ]


def _measure(held_out: HeldOutConversations) -> Measure | None:
    subset = replace(
        held_out,
        prompts=held_out.prompts[:MEASURED_WHILE_TRAINING],
        answers=held_out.answers[:MEASURED_WHILE_TRAINING],
    )
    if not subset.prompts:
        return None
    return lambda model: {"held_out_loss": float(np.concatenate(token_nats(model, subset)).mean())}
