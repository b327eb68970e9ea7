"""Writing a trained model so that the folder holds what was trained, with the configuration it started with.

TRL and Trainer change the configuration of the model that they train: the cache, router logits, special token
ids. PEFT merges adapters into weights that other modules may share. transformers refuses some settings of
generation only when they are written. `ModelWriter` therefore keeps the configuration of before the training,
writes it once before the first step, and compares the written model with the trained one.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.errors import ToolkitError
from toolkit.base.files import atomic_folder
from toolkit.models import four_bit
from toolkit.models.adapters import TrainedAdapter
from toolkit.models.generation_settings import repair_generation_config
from toolkit.models.loading import load_causal_lm, write_model
from toolkit.models.soundness import probe_logits, require_finite
from toolkit.models.stored_dtypes import StoredDtypes
from toolkit.models.tokenizer_loading import Reference

Load = Callable[..., tuple[PreTrainedModel, PreTrainedTokenizerBase]]
"""`load_causal_lm` or `load_reward_model`."""

TOLERANCE = torch.finfo(torch.float32).eps ** 0.5
"""Largest difference between two computations of the same logits in fp32, relative to the largest logit.
Merging adapters changes logits by about 1e-6; adapters merged into a shared weight change them by 0.1."""


class ModelWriter:
    """Writes a model after its training, with the configuration and the dtype that it had before.

    Create it after the stage's own changes to the model and before its trainer, which makes others. It
    repairs the model's generation config (`repair_generation_config`).

    Args:
        model: the model that will be trained, without adapters.
        reference: what it was loaded from; its weights' dtypes are those of the written model.
        rows: token ids of a few texts, of which the logits are compared.
        load: reads the written folder.
        merge: write adapters into the weights; else as an adapter of `reference`.

    Raises:
        ToolkitError: the configuration, the generation config or the tokenizer cannot be written.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        reference: Reference,
        rows: Sequence[Sequence[int]],
        load: Load = load_causal_lm,
        merge: bool = True,
    ):
        self.reference, self.where, self.rows, self.load = reference, reference[0], rows, load
        self.merge = merge
        repair_generation_config(model, where=self.where)
        self.config = copy.deepcopy(model.config)
        if four_bit.is_four_bit(model):
            del self.config.quantization_config  # plain weights are written
        self.generation_config = copy.deepcopy(getattr(model, "generation_config", None))
        self.dtypes = StoredDtypes.of(reference)
        self._write_settings(tokenizer)

    def _write_settings(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write everything but the weights to a temporary folder: what fails now would fail at the end."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                copy.deepcopy(self.config).save_pretrained(folder)
                if self.generation_config is not None:
                    self.generation_config.validate(strict=True)
                    self.generation_config.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
            except OSError:  # such as a full disk, which is not the model's fault
                raise
            except Exception as error:
                reason = " ".join(str(error).split())
                raise ToolkitError(
                    f"transformers could not write the trained model: {reason}", where=self.where,
                    fix="correct config.json, generation_config.json or the tokenizer of the model",
                ) from error  # fmt: skip

    def write(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        *,
        step: int,
    ) -> PreTrainedModel:
        """Write the model's folder atomically, and return the model that it loads as, without adapters.

        The trained model is changed: its adapters are merged, and its weights have the written dtype. A model
        in 4 bits is merged on the CPU; the model that is returned has the written dtype then.

        Args:
            step: optimizer steps done, for messages.

        Raises:
            ToolkitError: weights or logits are not finite, or the folder holds another model than was
                trained; nothing is written then.
        """
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        require_finite(base, self.rows, step=step, where=str(folder.parent))
        device, is_four_bit = base.device, four_bit.is_four_bit(base)
        if is_four_bit:
            four_bit.compute_in_fp32(model)
        trained = probe_logits(base, self.rows)
        if isinstance(model, PeftModel) and not self.merge:
            return self._write_adapter(model, tokenizer, folder, trained)
        if isinstance(model, PeftModel):
            model = four_bit.dequantized(model) if is_four_bit else model
            model = model.merge_and_unload()
            self._require_equal(probe_logits(model, self.rows), trained, folder, "the merged model")
        model.config, model.generation_config = self.config, self.generation_config
        self.dtypes.cast(model)
        with atomic_folder(folder) as temporary:
            write_model(model, tokenizer, temporary)
            written = self._read_back(temporary, folder, device=model.device)
            self._require_same_weights(written, model, folder)
            require_finite(written, self.rows, step=step, where=str(folder.parent))
            if self.dtypes.is_fp32:  # else the rounding of the weights makes a difference
                self._require_equal(probe_logits(written, self.rows), trained, folder, "the written model")
        if is_four_bit:  # as fp32 it may not fit where it was trained
            written = written.to(device=device, dtype=self.dtypes.default)
        return written

    def _write_adapter(
        self,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        trained: Sequence[torch.Tensor],
    ) -> PreTrainedModel:
        """Write an adapter; where the base model has other rows for tokens, with the whole embeddings."""
        adapter = TrainedAdapter.of(model)
        merged = model.merge_and_unload()
        if adapter.settings.trainable_token_indices:
            adapter = adapter.with_tables(merged)
        self.config.dtype = self.dtypes.name
        with atomic_folder(folder) as temporary:
            self.config.save_pretrained(temporary)
            if self.generation_config is not None:
                self.generation_config.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            adapter.write(temporary, base=self.reference)
            written = self._read_back(temporary, folder, device=merged.device)
            if self._difference(probe_logits(written, self.rows), trained) is not None:
                adapter = adapter.with_tables(merged)
                adapter.write(temporary, base=self.reference)
                written = self._read_back(temporary, folder, device=merged.device)
            if not adapter.is_in(temporary):
                raise self._refusal("the written adapter differs from the trained one", folder)
            self._require_equal(probe_logits(written, self.rows), trained, folder, "the written adapter")
        return written

    def add_to_config(self, folder: Path, **values: float) -> None:
        """Add values to config.json of the written model."""
        for name, value in values.items():
            setattr(self.config, name, value)
        self.config.save_pretrained(folder)

    def _read_back(self, temporary: Path, folder: Path, *, device: torch.device) -> PreTrainedModel:
        try:
            return self.load((str(temporary), None), device=device)[0]
        except ToolkitError as error:
            raise self._refusal(f"the written model cannot be loaded: {error.what}", folder) from error

    def _require_same_weights(self, written: PreTrainedModel, model: PreTrainedModel, folder: Path) -> None:
        """Compare the loaded weights, in fp32, with those that were written, in their own dtype."""
        expected: Mapping[str, torch.Tensor] = model.state_dict()
        found = written.state_dict()
        differing = sorted(expected.keys() ^ found.keys())
        differing += [
            name for name in expected.keys() & found.keys()
            if not torch.equal(expected[name].to(found[name].dtype), found[name])
        ]  # fmt: skip
        if differing:
            raise self._refusal(
                f"{len(differing)} written weights differ from the trained ones, such as {differing[0]}",
                folder,
            )

    def _require_equal(
        self, found: Sequence[torch.Tensor], trained: Sequence[torch.Tensor], folder: Path, name: str
    ) -> None:
        difference = self._difference(found, trained)
        if difference is not None:
            raise self._refusal(f"{name} computes other logits than the trained one: {difference}", folder)

    def _difference(self, found: Sequence[torch.Tensor], trained: Sequence[torch.Tensor]) -> str | None:
        """Compare logits, relative to the largest one; return how they differ, None if they agree."""
        if any(a.shape != b.shape for a, b in zip(found, trained, strict=True)):
            return f"they have the shape {[*found[0].shape]} instead of {[*trained[0].shape]}"
        scale = max(float(logits.abs().max()) for logits in trained)
        difference = max(float((a - b).abs().max()) for a, b in zip(found, trained, strict=True))
        if difference <= TOLERANCE * max(scale, torch.finfo(torch.float32).tiny):
            return None
        return f"they differ by {difference:.2g}, and the largest is {scale:.2g}"

    def _refusal(self, what: str, folder: Path) -> ToolkitError:
        return ToolkitError(
            f"{what}; it is not sealed", where=str(folder.parent),
            fix="the newest folder in checkpoints/ holds the trained weights; leave embeddings and the head "
            "out of lora.target_modules, if they are in it",
        )  # fmt: skip
