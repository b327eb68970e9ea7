"""Perplexity is that of lm-evaluation-harness at stride = window: an independent implementation, offline."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.architectures import REPRESENTATIVES, build_architecture
from toolkit.evaluate import perplexity
from toolkit.evaluate.perplexity import HeldOutText, ScoringSettings

lm_eval = pytest.importorskip("lm_eval")

TASK = """\
task: toolkit_text
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: word_perplexity
    aggregation: weighted_perplexity
    higher_is_better: false
  - metric: byte_perplexity
    aggregation: weighted_perplexity
    higher_is_better: false
  - metric: bits_per_byte
    aggregation: bits_per_byte
    higher_is_better: false
"""
WINDOW = 48


@pytest.fixture(scope="module")
def texts(stories):
    """Shorter than a window, exactly one, several with a rest; odd characters, too."""
    return ["the fox", "きつね🦊 and  two spaces", *stories[:8], " ".join(stories[:5])]


@pytest.fixture
def theirs(texts, tmp_path, monkeypatch):
    """lm-eval's own evaluator on these texts: its metrics, and the log-likelihood of each document."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "toolkit_text.yaml").write_text(TASK.format(path=path))

    def evaluate(model, tokenizer, batch_size):
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
        judge = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=WINDOW)
        found = lm_eval.simple_evaluate(
            model=judge, tasks=["toolkit_text"], task_manager=manager, log_samples=True, bootstrap_iters=0
        )
        rows = sorted(found["samples"]["toolkit_text"], key=lambda row: row["doc_id"])
        metrics = found["results"]["toolkit_text"]
        return metrics, np.array([row["filtered_resps"][0] for row in rows])

    return evaluate


@pytest.mark.parametrize("name", ["gpt2", *REPRESENTATIVES])
def test_equal_to_lm_eval_at_stride_window(name, theirs, texts, tokenizer, model):
    scored = model if name == "gpt2" else build_architecture(name, tokenizer)
    metrics, loglikelihoods = theirs(scored, tokenizer, 3)
    text = HeldOutText("texts", texts=texts)
    settings = ScoringSettings(window=WINDOW, stride=WINDOW, score_end=False)
    measured = perplexity.measure(scored, tokenizer, text, settings=settings)
    assert max(measured.tokens) > 3 * WINDOW and any(count % WINDOW for count in measured.tokens)
    np.testing.assert_allclose(measured.nats, -loglikelihoods, rtol=1e-5)
    result = perplexity.summarize(measured, text, seed=0).to_json()
    for key in ("bits_per_byte", "byte_perplexity"):
        assert result[key] == pytest.approx(metrics[f"{key},none"], rel=1e-5), key
    # theirs counts one word more where a text begins or ends with white space: not these
    assert math.log(result["word_perplexity"]) == pytest.approx(
        math.log(metrics["word_perplexity,none"]), rel=1e-5
    )
