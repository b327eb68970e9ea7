"""The dtypes in which a checkpoint stores its weights; a model that is trained from it is written in them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from toolkit.models import checkpoint_folder, safetensors_files
from toolkit.runs import hub
from toolkit.runs.hub import Reference

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
        """Read the headers of the checkpoint's safetensors files; fp32 if there are none, as with GGUF.

        Those of an adapter are the dtypes of its base model.
        """
        folder = hub.local_folder(reference[0]) or hub.cached_folder(reference)
        if folder is not None and checkpoint_folder.is_adapter(folder):
            return cls.of(checkpoint_folder.base_of_adapter(folder))
        dtypes: dict[str, str] = {}
        sizes: Counter[str] = Counter()
        for file in safetensors_files.weight_files(folder) if folder else ():
            for name, tensor in safetensors_files.header(file).items():
                dtypes[name] = tensor.dtype
                sizes[tensor.dtype] += tensor.numbers
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

    def rounded(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return a weight in the dtype in which it is written."""
        is_cast = tensor.is_floating_point() and not self._keeps_fp32(name)
        return tensor.to(self.default) if is_cast else tensor

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
