"""The weights that a pretraining kept of some of its steps, as models of the page."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from toolkit.base.errors import UsageError
from toolkit.inference.engine import Engine
from toolkit.inference.opening import open_model
from toolkit.playground.library import Library
from toolkit.pretrain import kept_weights

MAX_OPEN = 2
"""Models of kept steps that stay in memory."""


class KeptSteps:
    """The kept steps of the library's models, which open when they are used. Thread-safe."""

    def __init__(self, library: Library):
        self._library = library
        self._engines: OrderedDict[tuple[str, int], Engine] = OrderedDict()
        self._lock = threading.Lock()
        library.closing.append(self.close)

    def close(self) -> None:
        """End every request to a model, before the process ends."""
        for engine in list(self._engines.values()):
            engine.close()

    def steps(self, model: str) -> dict[int, int]:
        """Return {step: tokens read until then} of a model's kept steps in order; empty if it kept none.

        Raises:
            UsageError: there is no such model.
        """
        found = kept_weights.read_samples(Path(self._library.entry(model).reference))
        return {kept["step"]: kept["tokens"] for kept in found}

    def engine(self, model: str, step: int) -> Engine:
        """Return the engine of a kept step; loads it, and lets go of the one that was used longest ago.

        Raises:
            UsageError: there is no such model, or it has not kept this step.
            ToolkitError: it cannot be loaded.
        """
        run = Path(self._library.entry(model).reference)
        with self._lock:
            engine = self._engines.get((model, step))
            if engine is None:
                if step not in self.steps(model):
                    raise UsageError(f"{model} has not kept step {step}", where="step", fix="reload the page")
                while len(self._engines) >= MAX_OPEN:
                    self._engines.popitem(last=False)[1].retire()
                folder = str(kept_weights.folder(run, step))
                engine = self._library.loader.submit(lambda: Engine(open_model(folder))).result()
                self._engines[model, step] = engine
            self._engines.move_to_end((model, step))
            return engine
