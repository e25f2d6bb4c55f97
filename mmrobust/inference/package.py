"""A package: as much of a run as its predictions need, in a folder that can be given away."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmrobust import files
from mmrobust.errors import DataError
from mmrobust.training.checkpoint import Checkpoints, write
from mmrobust.training.folder import RunFolder
from mmrobust.training.manifest import Manifest

__all__ = ["save_package"]


def save_package(run: RunFolder, seeds: Sequence[int], folder: str | os.PathLike[str]) -> Path:
    """Writes the recipe, the preparation, the calibration and the best weights of some seeds into a new folder.

    It is a run folder without metrics, optimizer states, predictions and report; every file is sealed as in a run.

    Args:
        run: The run.
        seeds: Whose weights.
        folder: Where; nothing may be there.

    Returns:
        The folder.

    Raises:
        UsageError: Something is there already.
        DataError: The run was written by an older version, which did not record its data.
        DamagedError: A file of the run is damaged.
        WriteError: The folder cannot be written.
    """
    wanted = (run.recipe, run.resolved, run.env, run.data, run.calibration)
    contents = {path.name: data for path in wanted if (data := run.read(path)) is not None}
    if run.data.name not in contents:
        raise DataError(f"{run.path} does not record its data; resume it first: mmrobust train --resume {run.path}")
    package = Path(folder)
    with files.staged(package, new=True) as part:
        Manifest(part).write(contents)
        for seed in seeds:
            checkpoints = Checkpoints(run.seed(seed))
            best, last = checkpoints.best(), checkpoints.last()
            assert last is not None
            state = replace(best.state, best=last.state.best, finished=True, metrics=[])
            kept = Checkpoints(RunFolder(part).seed(seed))
            write(kept.path(state.epoch), state, best.model, best.learning, {})
    return package
