"""Measuring models: perplexity on held-out text, win rate on unseen prompts, both with intervals.

The package is callable: `toolkit.evaluate(models, data, ...)` calls `toolkit.evaluate.comparison.evaluate`.
Python sets an imported package as an attribute of its parent, so `toolkit.evaluate` cannot be a function.
"""

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        from toolkit.evaluate.comparison import evaluate  # torch: 3 s

        return evaluate(*arguments, **settings)


sys.modules[__name__].__class__ = _CallableModule
