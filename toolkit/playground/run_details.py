"""What the Runs room shows of one run, from its files. A damaged file is a line, not an error."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from toolkit.base import files
from toolkit.base.errors import RunError, ToolkitError
from toolkit.config.registry import STAGES, Curve
from toolkit.report.wording import LANGUAGES, message, of_registry, say
from toolkit.runs import layout
from toolkit.runs.index import RunEntry
from toolkit.runs.live_metrics import Follower, is_number, thinned
from toolkit.runs.records import INTERVAL

T = TypeVar("T")
POINTS = 500
"""Points of a curve that are sent."""
MORE_CURVES = 40
MAX_ROWS = 500
"""Settings and numbers that are sent."""
MAX_SAMPLES = 24
NOT_NUMBERS = ("seed", "level", "samples", "bootstrap_samples", "versions", "settings", "data", "dtype")
"""Keys of evaluation.json that are no measurements."""
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Problems(list[str]):
    """Lines about files that cannot be read."""

    def tried(self, read: Callable[[], T], otherwise: T) -> T:
        """Return what `read` returns; where a file is damaged note it and return `otherwise`."""
        try:
            return read()
        except (ToolkitError, OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            first = str(error).partition("\n")[0]
            self.append(first or type(error).__name__)
            return otherwise


def settings(run: Path) -> dict[str, Any]:
    """Return the content of resolved.yaml, empty where there is none yet.

    Raises:
        RunError: it is not YAML, or holds no settings.
    """
    path = run / layout.RESOLVED
    if not path.exists():
        return {}
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a safe loader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"cannot be read: {str(error).splitlines()[0]}", where=layout.RESOLVED) from None
    if not isinstance(content, dict):
        raise RunError("has no settings", where=layout.RESOLVED)
    return content


def setting_rows(content: Mapping[str, Any]) -> list[list[str]]:
    """Return (key, value as in YAML) of every setting, nested keys joined by dots."""
    rows = [[key, _text(value)] for key, value in _leaves("", content)]
    return rows[:MAX_ROWS]


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(f"{prefix}[{number}]", item)
    else:
        yield prefix, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def evaluation(run: Path) -> dict[str, Any]:
    """Return evaluation.json, empty where there is none yet.

    Raises:
        RunError: it cannot be read.
    """
    path = run / layout.EVALUATION
    if not path.exists():
        return {}
    try:
        content = files.read_json(path)
    except RunError as error:
        raise RunError(error.what, where=layout.EVALUATION) from None
    if not isinstance(content, dict):
        raise RunError("is no object", where=layout.EVALUATION)
    return content


def number_rows(content: Mapping[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    """Return the measured numbers of evaluation.json: `key`, `value`, and `low`, `high` of its interval.

    Keys of objects are joined by dots; an object with an `estimate` is one number. Lists are left out, and
    what is no measurement: seeds, settings, numbers of resamples.
    """
    rows: list[dict[str, Any]] = []
    for key, value in content.items():
        if key.endswith(INTERVAL) or key in NOT_NUMBERS:
            continue
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            if is_number(value.get("estimate")):
                rows.append(_row(name, value["estimate"], [value.get("low"), value.get("high")]))
            else:
                rows += number_rows(value, name)
        elif is_number(value):
            rows.append(_row(name, value, content.get(key + INTERVAL)))
    return rows[:MAX_ROWS]


def _row(key: str, value: float, interval: Any) -> dict[str, Any]:
    ends = interval if isinstance(interval, list) and len(interval) == 2 else [None, None]
    low, high = (end if is_number(end) else None for end in ends)
    return {"key": key, "value": value, "low": low, "high": high}


def samples(run: Path, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the run wrote: `prompt`, `answer`, and `model` where several answered.

    Of an evaluate run the first answers of answers.jsonl, of others the samples of evaluation.json.
    """
    path = run / layout.ANSWERS
    if path.is_file():
        return _first_answers(path)
    return sample_rows(content.get("samples"))


def sample_rows(found: Any) -> list[dict[str, Any]]:
    """Return samples of evaluation.json or of metrics.jsonl as the page shows them."""
    rows = found if isinstance(found, list) else []
    return [
        {
            "prompt": str(row.get("prompt", "")),
            "answer": str(row.get("answer", row.get("text", ""))),
            "ended": row.get("ended"),
            "score": row.get("score") if is_number(row.get("score")) else None,
        }
        for row in rows[:MAX_SAMPLES]
        if isinstance(row, dict)
    ]


def _first_answers(path: Path) -> list[dict[str, Any]]:
    """Return the answers of every model to the first prompts, prompt by prompt."""
    by_prompt: dict[int, list[dict[str, Any]]] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["number"] < MAX_SAMPLES // 4:
                prompt = row["prompt"]
                text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
                [shown] = sample_rows([{**row, "prompt": text}])
                by_prompt.setdefault(row["number"], []).append({**shown, "model": row["model"]})
    return [row for number in sorted(by_prompt) for row in by_prompt[number]][:MAX_SAMPLES]


def curves(
    stage: str, follower: Follower, numbers: Mapping[str, Any], *, language: str, everything: bool
) -> list[dict[str, Any]]:
    """Return the curves of a stage that have points, at most `POINTS` of each.

    Args:
        numbers: of evaluation.json, for the levels.
        everything: also the metrics that the report does not draw.
    """
    wording = LANGUAGES[language]
    record = STAGES.get(stage)
    known = list(record.curves) if record else []
    found = []
    for curve in known:
        levels = [
            {"name": say(of_registry(text), wording), "value": numbers[key]}
            for key, text in curve.levels.items()
            if is_number(numbers.get(key))
        ]
        found.append(_curve(curve, follower, say(of_registry(curve.title), wording), levels))
    if everything:
        drawn = {curve.metric for curve in known} | {"tokens", "seconds", "time"}
        names = [name for name in follower.names if name not in drawn][:MORE_CURVES]
        found += [_curve(Curve(name, name, is_detail=True), follower, name, []) for name in names]
    for one in found:
        one["axis"] = say(message(f"axis.{one['over']}"), wording)
    return [one for one in found if one["points"]]


def _curve(curve: Curve, follower: Follower, title: str, levels: list[dict[str, Any]]) -> dict[str, Any]:
    over = curve.over if curve.over in ("step", "tokens", "time") else "step"
    x, y = follower.series(curve.metric, over)
    kept = thinned(y, POINTS)
    return {
        "metric": curve.metric, "title": title, "over": over, "percent": curve.percent,
        "from_zero": curve.from_zero, "detail": curve.is_detail, "levels": levels, "count": len(y),
        "not_finite": follower.not_finite(curve.metric),
        "points": [[float(x[index]), float(y[index])] for index in kept],
    }  # fmt: skip


def progress(entry: RunEntry, follower: Follower, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far a run is: `step`, `steps`, `seconds`, `left_seconds` and `running`; null if unknown."""
    step, steps, pace = follower.last.get("step"), total_steps(content), follower.seconds_per_step()
    unfinished = entry.state != "sealed"
    left = None
    if unfinished and None not in (step, steps, pace):
        left = max(0.0, (steps - step) * pace)  # type: ignore[operator]
    return {
        "state": entry.state, "running": unfinished and is_running(entry.path), "step": step, "steps": steps,
        "seconds": follower.last.get("time", entry.seconds), "left_seconds": left,
        "changed": entry.changed.isoformat(timespec="seconds"),
    }  # fmt: skip


def total_steps(content: Mapping[str, Any]) -> int | None:
    """Return how many steps a training has according to resolved.yaml, None if it does not say."""
    trainer, stage = content.get("trainer") or {}, content.get("stage")
    try:
        if stage == "pretrain":
            return int(content["train_tokens"]) // int(content["batch_tokens"])
        if stage == "ppo":
            rollouts = int(trainer["episodes"]) // int(trainer["rollout_examples"])
            return rollouts * int(trainer["epochs"]) * int(trainer["minibatches"])
        steps = int(trainer["max_steps"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return steps if steps > 0 else None


def is_running(run: Path) -> bool:
    """Return whether a process of this machine holds the run, as its lock file notes; takes no lock."""
    try:
        note = files.read_json(run / layout.IN_USE)
        if note["host"] != socket.gethostname():
            return False
        os.kill(int(note["pid"]), 0)
    except PermissionError:  # it is another user's
        return True
    except (RunError, OSError, KeyError, TypeError, ValueError):
        return False
    return True
