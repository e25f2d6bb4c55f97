"""What can be known of training and evaluation from the recipe and the data alone, before hours of work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmrobust import measures
from mmrobust.errors import MmrobustError, Problem, RecipeError, nearest
from mmrobust.recipe.optimization import Plateau

if TYPE_CHECKING:
    from mmrobust.contracts import Dataset, Task
    from mmrobust.recipe import Recipe

__all__ = ["check_settings", "evaluated", "primary_of", "selection"]


def check_settings(recipe: Recipe, dataset: Dataset) -> None:
    """Checks the splits and the measures that training and evaluation will want.

    Args:
        recipe: The recipe.
        dataset: Its data, opened.

    Raises:
        RecipeError: With everything that is wrong, each at its place in the recipe.
    """
    problems: list[Problem] = []
    for check in (_check_splits, _check_measures, selection):
        try:
            check(recipe, dataset)
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)


def selection(recipe: Recipe, dataset: Dataset) -> str | None:
    """The validation measure that chooses the checkpoint; None where nothing can be validated.

    Args:
        recipe: The recipe.
        dataset: Its data.

    Raises:
        RecipeError: There is no such measure for this task, or early stopping or the schedule has no validation split.
    """
    valid = dataset.splits.get("valid")
    settings = recipe.train
    if not valid or valid.label is None:
        if settings.patience is not None:
            message = "early stopping (train.patience) needs a labelled split 'valid', and this data has none"
            raise RecipeError(Problem(message, recipe.where("train", "patience")))
        if isinstance(settings.schedule, Plateau):
            message = "the schedule 'plateau' needs a labelled split 'valid', and this data has none"
            raise RecipeError(Problem(message, recipe.where("train", "schedule")))
        return None
    if settings.select == "auto":
        return measures.primary(dataset.task)
    return _known([settings.select], recipe, dataset.task, "train", "select")[0]


def _check_splits(recipe: Recipe, dataset: Dataset) -> None:
    """Training needs the split `train`, evaluation the one that it names."""
    labelled = [name for name, split in dataset.splits.items() if split.label is not None and len(split)]
    said = recipe.says("evaluate", "split")
    for name, at in (("train", ("data",)), (recipe.evaluate.split, ("evaluate", "split") if said else ("data",))):
        if name not in labelled:
            what = "training needs" if name == "train" else "evaluation (evaluate.split) needs"
            message = f"{what} a labelled split '{name}', and this data has none{nearest(name, labelled)}"
            raise RecipeError(Problem(message, recipe.where(*at)))


def evaluated(recipe: Recipe, task: Task) -> list[str]:
    """The measures that the evaluation takes, in the order of its tables.

    Raises:
        RecipeError: `evaluate.metrics` names one that cannot be taken on this task.
    """
    wanted = recipe.evaluate.measures
    return (
        measures.measures_of(task) if isinstance(wanted, str) else _known(wanted, recipe, task, "evaluate", "metrics")
    )


def primary_of(recipe: Recipe, task: Task) -> str:
    """The one measure that conclusions rest on: `evaluate.primary`, or the task's own.

    Raises:
        RecipeError: `evaluate.primary` is not among the measures of the evaluation.
    """
    wanted, names = recipe.evaluate.primary, evaluated(recipe, task)
    if wanted == "auto":
        own = measures.primary(task)
        return own if own in names else names[0]
    if wanted not in names:
        what = f"evaluate.primary: '{wanted}' is not among the measures of the evaluation{nearest(wanted, names)}"
        raise RecipeError(Problem(what, recipe.where("evaluate", "primary")))
    return wanted


def _check_measures(recipe: Recipe, dataset: Dataset) -> None:
    primary_of(recipe, dataset.task)


def _known(names: list[str] | tuple[str, ...], recipe: Recipe, task: Task, *keys: str) -> list[str]:
    """The names of measures, if all can be taken on this task."""
    try:
        return measures.check(task, names)
    except MmrobustError as error:
        raise RecipeError(Problem(str(error), recipe.where(*keys))) from error
