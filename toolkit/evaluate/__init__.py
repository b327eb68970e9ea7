"""Measuring models: perplexity on held-out text, win rate on unseen prompts, both with intervals.

The package is callable: `toolkit.evaluate(models, data, ...)` calls `toolkit.evaluate.comparison.evaluate`.
Python sets an imported package as an attribute of its parent, so `toolkit.evaluate` cannot be a function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.runs.evaluation import ModelComparison


class _CallableModule(ModuleType):
    def __call__(self, *arguments: Any, **settings: Any) -> ModelComparison:
        from toolkit.evaluate.comparison import evaluate  # torch: 3 s

        return evaluate(*arguments, **settings)


sys.modules[__name__].__class__ = _CallableModule
