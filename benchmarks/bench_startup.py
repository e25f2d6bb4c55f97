"""How long a verb takes from nothing, as a process of its own; `import torch` beside it is the measure."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "--help": ["-m", "mmrobust", "--help"],
    "plugins list": ["-m", "mmrobust", "plugins", "list"],
    "recipes validate": ["-m", "mmrobust", "recipes", "validate", "normtr"],
    "build": ["-m", "mmrobust", "build", "normtr"],
}


@pytest.mark.benchmark(group="start-up")
@pytest.mark.parametrize("name", COMMANDS)
def bench_start(benchmark, name: str) -> None:
    benchmark.pedantic(
        lambda: subprocess.run([sys.executable, *COMMANDS[name]], check=True, capture_output=True),
        rounds=3,
        warmup_rounds=1,
    )
