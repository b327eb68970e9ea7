"""The dtypes in which a checkpoint stores its weights; a model that is trained from it is written in them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import safe_open
from transformers import PreTrainedModel

from toolkit.models.tokenizer_loading import Reference

WRITTEN = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""The dtypes that are written, by their names in safetensors; weights of others are written as fp32."""


@dataclass(frozen=True)
class StoredDtypes:
    """The dtype of most weights, and names of the weights that are stored in fp32 beside them.

    Weights are trained in fp32. A checkpoint in bf16 becomes a model in bf16 again, as other programs expect
    it, but weights that it stores in fp32, such as the router bias of DeepSeek-V3, keep all of their digits.
    """

    default: torch.dtype = torch.float32
    fp32: frozenset[str] = field(default=frozenset())

    @classmethod
    def of(cls, reference: Reference) -> StoredDtypes:
        """Read the headers of the checkpoint's safetensors files; fp32 if there are none."""
        dtypes: dict[str, str] = {}
        sizes: Counter[str] = Counter()
        for file in _weight_files(reference):
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 (it is no mapping)
                    part = weights.get_slice(name)
                    dtypes[name] = part.get_dtype()
                    sizes[dtypes[name]] += torch.Size(part.get_shape()).numel()
        default = WRITTEN.get(sizes.most_common(1)[0][0], torch.float32) if sizes else torch.float32
        if default == torch.float32:
            return cls()
        return cls(default, frozenset(name for name, dtype in dtypes.items() if dtype == "F32"))

    @property
    def is_fp32(self) -> bool:
        """Whether all weights are written as they are trained."""
        return self.default == torch.float32

    @property
    def name(self) -> str:
        """The name of the default dtype, such as `bfloat16`."""
        return str(self.default).removeprefix("torch.")

    def cast(self, model: PreTrainedModel) -> None:
        """Convert the weights in place; tied weights stay tied. The configuration names the dtype."""
        stored = model.state_dict()  # without buffers that are computed from the configuration
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name in stored and tensor.is_floating_point() and not self._keeps_fp32(name):
                tensor.data = tensor.data.to(self.default)
        for config in (model.config, *(getattr(model.config, name) for name in model.config.sub_configs)):
            if config is not None:
                config.dtype = self.name

    def _keeps_fp32(self, name: str) -> bool:
        """Return whether a weight is stored in fp32; files may name it without the model's prefix."""
        return name in self.fp32 or any(
            name.endswith(f".{stored}") or stored.endswith(f".{name}") for stored in self.fp32
        )


def _weight_files(reference: Reference) -> list[Path]:
    """Return the safetensors files of a model folder, or those of a hub model in the cache.

    Those of an adapter's base model, if `reference` is an adapter; none for other files, such as GGUF.
    """
    name, revision = reference
    folder = Path(name).expanduser()
    if folder.is_file():
        return []
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, HfHubHTTPError, ValueError):
            return []
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8"))
        return _weight_files((base["base_model_name_or_path"], base.get("revision")))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return sorted(
            {folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        )
    return [file for file in [folder / "model.safetensors"] if file.is_file()]
