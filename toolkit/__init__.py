"""From plain text to an aligned, evaluated, published language model, reproducibly.

    import toolkit as tk

    run = tk.run("recipes/tiny/dpo.yaml", {"trainer.beta": 0.2})
    run.evaluation.accuracy.low
    tk.load(run).generate("Tell me a story about a fox.")

docs/PYTHON.md describes this interface. Names are imported when they are first used (PEP 562), so that
`import toolkit` and `toolkit --help` load nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.api.execution import run as run
    from toolkit.api.execution import run_folder as run_folder
    from toolkit.api.language_model import LanguageModel as LanguageModel
    from toolkit.api.language_model import load as load
    from toolkit.api.run_view import RunView as Run  # noqa: F401  (its public name)
    from toolkit.api.run_view import list_runs as list_runs
    from toolkit.base.console import notices_to as notices_to
    from toolkit.base.errors import ToolkitError as ToolkitError
    from toolkit.config.schema import CorpusRecipe as CorpusRecipe
    from toolkit.config.schema import DataSource as DataSource
    from toolkit.config.schema import DpoRecipe as DpoRecipe
    from toolkit.config.schema import EvaluateRecipe as EvaluateRecipe
    from toolkit.config.schema import PpoRecipe as PpoRecipe
    from toolkit.config.schema import PretrainRecipe as PretrainRecipe
    from toolkit.config.schema import RewardRecipe as RewardRecipe
    from toolkit.config.schema import SftRecipe as SftRecipe
    from toolkit.config.schema import TokenizerRecipe as TokenizerRecipe
    from toolkit.evaluate.comparison import evaluate as evaluate
    from toolkit.stats import Estimate as Estimate

_MODULES = {
    "run": "toolkit.api.execution",
    "run_folder": "toolkit.api.execution",
    "Run": "toolkit.api.run_view:RunView",
    "list_runs": "toolkit.api.run_view",
    "LanguageModel": "toolkit.api.language_model",
    "load": "toolkit.api.language_model",
    "Estimate": "toolkit.stats",
    "ToolkitError": "toolkit.base.errors",
    "notices_to": "toolkit.base.console",
    "TokenizerRecipe": "toolkit.config.schema",
    "DataSource": "toolkit.config.schema",
    "CorpusRecipe": "toolkit.config.schema",
    "PretrainRecipe": "toolkit.config.schema",
    "SftRecipe": "toolkit.config.schema",
    "RewardRecipe": "toolkit.config.schema",
    "DpoRecipe": "toolkit.config.schema",
    "PpoRecipe": "toolkit.config.schema",
    "EvaluateRecipe": "toolkit.config.schema",
}
"""Public name -> the module that defines it, with `:name` where it is called differently there."""

__all__ = [*_MODULES, "evaluate"]


def __getattr__(name: str) -> Any:
    if name == "evaluate":  # a package that can be called
        return importlib.import_module("toolkit.evaluate")
    if name not in _MODULES:
        raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
    module, _, attribute = _MODULES[name].partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
