"""The run folder: everything that one run leaves, and where.

runs/<recipe's name>/<time>-<id>/
  recipe.yaml       as it was written
  resolved.yaml     with `extends`, overrides and defaults filled in: alone enough to run again
  env.json          what it ran on
  data.json         what a model has to know of the data, and the fingerprint of every data file
  manifest.json     the SHA-256 of these files and of the evaluation's, the calibration's and the analysis's
  metrics.jsonl     a line for each epoch of each seed, each with a seal
  log.txt           messages, with times
  checkpoints/seed-<k>/epoch-<n>/
  evaluation.json, calibration.json, predictions/, figures/, report.html      of evaluation and report
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrobust import files
from mmrobust.errors import DamagedError, MmrobustError, UsageError, nearest
from mmrobust.processor import processor
from mmrobust.training.manifest import Manifest, seal, unseal

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None

if TYPE_CHECKING:
    from mmrobust.recipe import Overrides, Recipe

__all__ = ["RunFolder", "environment", "to_json"]

#: How a damaged file is written again; what is not listed can only be restored from a copy.
_AGAIN = {
    "metrics.jsonl": "mmrobust train --resume {run} writes it again from the checkpoints",
    "evaluation.json": "mmrobust evaluate {run} writes it again",
    "analysis.json": "mmrobust analyze {run} writes it again",
    "calibration.json": "mmrobust evaluate {run} writes it again",
}


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
    data = property(lambda self: self.path / "data.json")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    log = property(lambda self: self.path / "log.txt")
    checkpoints = property(lambda self: self.path / "checkpoints")
    evaluation = property(lambda self: self.path / "evaluation.json")
    calibration = property(lambda self: self.path / "calibration.json")
    analysis = property(lambda self: self.path / "analysis.json")
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
        others: Mapping[str, str] | None = None,
    ) -> RunFolder:
        """Creates the folder of a new run; it appears with its recipe and environment in it, or not at all.

        Args:
            recipe: What is run.
            runs: The folder of all runs.
            out: The run's own folder, instead of a new one in `runs`; it must be empty or not there.
            threads: With how many each seed is trained; None for this process's.
            others: Further files by their names, which appear with it.

        Raises:
            UsageError: `out` holds something already, or another process has just created it.
            WriteError: The folder cannot be made.
        """
        parent = Path(runs) / recipe.name
        path = parent / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}" if out is None else Path(out)
        if path.exists() and (not path.is_dir() or files.names(path)):  # said at once; the rename is the real check
            raise UsageError(f"{path} holds something already; name a new folder, or go on with --resume {path}")
        files.sweep(path.absolute().parent)
        with files.staged(path, new=True) as part:
            contents = {
                "recipe.yaml": recipe.source,
                "resolved.yaml": recipe.to_yaml(),
                "env.json": to_json(environment(threads), indent=2) + "\n",
                **(others or {}),
            }
            Manifest(part).write({name: content.encode() for name, content in contents.items()})
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
        if "resolved.yaml" in files.names(path):
            return cls(path)
        for folder in (path, Path(runs) / path):
            if latest := cls._runs_in(folder):
                return latest[-1]
        if path.is_dir():
            raise UsageError(f"{path} is not the folder of a run: it holds no resolved.yaml")
        there = Path(runs)
        names = [name for name in files.names(there) if cls._runs_in(there / name)]
        hint = nearest(str(ref), names) or f"; {there} holds no runs"
        raise UsageError(f"there is no run '{os.fspath(ref)}'{hint}")

    @classmethod
    def _runs_in(cls, folder: Path) -> list[RunFolder]:
        """The runs in a folder, the earliest first."""
        inside = [folder / name for name in files.names(folder) if not name.startswith(".")]
        resolved = [path / "resolved.yaml" for path in inside if "resolved.yaml" in files.names(path)]
        return [cls(p.parent) for p in sorted(resolved, key=lambda p: (p.stat().st_mtime, p))]

    @property
    def seeds(self) -> list[int]:
        """The seeds that have left something, in order.

        Raises:
            ReadError: The folder of the checkpoints cannot be listed.
        """
        parsed = [re.fullmatch(r"seed-(\d+)", name) for name in files.names(self.checkpoints)]
        return sorted(int(m[1]) for m in parsed if m)

    def seed(self, seed: int) -> Path:
        """Where a seed's checkpoints are."""
        return self.checkpoints / f"seed-{seed}"

    def say(self, text: str) -> None:
        """Adds a line to `log.txt`."""
        files.append(self.log, f"{datetime.now().isoformat(' ', 'seconds')}  {text}")

    @property
    def is_sealed(self) -> bool:
        """Whether a manifest says what its recipe held; runs of older versions have none."""
        return "resolved.yaml" in Manifest(self.path).entries()

    def read(self, path: Path) -> bytes | None:
        """The bytes of one of the run's files, as they were written; None where there is no such file.

        Raises:
            DamagedError: They are not those that were written.
            ReadError: The file cannot be read.
        """
        data = files.read(path)
        if data is not None and not Manifest(self.path).matches(path.name, data):
            raise self.damaged(path, "its SHA-256 is not the one that was written")
        return data

    def write(self, path: Path, data: bytes | str) -> None:
        """Writes one of the run's files, whole or not at all, and lists its SHA-256 in the manifest.

        Raises:
            DamagedError: The manifest is damaged.
            WriteError: The disk is full, ...
        """
        Manifest(self.path).write({path.name: data.encode() if isinstance(data, str) else data})

    def read_json(self, path: Path) -> dict[str, Any] | None:
        """The JSON object in one of the run's files; None where there is no such file.

        Raises:
            DamagedError: It is not the one that was written, or no JSON object.
            ReadError: The file cannot be read.
        """
        data = self.read(path)
        if data is None:
            return None
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self.damaged(path, "it holds no JSON object")
        return value

    def damaged(self, path: Path, reason: str) -> DamagedError:
        """The error about one of the run's files, with what can be done."""
        advice = _AGAIN.get(path.name, "restore it from a copy of the run")
        return DamagedError(f"{path} is damaged: {reason}; {advice.format(run=self.path)}")

    def load_recipe(self, overrides: Overrides = ()) -> Recipe:
        """The resolved recipe.

        Args:
            overrides: Changes of it.

        Raises:
            DamagedError: The file is not the one that was written.
            RecipeError: A component that it names is not here, or an override is wrong.
        """
        from mmrobust import recipe as recipes

        self.read(self.resolved)
        return recipes.load(self.resolved, overrides)

    def read_evaluation(self) -> dict[str, Any] | None:
        """What `evaluation.json` holds; None where the run is not evaluated.

        Raises:
            DamagedError: The file is not the one that was written.
            MmrobustError: It is of another version.
        """
        evaluation = self.read_json(self.evaluation)
        if evaluation is not None and evaluation.get("format") != 1:
            form = evaluation.get("format")
            raise MmrobustError(f"{self.evaluation} has format {form}; this version of mmrobust reads format 1")
        return evaluation

    def predictions_of(self, evaluation: Mapping[str, Any], seed: int) -> Path:
        """Where the predictions of a seed are, as the evaluation says; older versions named them by the seed alone."""
        entry = evaluation.get("predictions", {}).get(str(seed))
        name = f"predictions/seed-{seed}.safetensors" if entry is None else str(entry["file"])
        if not re.fullmatch(r"predictions/seed-\d+(-[0-9a-f]{12})?\.safetensors", name):
            raise self.damaged(self.evaluation, f"'{name}' names no predictions")
        return self.path / name

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`."""
        files.append(self.metrics, seal(to_json(line)))

    def set_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Writes `metrics.jsonl` anew."""
        files.write_atomic(self.metrics, "".join(seal(to_json(line)) + "\n" for line in lines))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; a last line torn by a crash is left out, numbers not finite are None.

        Raises:
            DamagedError: A line is not as it was written.
            ReadError: The file cannot be read.
        """
        lines = (files.read(self.metrics) or b"").decode("utf-8", "replace").split("\n")
        last, sealed = len(lines) - 1, self.is_sealed
        values = []
        for i, text in enumerate(lines):
            if i == last and not text:
                continue
            content = unseal(text)
            if content is None and i == last:  # the line itself may be whole, with another sign for its end
                content = unseal(text[:-1])
            if content is None and not sealed:  # written by an older version
                content = text
            with contextlib.suppress(ValueError, RecursionError):
                if content is not None:
                    values.append(json.loads(content))
                    continue
            if i < last and sealed:
                raise self.damaged(self.metrics, f"line {i + 1} is not as it was written")
        return values

    def read_env(self) -> dict[str, Any]:
        """What `env.json` says; empty where there is none.

        Raises:
            DamagedError: The file is not the one that was written.
            ReadError: It cannot be read.
        """
        return self.read_json(self.env) or {}

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


def _gemm() -> str:
    """Which library multiplies in linear layers; `accel` may choose one, and may be missing."""
    try:
        from mmrobust.accel.linear import gemm
    except ImportError:
        return "torch"
    return gemm()


def environment(threads: int | None = None) -> dict[str, Any]:
    """What a run ran on: versions, machine, threads, who multiplies, the code's commit, the command, the time.

    Args:
        threads: With how many each seed is trained; None for this process's.
    """
    import numpy
    import torch

    import mmrobust
    from mmrobust import registry

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
        "gemm": _gemm(),
        "gpu": cuda,
        "cuda": torch.version.cuda if cuda else None,
        "commit": _commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """Commit of the code in the current folder; None where there is none.

    Its files are read and git is not started: what is configured in a folder would be executed.
    """
    with contextlib.suppress(OSError, ValueError):
        here = Path.cwd()
        for folder in (here, *here.parents):
            git = folder / ".git"
            if git.is_file():  # a worktree or a submodule
                git = folder / _text(git).removeprefix("gitdir:").strip()
            if git.is_dir():
                return _head(git)
    return None


def _head(git: Path) -> str | None:
    """The commit that is checked out in a `.git` folder."""
    head = _text(git / "HEAD").strip()
    common = git / _text(git / "commondir").strip() if (git / "commondir").is_file() else git
    name = head.removeprefix("ref:").strip()
    lines = [head]
    if head != name and re.fullmatch(r"refs(/[\w+-][\w.+-]*)+", name):
        lines = [_text(path / name) for path in (git, common) if (path / name).is_file()]
        if (common / "packed-refs").is_file():
            packed = (line.split(" ") for line in _text(common / "packed-refs").splitlines())
            lines += [words[0] for words in packed if words[1:] == [name]]
    commits = [line.strip() for line in lines if re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", line.strip())]
    return commits[0] if commits else None


def _text(path: Path) -> str:
    """A regular file's text, and no more of it than git itself writes."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(2**24)
