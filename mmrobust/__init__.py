"""mmrobust: a modular plugin toolkit for noisy multimodal fusion.

    import mmrobust
    run = mmrobust.run("normtr", ["train.epochs=5"])

Every verb of the command line is a function here. Nothing heavy is imported until one of them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mmrobust.benchmark import bench
    from mmrobust.inference.predict import predict
    from mmrobust.inference.predictor import Predictor
    from mmrobust.model.assemble import build
    from mmrobust.pipeline import analyze, run
    from mmrobust.recipe import load as load_recipe
    from mmrobust.registry import catalogue, register, trust
    from mmrobust.registry.hooks import hookimpl
    from mmrobust.reports import report
    from mmrobust.robustness import evaluate
    from mmrobust.studies import study
    from mmrobust.training import train

_PUBLIC = {
    "Predictor": "mmrobust.inference.predictor:Predictor",
    "analyze": "mmrobust.pipeline:analyze",
    "bench": "mmrobust.benchmark:bench",
    "build": "mmrobust.model.assemble:build",
    "catalogue": "mmrobust.registry:catalogue",
    "evaluate": "mmrobust.robustness:evaluate",
    "hookimpl": "mmrobust.registry.hooks:hookimpl",
    "load_recipe": "mmrobust.recipe:load",
    "predict": "mmrobust.inference.predict:predict",
    "register": "mmrobust.registry:register",
    "report": "mmrobust.reports:report",
    "run": "mmrobust.pipeline:run",
    "study": "mmrobust.studies:study",
    "train": "mmrobust.training:train",
    "trust": "mmrobust.registry:trust",
}

__all__ = [
    "Predictor",
    "__version__",
    "analyze",
    "bench",
    "build",
    "catalogue",
    "evaluate",
    "hookimpl",
    "load_recipe",
    "predict",
    "register",
    "report",
    "run",
    "study",
    "train",
    "trust",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mmrobust' has no attribute '{name}'")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
