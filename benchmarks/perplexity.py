"""Speed of perplexity compared with lm-evaluation-harness, for the same model, text, machine and result.

    python benchmarks/perplexity.py [--data FILE.txt] [--sizes small gpt2] [--threads N] [--rounds N]

The arms score the same documents in alternation for several rounds. The time covers everything from the
loaded model and the text to the sum of nats, including tokenization. lm-eval runs without its evaluator,
one document at a time (its default) and in batches. "only the products" computes only the matrix products
of the model, a lower bound for every arm. The weights are random, which does not affect the time. With one
thread the times are CPU times, which are less sensitive to other load.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from toolkit.config.schema import ModelSettings
from toolkit.evaluate import perplexity
from toolkit.evaluate.perplexity import HeldOutText, ScoringSettings
from toolkit.models import gpt2
from toolkit.runs import provenance
from toolkit.runtime import hardware
from toolkit.stages.tokenizer import learn
from toolkit.storyworld import LARGE

SIZES = {
    "small": (ModelSettings(n_layer=4, n_head=3, n_embd=192, n_positions=256), 1024),
    "gpt2": (ModelSettings(n_layer=12, n_head=12, n_embd=768, n_positions=1024), 50257),
}
"""Settings, and rows of the vocabulary: 2 million parameters, and GPT-2 of 124 million."""
BATCHES = (1, 16)
PRODUCTS = "only the products"


def texts_of(data: Path | None, *, documents: int, characters: int) -> dict[str, list[str]]:
    """Return the texts by name: documents, their sentences as documents, and one long text."""
    stories = [row["text"] for row in LARGE.rows("stories", 0, "held_out", documents)]
    sentences = [item for story in stories for item in re.split(r"(?<=[.!?])\s+", story)]
    long = data.read_text(encoding="utf-8") if data else "\n\n".join(stories)
    parts = {
        "documents": stories,
        "sentences": sentences[: 5 * documents],
        "one long text": [long[-characters:]],
    }
    return {f"{len(part)} {name}" if len(part) > 1 else name: part for name, part in parts.items()}


def arms_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> dict[str, Callable[[], float]]:
    """Return, by name of the arm, the functions that compute the sum of nats."""
    window = model.config.max_position_embeddings
    settings = ScoringSettings(window=window, stride=window, score_end=False)
    text = HeldOutText("benchmark", texts=texts)

    def ours() -> float:
        return sum(perplexity.measure(model, tokenizer, text, settings=settings).nats)

    def theirs(batch: int) -> Callable[[], float]:
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)
        requests = [Instance("loglikelihood_rolling", {}, (item,), index) for index, item in enumerate(texts)]
        return lambda: -sum(harness.loglikelihood_rolling(requests, disable_tqdm=True))

    lm_eval = {f"lm-eval, batches of {batch}": theirs(batch) for batch in BATCHES}
    return {"ours": ours, **lm_eval, PRODUCTS: products(model, sum(map(len, text.ids(tokenizer))))}


def products(model: PreTrainedModel, tokens: int) -> Callable[[], float]:
    """Multiply this number of tokens, 2048 at once, with every matrix of the model, without attention."""
    matrices = [item.weight for item in model.modules() if isinstance(item, Conv1D)]
    matrices.append(model.get_output_embeddings().weight.T)
    factors = {len(item): torch.randn(2048, len(item)) for item in matrices}

    @torch.no_grad()
    def multiply() -> float:
        for start in range(0, tokens, 2048):
            for matrix in matrices:
                factors[len(matrix)][: tokens - start] @ matrix
        return math.nan

    return multiply


def measure(
    arms: dict[str, Callable[[], float]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return seconds per round and the sum of nats by arm, alternating, after a warm-up round."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    nats: dict[str, float] = {}
    for number in range(rounds + 1):
        for name, arm in arms.items():
            start = clock()
            nats[name] = arm()
            if number:
                seconds[name].append(clock() - start)
    return seconds, nats


def report(
    title: str, tokens: int, seconds: dict[str, list[float]], nats: dict[str, float]
) -> dict[str, object]:
    """Print one table; the speedup is the median of the ratios within a round."""
    print(f"\n{title}, {tokens:,} tokens\n")
    print("| arm | seconds | tokens/s | speedup of ours (range) | nats per token |\n|---|---|---|---|---|")
    rows = {}
    for name, times in seconds.items():
        median = statistics.median(times)
        ratios = np.array(times) / np.array(seconds["ours"])
        ratio = "1" if name == "ours" else f"{np.median(ratios):.2f}x ({ratios.min():.2f}-{ratios.max():.2f})"
        nats_per_token = "-" if math.isnan(nats[name]) else f"{nats[name] / tokens:.7f}"
        print(f"| {name} | {median:.2f} | {tokens / median:,.0f} | {ratio} | {nats_per_token} |")
        rows[name] = {"seconds": times, "nats": nats[name], "ratio": float(np.median(ratios))}
    worst = max(abs(value / nats["ours"] - 1) for value in nats.values() if not math.isnan(value))
    print(f"\nlargest relative difference of the sums: {worst:.1e}", flush=True)
    if worst > 1e-5:
        sys.exit("the arms do not measure the same")
    return {"title": title, "tokens": tokens, "arms": rows, "difference": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="the long text; default: storyworld stories"
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--characters", type=int, default=60_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    print(
        f"{hardware.processor()['name']}, {args.threads} thread(s), {args.rounds} rounds, "
        f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"
    )
    results = []
    for size in args.sizes:
        settings, rows = SIZES[size]
        texts = texts_of(args.data, documents=args.documents, characters=args.characters)
        tokenizer = learn([text for part in texts.values() for text in part], vocab_size=min(rows, 1024))
        ids = {"end_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
        model = gpt2.build(settings, vocab_size=rows, seed=0, **ids).eval()
        for name, part in texts.items():
            seconds, nats = measure(arms_of(model, tokenizer, part), args.rounds)
            tokens = sum(len(item) for item in HeldOutText(name, texts=part).ids(tokenizer))
            results.append(report(f"{size}: {name}", tokens, seconds, nats))
    if args.json:
        args.json.write_text(
            json.dumps({"threads": args.threads, "versions": provenance.versions(), "found": results})
        )


if __name__ == "__main__":
    main()
