"""Trains a recipe in children that are killed again and again, each going on where the one before was killed.

Usage: killed_children.py RECIPE OUT (files|times) SEED [overrides]. Prints a line for each child: how it ended.

`files` kills the first child at its first file operation in the run's folder, the second at its third, and so on, until
one is done: the operations of a checkpoint's writing are met one by one, from wherever the child before was stopped.
`times` kills after random times.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from mmrobust import recipe as recipes
from mmrobust.model.assemble import build
from mmrobust.training import train

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


def kill_at(operation: int, out: Path) -> None:
    met = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal met
        if event in OPERATIONS and any(out.name in str(arg) for arg in args[:2]):
            met += 1
            if met == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def child(recipe: Path, out: Path, overrides: list[str], operation: int = 0, seconds: float = 0.0) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if operation:
                kill_at(operation, out)
            if (out / "resolved.yaml").exists():
                train(resume=out, quiet=True)
            else:
                train(recipe, overrides, out=out, quiet=True)
            status = 0
        finally:
            os._exit(status)
    if seconds:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    recipe, out, mode, seed, *overrides = sys.argv[1:]
    torch.set_num_threads(1)
    built = build(recipes.load(recipe))  # with the optimizer, all that every child would have to import
    torch.optim.AdamW(built.model.parameters())
    rng = random.Random(int(seed))
    for i in range(1, 1000, 2):
        if mode == "files":
            code = child(Path(recipe), Path(out), overrides, operation=i)
        else:
            code = child(Path(recipe), Path(out), overrides, seconds=rng.uniform(0.02, 0.5) if i <= 15 else 0.0)
        print(code, flush=True)
        if code != -signal.SIGKILL:
            break


if __name__ == "__main__":
    main()
