"""The model card of a run; every sentence follows from the records of the runs that made the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from safetensors import safe_open

from toolkit.base import files
from toolkit.config import inputs
from toolkit.config.registry import STAGES, Product, PublishedNumber
from toolkit.config.schema import DataSource
from toolkit.data.chat import answer_end
from toolkit.evaluate.naming import display_names, name_in_evaluation
from toolkit.models.tokenizer_loading import load_tokenizer
from toolkit.runs import layout, manifest, seal
from toolkit.runs.manifest import Manifest
from toolkit.stats import interval_of

CARD = Environment(
    loader=PackageLoader("toolkit.publish", "."),
    autoescape=False,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
"""Names of dtypes in safetensors -> in torch."""
STORYWORLD_LANGUAGE = "en"


@dataclass(frozen=True)
class MadeRun:
    """A run of the chain: its manifest, and its evaluation.json (empty without one)."""

    path: Path
    name: str
    manifest: Manifest
    numbers: Mapping[str, Any]

    @classmethod
    def at(cls, path: Path, name: str) -> MadeRun:
        evaluation = path / layout.EVALUATION
        numbers = files.read_json(evaluation) if evaluation.exists() else {}
        return cls(path, name, manifest.read(path), numbers)

    @property
    def stage(self) -> str:
        return self.manifest["stage"]

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.manifest["inputs"]["settings"]

    def sources(self) -> list[DataSource]:
        """Return the data that the run was trained on, or that a tokenizer or a corpus was made from."""
        data = self.settings.get("data") or []
        return [DataSource.model_validate(source) for source in (data if isinstance(data, list) else [data])]


def model_card(run: Path, repo_id: str, *, model: Path | None = None, license: str | None = None) -> str:
    """Return the model card: metadata, what the model is, its numbers, how it was made, how to use it.

    Args:
        model: the folder of the model as it is published; by default that of the run.
        license: the identifier of a licence on the Hub, such as `apache-2.0`; None for a card without one.
    """
    chain = _chain(run)
    made = chain[-1]
    stage = STAGES[made.stage]
    model = model or run / layout.MODEL
    is_classifier = stage.product == Product.REWARD_MODEL
    base = _base_model(chain)
    return CARD.get_template("model_card.md.j2").render(
        repo_id=repo_id,
        name=repo_id.split("/")[-1],
        metadata=_metadata(chain, is_classifier=is_classifier, license=license),
        stage=made.stage,
        model=_model(model),
        training=_training(made),
        base=base,
        license=license,
        lora=_lora(made),
        numbers=[row for number in stage.published if (row := _number(number, made.numbers))],
        measured_on=made.numbers.get("measured_on"),
        lost_text=made.numbers.get("held_out_lost_text"),
        comparisons=list(_comparisons(run)),
        recipe=(run / layout.RECIPE).read_text(encoding="utf-8").strip(),
        overrides=made.manifest["overrides"],
        chain=[_row(step, {str(other.path): other.name for other in chain}) for step in chain],
        packages={name: version for name, version in made.manifest["versions"].items() if version},
        seal=seal.digest(run),
        use="classifier" if is_classifier else "chat" if stage.has_conversations else "text",
        end_id=_end_id(model) if is_classifier else None,
    )


def _chain(run: Path) -> list[MadeRun]:
    """Return the runs that a run was made from, and the run itself as the last."""
    links = seal.chain(run)
    names = display_names([str(link.path) for link in links])
    return [MadeRun.at(link.path, names[str(link.path)]) for link in links]


def _metadata(chain: list[MadeRun], *, is_classifier: bool, license: str | None) -> str:
    """Return the card's YAML: what is not known is left out."""
    base = _base_model(chain)
    sources = [source for run in chain for source in run.sources()]
    datasets = [
        source.name.partition("@")[0] for source in sources
        if source.name != inputs.STORYWORLD and not inputs.is_local(source.name)
    ]  # fmt: skip
    is_storyworld = all(_is_storyworld(source) for source in sources)
    content = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if is_classifier else "text-generation",
        "license": license,
        "language": STORYWORLD_LANGUAGE if base is None and sources and is_storyworld else None,
        "base_model": base["hub_id"] if base else None,
        "datasets": list(dict.fromkeys(datasets)),
        "tags": ["toolkit", chain[-1].stage],
    }
    return yaml.safe_dump({key: value for key, value in content.items() if value}, sort_keys=False).strip()


def _is_storyworld(source: DataSource) -> bool:
    """Return whether the rows are those of the storyworld, or of a run, whose data are in the chain, too."""
    return source.name == inputs.STORYWORLD or source.name.startswith("runs/")


def _base_model(chain: list[MadeRun]) -> dict[str, str | None] | None:
    """Return the checkpoint that the first training of the model began with, None for random weights.

    Its keys are `hub_id`, `commit`, `folder` and `digest`; those of a folder or of a Hub model are None.
    """
    by_path = {run.path: run for run in chain}
    run = chain[-1]
    while (parent := _parent(run)) is not None:
        if parent["kind"] == "run":
            run = by_path[_parent_path(run)]
            continue
        if parent["kind"] == "folder":
            folder = _parent_path(run).name
            return {"hub_id": None, "commit": None, "folder": folder, "digest": parent["digest"]}
        hub_id, _, revision = parent["reference"].partition("@")
        commit = (run.manifest["facts"].get("hub_commits") or {}).get(parent["reference"])
        return {"hub_id": hub_id, "commit": commit or revision or None, "folder": None, "digest": None}
    return None


def _parent(run: MadeRun) -> Mapping[str, Any] | None:
    """Return the entry of the model that a run was trained from; None for random weights."""
    return run.manifest["inputs"]["parents"].get("model")


def _parent_path(run: MadeRun) -> Path:
    """Return the run or folder of the model that a run was trained from."""
    return next(path for key, path, _, _ in seal.parents(run.path) if key == "model")


def _model(folder: Path) -> dict[str, Any]:
    """Return architecture, number of parameters and dtypes of a model folder, from its files."""
    config = folder / "config.json"
    architectures = files.read_json(config).get("architectures") if config.exists() else None
    parameters, dtypes = 0, {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as weights:
            for name in weights.keys():  # noqa: SIM118 (it is no mapping)
                part = weights.get_slice(name)
                count = prod(part.get_shape())
                parameters += count
                dtype = DTYPES.get(part.get_dtype(), part.get_dtype())
                dtypes[dtype] = dtypes.get(dtype, 0) + count
    return {
        "architecture": architectures[0] if architectures else None,
        "parameters": parameters,
        "dtypes": " and ".join(sorted(dtypes, key=dtypes.__getitem__, reverse=True)),
    }


def _training(run: MadeRun) -> str:
    """Return what the stage did, with the settings that say how."""
    settings, trainer = run.settings, run.manifest["facts"].get("trainer") or {}
    if "algorithm" in settings:
        others = [reward["reward_model"] or reward["function"] for reward in settings["rewards"]]
        names = " and ".join(f"`{name}`" for name in [settings["reward_model"], *others])
        return (
            f"The model wrote answers to prompts, and {settings['algorithm'].upper()} made answers with a "
            f"higher reward more probable. The reward is that of {names}."
        )
    text = STAGES[run.stage].description
    if trainer.get("beta") is not None and trainer.get("loss_type"):
        losses = trainer["loss_type"]
        losses = losses if isinstance(losses, str) else " and ".join(losses)
        text += f" Loss: {losses}, with beta {trainer['beta']}."
    return text


def _lora(run: MadeRun) -> Mapping[str, Any] | None:
    """Return the settings of the adapters that were trained, with their targets as text; None without."""
    lora = run.settings.get("lora")
    if not lora:
        return None
    targets = lora["target_modules"]
    targets = targets if isinstance(targets, str) else ", ".join(targets)
    return {"load_in_4bit": False, **lora, "targets": targets}


def _number(number: PublishedNumber, numbers: Mapping[str, Any]) -> dict[str, str] | None:
    """Return a row of the table, None if the run has no such number."""
    row, key = _inside(numbers, number.key)
    value = row.get(key)
    if not isinstance(value, int | float):
        return None
    counted, count_key = _inside(numbers, number.n) if number.n else ({}, "")
    count = counted.get(count_key)
    scale, sign = (100, "%") if number.percent else (1, "")
    digits = 1 if number.percent else 4
    bounds = interval_of(row, key)
    return {
        "label": number.label,
        "value": f"{value * scale:.{digits}f}{sign}",
        "interval": "" if bounds is None else ", ".join(f"{end * scale:.{digits}f}{sign}" for end in bounds),
        "n": "" if count is None else f"{count:,} {number.unit}",
    }


def _inside(numbers: Mapping[str, Any], key: str) -> tuple[Mapping[str, Any], str]:
    """Return the object that holds a dotted key, and the last part of the key."""
    *outer, last = key.split(".")
    for part in outer:
        numbers = numbers.get(part) or {}
    return numbers, last


def _evaluations(run: Path) -> dict[Path, str]:
    """Return the sealed evaluate runs next to a run that measured it, and its name in each."""
    siblings = sorted(run.resolve().parent.iterdir())
    names = {
        path: name_in_evaluation(run, path)
        for path in siblings
        if seal.is_sealed(path) and (path / layout.EVALUATION).exists()
    }
    return {path: name for path, name in names.items() if name is not None}


def _comparisons(run: Path) -> Iterator[dict[str, Any]]:
    """Yield what each evaluate run measured of a run, as texts."""
    for evaluation, name in _evaluations(run).items():
        measured = files.read_json(evaluation / layout.EVALUATION)
        row = measured["models"][name]
        rate = row.get("win_rate")
        bits = _number(PublishedNumber("bits_per_byte", "", n="documents", unit="documents"), row)
        if rate or bits:
            yield {
                "evaluation": evaluation.name,
                "win_rate": _win_rate(rate, measured) if rate else None,
                "bits_per_byte": bits,
                "also_in_training": _also_in_training(measured),
            }


def _win_rate(rate: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    judge = measured.get("judge") or {}
    baseline = next((name for name, row in measured["models"].items() if row.get("is_baseline")), None)
    accuracy = _number(PublishedNumber("accuracy", "", n="n", unit="pairs", percent=True), judge)
    return {
        "baseline": baseline or measured.get("baseline") or "its baseline",
        "judge": judge.get("name", "unknown"),
        "accuracy": accuracy,
        "checked_on": judge.get("checked_on"),
        "estimate": f"{rate['estimate']:.1%}",
        "interval": f"{rate['low']:.1%}, {rate['high']:.1%}",
        "n": rate["n"],
        "verdict": rate.get("verdict"),
        "doubt": judge.get("doubt"),
    }


def _also_in_training(measured: Mapping[str, Any]) -> list[str]:
    """Return `12 prompts are also in the training data of tiny/sft` for each overlap that was found."""
    found = measured.get("also_in_training") or {}
    return [
        f"{count:,} of the {unit.replace('_', ' ')} are also in the training data of {name}"
        for unit, counts in found.items()
        for name, count in counts.items()
        if count
    ]


def _row(run: MadeRun, names: Mapping[str, str]) -> dict[str, str]:
    """Return the line of a run in the table of how the model was made."""
    weights = ""
    if STAGES[run.stage].product in (Product.LANGUAGE_MODEL, Product.REWARD_MODEL):
        lora = _lora(run)
        weights = "all" if lora is None else f"LoRA, rank {lora['r']}, {lora['targets']}; merged"
        weights += " (4 bits)" if lora and lora["load_in_4bit"] else ""
    return {
        "name": run.name,
        "stage": run.stage,
        "start": _start(run, names) if weights else "",
        "data": "; ".join(_data(run)),
        "weights": weights,
        "seal": seal.digest(run.path)[:16],
    }


def _start(run: MadeRun, names: Mapping[str, str]) -> str:
    parent = _parent(run)
    if parent is None:
        return "random weights"
    if parent["kind"] == "hub":
        return str(parent["reference"])
    path = _parent_path(run)
    if parent["kind"] == "folder":
        return _cell(f"folder {path.name}")
    folders = Path(run.settings["model"]).parts
    is_inside = {layout.CHECKPOINTS, layout.KEPT_STEPS} & {*folders}
    return names[str(path)] + (f", {folders[-1]}" if is_inside else "")


def _data(run: MadeRun) -> Iterator[str]:
    """Yield each source of a run, with the number of rows that were used where it is recorded."""
    counts = (run.numbers.get("data") or {}).get("sources") or []
    sources = run.sources()
    for number, source in enumerate(sources):
        options = [str(value) for value in (source.world, source.config, source.split) if value]
        text = _cell(" ".join([source.name, *options]))
        yield text + (f" ({counts[number]['used']:,} rows)" if len(counts) == len(sources) else "")


def _cell(text: str) -> str:
    """Return text that does not end its cell of a Markdown table."""
    return text.replace("|", "\\|")


def _end_id(folder: Path) -> int | None:
    """Return the token at which a reward model reads its score, None without a tokenizer."""
    if not (folder / "tokenizer_config.json").exists():
        return None
    return answer_end.end_id(load_tokenizer((str(folder), None)))
