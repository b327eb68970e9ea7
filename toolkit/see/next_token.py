"""`toolkit next`: what a model expects next, as numbers and bars."""

from __future__ import annotations

import json as json_format
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolkit.recipe.errors import UsageError
from toolkit.runs.streams import derive
from toolkit.sampling import forbidden_bias
from toolkit.see.opening import OpenModel, open_model
from toolkit.see.text import token_text, visible

BAR_CELLS = 24
EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Prediction:
    """The distribution of one next token.

    Attributes:
        tokens, probabilities: the most probable ones, in that order.
        entropy_bits: of the whole distribution; 2 ** entropy equally likely tokens would be as uncertain.
        rest: probability of all tokens that are not listed.
        chosen, rank, chance: the token that was followed, its place (1 is the most probable) and probability.
    """

    tokens: list[int]
    probabilities: list[float]
    entropy_bits: float
    rest: float
    chosen: int
    rank: int
    chance: float


def next_command(
    model: str,
    text: str,
    *,
    top: int = 10,
    steps: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = False,
    json: bool = False,
) -> int:
    """Print the next-token distribution of `text`, and of `steps` tokens on.

    The most probable token is followed, or with a temperature one drawn from the softened distribution;
    the table always shows the model's own distribution (temperature 1).
    """
    if top < 1 or steps < 1 or temperature < 0:
        raise UsageError("--top and --steps must be at least 1, --temperature at least 0")
    opened = open_model(model)
    ids = opened.prompt_ids(text, chat=chat)
    predictions = follow(opened, ids, top=top, steps=steps, temperature=temperature, seed=seed)
    if json:
        print(
            json_format.dumps(
                as_json(opened, predictions, {"model": model, "text": text, "seed": seed}), ensure_ascii=False
            )
        )
        return 0
    console = Console(highlight=False)
    grown = text
    for prediction in predictions:
        console.print(table(opened, prediction, grown))
        if steps > 1:
            console.print(step_line(opened, prediction))
        grown += token_text(opened.tokenizer, prediction.chosen)
    if steps > 1:
        bits = -sum(math.log2(prediction.chance) for prediction in predictions)
        ids += [prediction.chosen for prediction in predictions]
        words = opened.tokenizer.decode(ids[-len(predictions) :])
        console.print(
            Text.assemble(text, (words, "bold"), f"\n{bits:.2f} bits together: 1 in {2**bits:,.0f}")
        )
    return 0


def follow(
    opened: OpenModel, ids: list[int], *, top: int, steps: int, temperature: float, seed: int
) -> list[Prediction]:
    """Predict, choose, append, and predict again; stops after end-of-text or a full context window."""
    generator, ids, predictions = np.random.default_rng(derive(seed, "next")), list(ids), []
    choice = {"top": top, "temperature": temperature, "generator": generator, "allowed": allowed(opened)}
    for _ in range(steps):
        if opened.positions is not None and len(ids) > opened.positions:
            ids = ids[-opened.positions :]
        probabilities = distribution(opened, ids)
        predictions.append(choose(probabilities, **choice))
        ids.append(predictions[-1].chosen)
        if ids[-1] == opened.end_id:
            break
    return predictions


def allowed(opened: OpenModel) -> np.ndarray:
    """Which tokens can be sampled, (vocabulary,) bool: not the padding."""
    bias = forbidden_bias(opened.model, pad_id=opened.tokenizer.pad_token_id, end_id=opened.end_id)
    return (bias == 0).cpu().numpy()


@torch.no_grad()
def distribution(opened: OpenModel, ids: list[int]) -> np.ndarray:
    """Probabilities of the next token, (vocabulary,) float64, as in scoring: what padding takes is lost."""
    model = opened.model
    logits = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
    return torch.softmax(logits.float().double().cpu(), dim=0).numpy()


def choose(
    probabilities: np.ndarray,
    *,
    top: int,
    temperature: float,
    generator: np.random.Generator,
    allowed: np.ndarray | None = None,
) -> Prediction:
    """Sum up a distribution and choose one token of it.

    Args:
        allowed: tokens that may be listed and chosen, (vocabulary,) bool; None allows all.
    """
    possible = probabilities if allowed is None else np.where(allowed, probabilities, 0.0)
    order = np.argsort(-possible, kind="stable")
    listed = order[:top][possible[order[:top]] > 0]  # what can never come is no candidate
    positive = probabilities[probabilities > 0]
    if temperature == 0:
        chosen = int(order[0])
    else:
        logits = np.log(np.maximum(possible, 1e-300)) / temperature
        weights = np.where(possible > 0, np.exp(logits - logits.max()), 0.0)
        chosen = int(generator.choice(len(weights), p=weights / weights.sum()))
    return Prediction(
        tokens=listed.tolist(),
        probabilities=probabilities[listed].tolist(),
        entropy_bits=float(-(positive * np.log2(positive)).sum()),
        rest=max(0.0, 1.0 - float(probabilities[listed].sum())),
        chosen=chosen,
        rank=int(np.flatnonzero(order == chosen)[0]) + 1,
        chance=float(probabilities[chosen]),
    )


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """A bar of `share` of the cells, to an eighth of a cell; what is not zero shows at least an eighth."""
    eighths = round(share * cells * 8)
    eighths = max(eighths, 1) if share > 0 else 0
    full, part = divmod(eighths, 8)
    return "█" * full + (EIGHTHS[part] if part else "")


def table(opened: OpenModel, prediction: Prediction, text: str) -> Table:
    """The candidates, one a row, and what all others have together."""
    shown = visible(text)
    shown = "…" + shown[-50:] if len(shown) > 51 else shown
    result = Table(
        title=Text(f"what follows {shown!r}?" if text else "how does a text begin?"),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name, justify in (("rank", "right"), ("token", "left"), ("chance", "right"), ("", "left")):
        result.add_column(name, justify=justify, no_wrap=True)
    for rank, (token, share) in enumerate(zip(prediction.tokens, prediction.probabilities, strict=True), 1):
        style = "bold" if token == prediction.chosen else ""
        word = Text(visible(token_text(opened.tokenizer, token)), style=style)
        result.add_row(str(rank), word, f"{share:.2%}", Text(bar(share), style="cyan"))
    others = len(opened.tokenizer) - len(prediction.tokens)
    result.add_row(
        "",
        Text(f"{others:,} others", style="dim"),
        f"{prediction.rest:.2%}",
        Text(bar(prediction.rest), style="dim"),
    )
    entropy = prediction.entropy_bits
    result.caption = f"entropy {entropy:.2f} bits: as uncertain as {2**entropy:.1f} equally likely tokens"
    result.caption_justify = "left"
    return result


def step_line(opened: OpenModel, prediction: Prediction) -> Text:
    """Which token was followed, its chance and its rank."""
    word = visible(token_text(opened.tokenizer, prediction.chosen))
    bits = -math.log2(prediction.chance)
    return Text.assemble(
        "→ ",
        (word, "bold"),
        f"  rank {prediction.rank}, chance {prediction.chance:.2%}, surprise {bits:.2f} bits\n",
    )


def as_json(opened: OpenModel, predictions: list[Prediction], about: dict[str, Any]) -> dict[str, Any]:
    """The first prediction at the top, and every step under `steps`."""
    steps = []
    for prediction in predictions:
        candidates = [
            {"rank": rank, "id": token, "token": token_text(opened.tokenizer, token), "probability": share}
            for rank, (token, share) in enumerate(
                zip(prediction.tokens, prediction.probabilities, strict=True), 1
            )
        ]
        steps.append(
            {
                "candidates": candidates,
                "entropy_bits": prediction.entropy_bits,
                "rest": prediction.rest,
                "chosen": {
                    "id": prediction.chosen,
                    "token": token_text(opened.tokenizer, prediction.chosen),
                    "rank": prediction.rank,
                    "probability": prediction.chance,
                },
            }
        )
    return {**about, **steps[0], "steps": steps}
