"""What training has left: which seeds are finished, which is best, their models, and the data they were trained on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmrobust.contracts import Dataset
from mmrobust.errors import CheckpointError, UsageError
from mmrobust.measures import describe
from mmrobust.model.assemble import Built, build
from mmrobust.model.assemble import open_data as open_recipe_data
from mmrobust.training.checkpoint import Checkpoint, Checkpoints, load_weights
from mmrobust.training.data_record import DataRecord, RecordedDataset
from mmrobust.training.folder import RunFolder

if TYPE_CHECKING:
    from mmrobust.recipe import Overrides, Recipe

__all__ = ["best_seed", "chosen_seeds", "finished_seeds", "keep_record", "load_trained", "open_data"]

#: A note about runs of versions before 0.2, which did not record these.
UNSEALED = "this run was written by an older version: it has no manifest, so that damage to its files is not noticed"


def finished_seeds(folder: RunFolder) -> list[int]:
    """The seeds of a run that were trained to their end.

    Raises:
        CheckpointError: The last checkpoint of a seed is damaged.
        ReadError: One is there but cannot be read.
    """
    last = {seed: Checkpoints(folder.seed(seed)).last() for seed in folder.seeds}
    return [seed for seed, checkpoint in last.items() if checkpoint is not None and checkpoint.state.finished]


def chosen_seeds(folder: RunFolder, seeds: int | str = "best") -> list[int]:
    """The seeds whose models are meant.

    Args:
        folder: The run.
        seeds: `best` for the one whose checkpoint was the best on the validation split, `all`, or one seed.

    Raises:
        UsageError: There is no such seed, or the word is another one.
        CheckpointError: No seed is trained, or a checkpoint is damaged.
    """
    finished = finished_seeds(folder)
    if not finished:
        raise CheckpointError(
            f"no seed of {folder.path} is trained yet; go on with: mmrobust train --resume "
            f"{shlex.quote(str(folder.path))}"
        )
    if seeds == "all":
        return finished
    if seeds == "best":
        return [best_seed(folder, finished)]
    if isinstance(seeds, str) and not seeds.isdecimal():
        raise UsageError(f"seeds '{seeds}': give best, all, or one of {', '.join(map(str, finished))}")
    if int(seeds) not in finished:
        raise UsageError(f"{folder.path} has no trained seed {seeds}; it has {', '.join(map(str, finished))}")
    return [int(seeds)]


def best_seed(folder: RunFolder, seeds: Sequence[int]) -> int:
    """Of some seeds the one whose best checkpoint was the best on the validation split.

    It is the first where that is not known.
    """
    chosen, value = seeds[0], float("nan")
    for seed in seeds:
        best = Checkpoints(folder.seed(seed)).best().state.best
        if best.get("value") is not None and describe(best["measure"]).improves(best["value"], value):
            chosen, value = seed, best["value"]
    return chosen


def load_trained(
    run: RunFolder | str | os.PathLike[str],
    seed: int | None = None,
    *,
    dataset: Dataset | None = None,
    overrides: Overrides = (),
) -> Built:
    """Builds a run's recipe again, with the weights of its best checkpoint; the data itself is not needed.

    Args:
        run: The run, its folder, or a recipe's name for its latest run in `runs`.
        seed: Which of its seeds; None for the one that was best on the validation split.
        dataset: Its dataset if it is open (see `open_data`). Without it the result's dataset has the shapes and the
            task, but no samples.
        overrides: Changes of the resolved recipe.

    Raises:
        UsageError: There is no such run, or no such seed in it.
        CheckpointError: The checkpoint is missing or damaged, or does not fit the recipe.
        DamagedError: Another file of the run is damaged.
        ReadError: A file of the run cannot be read.
    """
    folder = RunFolder.open(run)
    seeds = folder.seeds
    if not seeds:
        raise CheckpointError(
            f"{folder.path} holds no checkpoint yet; go on with: mmrobust train --resume {folder.path}"
        )
    if seed is None:
        seed = best_seed(folder, seeds)
    elif seed not in seeds:
        raise UsageError(f"{folder.path} has no seed {seed}; it has {', '.join(map(str, seeds))}")
    best: Checkpoint = Checkpoints(folder.seed(seed)).best()
    if dataset is None:
        record = DataRecord.read(folder)
        dataset = None if record is None else RecordedDataset(record)  # runs of older versions open their data
    built = build(folder.load_recipe(overrides), dataset=dataset, seed=seed)
    load_weights(built.model, best.model, str(best.path))
    load_weights(built.learning, best.learning, str(best.path))
    built.model.eval()
    return built


def open_data(
    run: RunFolder | str | os.PathLike[str], overrides: Overrides = (), *, changed: bool = False
) -> tuple[Dataset, list[str]]:
    """Opens the data that a run was trained on.

    Args:
        run: The run.
        overrides: Changes of the resolved recipe, `data.path=...` where the data was moved.
        changed: Go on although a data file is another one; its features are standardised by its own training split.

    Returns:
        The dataset, and notes for a reader of the report.

    Raises:
        DataError: A data file is missing, cannot be read, or is not the one that the run was trained on.
        DamagedError: A file of the run is damaged.
    """
    folder = RunFolder.open(run)
    recipe, record = folder.load_recipe(overrides), DataRecord.read(folder)
    notes = [] if folder.is_sealed else [UNSEALED]
    if record is None:
        return open_recipe_data(recipe), notes
    different = record.check(recipe, str(folder.path), changed=changed)
    notes += [*record.values["changes"], *different]
    return open_recipe_data(recipe), notes


def keep_record(folder: RunFolder, recipe: Recipe, dataset: Dataset, changes: Sequence[str]) -> None:
    """Records the data of a run that is resumed: all of it where nothing is recorded yet, and what has changed.

    Args:
        folder: The run.
        recipe: Its recipe.
        dataset: Its data.
        changes: Notes of `open_data`.

    Raises:
        DataError: A data file cannot be read.
        WriteError: The record cannot be written.
    """
    record = DataRecord.read(folder)
    if record is None:
        DataRecord.of(recipe, dataset).write(folder)
    elif more := [note for note in changes if note not in record.values["changes"] and note != UNSEALED]:
        DataRecord({**record.values, "changes": [*record.values["changes"], *more]}).write(folder)
