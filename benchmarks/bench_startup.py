"""How long a verb takes from nothing, each as a process of its own; `import torch` takes its turn with them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest

from benchmarks.alternate import alternate

TORCH = ["-c", "import torch"]
LIGHT = {
    "--help": ["--help"],
    "plugins list": ["plugins", "list"],
    "plugins show": ["plugins", "show", "fusion", "cross_attention"],
    "recipes list": ["recipes", "list"],
    "recipes show": ["recipes", "show", "normtr"],
    "recipes validate": ["recipes", "validate", "normtr"],
    "recipes schema": ["recipes", "schema"],
}


def start(arguments: list[str]) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


@pytest.mark.benchmark(group="start-up")
@pytest.mark.parametrize("verbs", ["light", "build"])
def bench_start(benchmark, verbs: str) -> None:
    if verbs == "build":
        lines = {"build": ["build", "normtr"]}
    else:
        lines = LIGHT
    runs: dict[str, Callable[[], object]] = {
        name: partial(start, ["-m", "mmrobust", *arguments]) for name, arguments in lines.items()
    }
    alternate(benchmark, partial(start, TORCH), runs, rounds=5 if verbs == "light" else 3)
    benchmark.extra_info["target"] = "import torch"
