"""Whether every file of a run is as it was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mmrobust import files
from mmrobust.errors import DamagedError, MmrobustError
from mmrobust.training.checkpoint import Checkpoints, read
from mmrobust.training.folder import RunFolder
from mmrobust.training.manifest import Manifest, digest

__all__ = ["problems"]


def problems(run: RunFolder) -> list[str]:
    """What is wrong with the files of a run; nothing where each is as it was written.

    The report and its figures are not looked at: `mmrobust report` writes them anew. Neither is `log.txt`, which no
    program reads.
    """
    try:
        listed = list(Manifest(run.path).entries())
    except MmrobustError as error:  # without it nothing can be said of the others
        return [str(error)]
    messages = []
    for look in _looks(run, listed):
        try:
            look()
        except MmrobustError as error:
            messages.append(str(error))
    return messages


def _looks(run: RunFolder, listed: list[str]) -> Iterator[Callable[[], Any]]:
    """A look at each file, which raises what is wrong with it."""
    for name in listed:
        yield partial(_listed, run, run.path / name)
    yield run.read_metrics
    yield partial(_predictions, run)
    for seed in run.seeds:
        checkpoints = Checkpoints(run.seed(seed))
        for epoch in checkpoints.epochs:
            yield partial(read, checkpoints.path(epoch))


def _listed(run: RunFolder, path: Path) -> None:
    # The others are written again by what needs them; a kill may come between their entry and their content.
    if run.read(path) is None and path in (run.recipe, run.resolved, run.env):
        raise run.damaged(path, "it is missing")


def _predictions(run: RunFolder) -> None:
    evaluation = run.read_evaluation() or {}
    for seed, entry in evaluation.get("predictions", {}).items():
        path = run.predictions_of(evaluation, int(seed))
        data = files.read(path)
        if data is None or digest(data) != entry["sha256"]:
            reason = "it is missing" if data is None else "its SHA-256 is not the one that was written"
            raise DamagedError(f"{path} is damaged: {reason}; mmrobust evaluate {run.path} writes it again")
