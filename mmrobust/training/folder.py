"""The run folder: everything that one run leaves, and where.

runs/<recipe's name>/<time>-<id>/
  recipe.yaml       as it was written
  resolved.yaml     with `extends`, overrides and defaults worked in: alone enough to run again
  env.json          what it ran on
  metrics.jsonl     a line for each epoch of each seed
  log.txt           what was said, with times
  checkpoints/seed-<k>/epoch-<n>/
  evaluation.json, predictions/, figures/, report.html      of evaluation and report
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrobust import files
from mmrobust.accel.processor import processor
from mmrobust.errors import MmrobustError, UsageError, nearest

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None

if TYPE_CHECKING:
    from mmrobust.recipe import Recipe

__all__ = ["RunFolder", "environment", "to_json"]


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that every reader takes: numbers that are not finite become null."""

    def plain(x: Any) -> Any:
        if isinstance(x, Mapping):
            return {str(k): plain(v) for k, v in x.items()}
        if isinstance(x, (list, tuple)):
            return [plain(v) for v in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, and what is kept in its small files.

    Attributes:
        path: The folder.
    """

    path: Path

    recipe = property(lambda self: self.path / "recipe.yaml")
    resolved = property(lambda self: self.path / "resolved.yaml")
    env = property(lambda self: self.path / "env.json")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    log = property(lambda self: self.path / "log.txt")
    checkpoints = property(lambda self: self.path / "checkpoints")
    evaluation = property(lambda self: self.path / "evaluation.json")
    predictions = property(lambda self: self.path / "predictions")
    figures = property(lambda self: self.path / "figures")
    report = property(lambda self: self.path / "report.html")

    @classmethod
    def create(
        cls,
        recipe: Recipe,
        runs: str | os.PathLike[str] = "runs",
        *,
        out: str | os.PathLike[str] | None = None,
        threads: int | None = None,
    ) -> RunFolder:
        """Makes the folder of a new run; it appears with its recipe and environment in it, or not at all.

        Args:
            recipe: What is run.
            runs: The folder of all runs.
            out: The run's own folder, instead of a new one in `runs`; it must be empty or not there.
            threads: With how many each seed is trained; None for this process's.

        Raises:
            UsageError: `out` holds something already.
            WriteError: The folder cannot be made.
        """
        if out is None:
            started = datetime.now().strftime("%Y%m%d-%H%M%S")
            path = Path(runs) / recipe.name / f"{started}-{secrets.token_hex(2)}"
            while path.exists():
                path = path.with_name(f"{started}-{secrets.token_hex(2)}")
        else:
            path = Path(out)
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise UsageError(f"{path} holds something already; name a new folder, or go on with --resume {path}")
        with files.staged(path) as part:
            (part / "recipe.yaml").write_text(recipe.source, encoding="utf-8")
            (part / "resolved.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
            (part / "env.json").write_text(to_json(environment(threads), indent=2) + "\n", encoding="utf-8")
            (part / "metrics.jsonl").touch()
            (part / "log.txt").touch()
            (part / "checkpoints").mkdir()
        return cls(path)

    @classmethod
    def open(cls, ref: str | os.PathLike[str] | RunFolder, runs: str | os.PathLike[str] = "runs") -> RunFolder:
        """Finds a run.

        Args:
            ref: Its folder, or a folder of runs or a recipe's name in `runs`, of which the latest is meant.
            runs: The folder of all runs.

        Raises:
            UsageError: There is no such run.
        """
        if isinstance(ref, RunFolder):
            return ref
        path = Path(ref)
        if (path / "resolved.yaml").is_file():
            return cls(path)
        for folder in (path, Path(runs) / path):
            if found := cls._runs_in(folder):
                return found[-1]
        if path.is_dir():
            raise UsageError(f"{path} is not the folder of a run: it holds no resolved.yaml")
        there = Path(runs)
        names = [p.name for p in there.iterdir() if cls._runs_in(p)] if there.is_dir() else []
        hint = nearest(str(ref), names) or f"; {there} holds no runs"
        raise UsageError(f"there is no run '{os.fspath(ref)}'{hint}")

    @classmethod
    def _runs_in(cls, folder: Path) -> list[RunFolder]:
        """The runs in a folder, the earliest first."""
        found = [p for p in folder.glob("*/resolved.yaml") if not p.parent.name.startswith(".")]
        return [cls(p.parent) for p in sorted(found, key=lambda p: (p.stat().st_mtime, p))]

    @property
    def seeds(self) -> list[int]:
        """The seeds that have left something, in order."""
        names = [re.fullmatch(r"seed-(\d+)", p.name) for p in self.checkpoints.glob("seed-*")]
        return sorted(int(m[1]) for m in names if m)

    def seed(self, seed: int) -> Path:
        """Where a seed's checkpoints are."""
        return self.checkpoints / f"seed-{seed}"

    def say(self, text: str) -> None:
        """Adds a line to `log.txt`."""
        files.append(self.log, f"{datetime.now().isoformat(' ', 'seconds')}  {text}")

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`."""
        files.append(self.metrics, to_json(line))

    def set_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Writes `metrics.jsonl` anew."""
        files.write_atomic(self.metrics, "".join(to_json(line) + "\n" for line in lines))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; a last line torn by a crash is left out, numbers not finite are None."""
        if not self.metrics.exists():
            return []
        lines = []
        for text in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(text))
        return lines

    def read_env(self) -> dict[str, Any]:
        """What `env.json` says; empty where it cannot be read."""
        try:
            return json.loads(self.env.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[int | None]:
        """Keeps every other process from training in this run; the lock falls with the last process that holds it.

        Yields:
            What a child has to inherit to hold it as well; None where there are no locks.

        Raises:
            MmrobustError: Another process trains in it.
        """
        if fcntl is None:
            yield None
            return
        with files.explained(self.path / ".lock"):
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MmrobustError(f"another process is training in {self.path}; wait for it, or stop it") from None
            except OSError:  # a file system without locks
                pass
            yield handle
        finally:
            os.close(handle)


def environment(threads: int | None = None) -> dict[str, Any]:
    """What a run ran on: versions, machine, threads, who multiplies, the code's commit, the command, the time.

    Args:
        threads: With how many each seed is trained; None for this process's.
    """
    import numpy
    import torch

    import mmrobust
    from mmrobust import registry
    from mmrobust.accel.linear import gemm

    used = {spec.distribution: spec.version for spec in registry.catalogue().all()}
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "mmrobust": mmrobust.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "safetensors": metadata.version("safetensors"),
        "plugins": {name: version for name, version in sorted(used.items()) if name != "mmrobust"},
        "platform": platform.platform(),
        "processor": processor().get("model name") or platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads() if threads is None else threads,
        "gemm": gemm(),
        "gpu": cuda,
        "cuda": torch.version.cuda if cuda else None,
        "commit": _commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """Commit of the code in the current folder, with `-dirty` where it was changed; None where there is none."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip() or None
    return None
