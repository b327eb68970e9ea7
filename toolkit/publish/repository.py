"""A finished run as a model repository with a card, on disk or on the Hub."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from jinja2 import Environment, PackageLoader, StrictUndefined

from toolkit.base.errors import RunError, ToolkitError, UsageError
from toolkit.base.files import atomic_folder
from toolkit.config.registry import STAGES, Product
from toolkit.evaluate.naming import display_names, name_in_evaluation
from toolkit.runs import layout, seal
from toolkit.runtime.network import NETWORK_ERRORS
from toolkit.stats import interval_of

CARD = Environment(
    loader=PackageLoader("toolkit.publish", "."),
    autoescape=False,
    undefined=StrictUndefined,
    trim_blocks=True,
)
REPO_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]{0,95}")
PROVENANCE = "provenance"
HEADLINES = {
    "bits_per_byte": "bits per byte, held out",
    "untrained_bits_per_byte": "bits per byte, untrained",
    "checkpoint_bits_per_byte": "bits per byte of the checkpoint, held out",
    "entropy_floor_bits_per_byte": "exact entropy floor, bits per byte",
    "perplexity": "perplexity per token, held out",
    "held_out_loss": "loss on held-out answers, nats per token",
    "held_out_perplexity": "perplexity on held-out answers",
    "accuracy": "accuracy on held-out preferences",
    "bayes_accuracy": "Bayes accuracy of the annotator",
    "score": "mean score of the reward model, last rollouts",
    "kl": "KL to the start, nats per answer",
}


def write_repository(run: Path, repo_id: str, folder: Path) -> None:
    """Write the repository of a sealed run into a new folder.

    Raises:
        UsageError: a repo id that the Hub would refuse, or a folder that is not empty.
        RunError: a run that is not finished, was changed since, or has no model.
    """
    if not REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id:
        raise UsageError("is not a name of a repository", where=repo_id, fix="write it as user/name")
    _check_run(run)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("the output folder is not empty", where=str(folder), fix="name a new --output DIR")
    if folder.exists():
        folder.rmdir()
    with atomic_folder(folder) as staging:
        build(run, repo_id, staging)


def publish(run: Path, repo_id: str, *, private: bool = False) -> str:
    """Upload the repository of a sealed run to the Hub; returns its URL.

    Raises:
        ToolkitError: as `write_repository`; also a Hub that cannot be reached or refuses.
    """
    folder = default_folder(run)
    write_repository(run, repo_id, folder)
    try:
        _upload(folder, repo_id, private=private)
    finally:
        shutil.rmtree(folder)
    return f"https://huggingface.co/{repo_id}"


def default_folder(run: Path) -> Path:
    """Return the folder next to the run in which its repository is written."""
    return run.parent / f"{run.name}-publish"


def _check_run(path: Path) -> None:
    if not seal.is_sealed(path):
        raise RunError("this run is not finished", where=str(path), fix="run its recipe to the end first")
    problems = seal.verify(path)
    if problems:
        raise RunError(
            f"the run changed since it was sealed: {problems[0]}",
            where=str(path),
            fix="run the recipe again with --fresh",
        )
    if not (path / layout.MODEL).is_dir():
        raise RunError("this run holds no model", where=str(path), fix="publish a run that trains one")


def build(run: Path, repo_id: str, folder: Path) -> None:
    """Fill `folder` with the model, its card, its evaluation and its provenance."""
    shutil.copytree(run / layout.MODEL, folder, dirs_exist_ok=True)
    (folder / PROVENANCE).mkdir()  # separate, because a folder with a manifest would be taken for a run
    for name in (layout.EVALUATION, layout.MANIFEST, layout.LOCK, layout.RECIPE, layout.RESOLVED):
        if (run / name).exists():
            shutil.copyfile(run / name, folder / PROVENANCE / name)
    (folder / "README.md").write_text(model_card(run, repo_id), encoding="utf-8")


def model_card(run: Path, repo_id: str) -> str:
    """Return the model card: what it is, its numbers with intervals, how it was made, how to use it."""
    manifest = json.loads((run / layout.MANIFEST).read_text(encoding="utf-8"))
    evaluation_path = run / layout.EVALUATION
    numbers = json.loads(evaluation_path.read_text(encoding="utf-8")) if evaluation_path.exists() else {}
    chain = _chain(run)
    stage = STAGES[manifest["stage"]]
    classifier = stage.product == Product.REWARD_MODEL
    config_path = run / layout.MODEL / "config.json"
    config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.is_file() else {}
    return CARD.get_template("model_card.md.j2").render(
        repo_id=repo_id,
        name=repo_id.split("/")[-1],
        stage=manifest["stage"],
        architecture=next(iter(config.get("architectures", [])), None),
        pipeline_tag="text-classification" if classifier else "text-generation",
        numbers=[
            _number(label, key, numbers) for key, label in HEADLINES.items() if _is_number(numbers, key)
        ],
        measured=[_win_rate(run, sibling) for sibling in _evaluations(run)],
        recipe=(run / layout.RECIPE).read_text(encoding="utf-8").strip(),
        parents=chain,
        packages=manifest["versions"],
        seal=seal.digest(run),
        chat=stage.has_conversations,
        classifier=classifier,
    )


def _is_number(numbers: dict, key: str) -> bool:
    return isinstance(numbers.get(key), (int, float))


def _number(label: str, key: str, numbers: dict) -> dict:
    bounds = interval_of(numbers, key)
    interval = f"[{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else ""
    return {"label": label, "value": f"{numbers[key]:.4f}", "interval": interval}


def _evaluations(run: Path) -> list[Path]:
    """Return the sealed evaluate runs next to `run` that measured it."""
    evaluations = []
    for sibling in sorted(run.resolve().parent.iterdir()):
        if seal.is_sealed(sibling) and (sibling / layout.EVALUATION).exists():
            measured = json.loads((sibling / layout.EVALUATION).read_text(encoding="utf-8"))
            name = name_in_evaluation(run, sibling)
            if name is not None and measured["models"][name].get("win_rate"):
                evaluations.append(sibling)
    return evaluations


def _win_rate(run: Path, evaluation: Path) -> dict:
    measured = json.loads((evaluation / layout.EVALUATION).read_text(encoding="utf-8"))
    rate = measured["models"][name_in_evaluation(run, evaluation)]["win_rate"]
    baseline = next(
        (name for name, row in measured["models"].items() if row.get("is_baseline")), "its baseline"
    )
    return {
        "baseline": baseline,
        "judge": (measured.get("judge") or {}).get("name", "unknown"),
        "estimate": f"{rate['estimate']:.1%}",
        "interval": f"[{rate['low']:.1%}, {rate['high']:.1%}]",
        "n": rate["n"],
        "verdict": rate.get("verdict", ""),
    }


def _chain(run: Path) -> list[dict]:
    """Return the run and all it was made from, each with name, stage and seal."""
    links = seal.chain(run)
    names = display_names([str(link.path) for link in links])
    return [
        {"name": names[str(link.path)], "stage": link.stage, "seal": seal.digest(link.path)[:16]}
        for link in links
    ]


def _upload(folder: Path, repo_id: str, *, private: bool) -> None:
    """Send the folder to the Hub in one commit.

    Raises:
        ToolkitError: no network, no token, or a refusal, in the Hub's own words.
    """
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=str(folder), commit_message="Publish a sealed run")
    except LocalTokenNotFoundError:
        raise ToolkitError("you are not logged in to the Hub", where=repo_id, fix="hf auth login") from None
    except HfHubHTTPError as error:
        raise ToolkitError(
            f"the Hub refused: {error}", where=repo_id, fix="check the name and your token: hf auth whoami"
        ) from None
    except (OfflineModeIsEnabled, OSError, *NETWORK_ERRORS) as error:
        raise ToolkitError(
            f"the Hub cannot be reached: {error}",
            where=repo_id,
            fix="check the network, or use --dry-run --output DIR",
        ) from None
