"""The best of several answers, chosen by a reward model that is there to be asked again."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from toolkit.cli import main
from toolkit.data.chat import answer_end
from toolkit.evaluate import best_of
from toolkit.evaluate.win_rate import Contest, answer
from toolkit.inference.reward_scores import reward_scores
from toolkit.models.loading import load_causal_lm, load_reward_model
from toolkit.stats.frontier import best_of_n_kl_bound
from toolkit.storyworld import LARGE

PROMPTS = [row["prompt"] for row in LARGE.rows("prompts", 0, "held_out", 12)]


@pytest.fixture
def chosen(folders, scorer):
    loaded, judge = load_causal_lm((str(folders / "first"), None)), load_reward_model((str(scorer), None))

    def score(prompts, answers, ended):
        return reward_scores(*judge, prompts, answers=answers, ended=ended)

    contest = Contest(PROMPTS, seed=5, max_new_tokens=16)
    calls = []
    found = best_of.answer(loaded, contest, best_of.BestOf((2, 5), "scorer", score), progress=calls.append)
    return found, score, answer(loaded, contest), calls


def test_the_best_of_more_is_at_least_as_good_and_never_the_competing_answer(chosen):
    found, score, competing, calls = chosen
    two, five = (score(PROMPTS, found[name].texts, found[name].ended) for name in ("best of 2", "best of 5"))
    assert (five >= two - 1e-6).all() and five.mean() > two.mean()
    alone = score(PROMPTS, competing.texts, competing.ended)
    assert five.mean() > alone.mean()
    same = [mine == other for mine, other in zip(found["best of 5"].ids, competing.ids, strict=True)]
    assert sum(same) <= 2
    assert calls[-1] == 12 * 5 and calls == sorted(calls)


def test_text_ids_and_end_belong_together(chosen, tokenizer):
    found, _, _, _ = chosen
    one = found["best of 5"]
    for ids, text, ended in zip(one.ids, one.texts, one.ended, strict=True):
        assert answer_end.decode_answer(tokenizer, ids) == text
        assert len(ids) == 16 or ended


def test_the_bound_of_kl():
    assert best_of_n_kl_bound(1) == 0
    assert best_of_n_kl_bound(4) == pytest.approx(math.log(4) - 0.75)
    # exact for one uniform variable: the density of the best of n is n u^(n-1)
    u = (np.arange(1_000_000) + 0.5) / 1_000_000
    assert best_of_n_kl_bound(4) == pytest.approx(np.mean(4 * u**3 * np.log(4 * u**3)), abs=1e-5)


def test_on_the_command_line_they_are_models_of_their_own(folders, scorer, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    options = [
        "evaluate", str(folders / "second"), "--data", "storyworld", "--config", "prompts", "--baseline",
        str(folders / "first"), "--examples", "6", "--max-new-tokens", "12", "--best-of", str(scorer),
    ]  # fmt: skip
    assert main.main([*options, "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert list(models) == ["first", "second", "best of 2", "best of 4"]
    assert models["best of 4"]["kl_to_baseline_at_most"] == pytest.approx(best_of_n_kl_bound(4))
    assert models["best of 4"]["win_rate"]["n"] == 6 and "kl_to_baseline" not in models["best of 4"]
    assert main.main(options) == 0
    assert "<=0.64" in capsys.readouterr().err
    both = [value for value in options if value not in ("--config", "prompts")]
    assert main.main([*both, "--max-new-tokens", "4"]) == 0  # best of n has no perplexity
    assert "by word" in capsys.readouterr().err
    alone = ["evaluate", str(folders / "second"), "--data", "storyworld", "--best-of", str(scorer)]
    assert main.main(alone) == 2 and "only on prompts, with --baseline" in capsys.readouterr().err
