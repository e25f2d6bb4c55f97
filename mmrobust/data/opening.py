"""Opens the data that a recipe names, and new features for a model that was trained on it."""

from __future__ import annotations

from pathlib import Path

from mmrobust import registry
from mmrobust.contracts import Dataset, Part
from mmrobust.data.dataset import FileDataset
from mmrobust.data.preparation import Preparation
from mmrobust.errors import DataError

__all__ = ["open_dataset", "open_features"]


def open_dataset(part: Part[Dataset]) -> Dataset:
    """Opens the data that a recipe names.

    Args:
        part: Name and options of the dataset.

    Raises:
        PluginError: There is no such dataset, or it cannot be imported.
        OptionError: It refuses an option.
        DataError: The data is missing, damaged, hostile, or not what the options say.
    """
    return _dataset_class(part)(**part.options)


def open_features(
    part: Part[Dataset],
    path: str | Path,
    *,
    preparation: Preparation | None = None,
    enrolment: str | Path | None = None,
) -> Dataset:
    """Opens new features for a model that was trained on the data of a recipe.

    They are selected, shortened and standardised exactly as the training data was, with the training data's own
    statistics. Labels are not looked at. What is missing is masked with a note: a modality that is absent, empty or all
    zero, and steps that hold NaN. A file without splits has the one split `new`; arrays without the dimension of
    samples are one sample.

    Args:
        part: Name and options of the dataset that the model was trained on; `path` in it is not read if
            `preparation` is given.
        path: The new file, in the same format.
        preparation: The training dataset's `preparation`; without it the training data is opened to learn it.
        enrolment: More clips of the same speakers, without labels, for a model that standardises by group; they are
            not part of the dataset.

    Returns:
        A dataset whose splits are the new file's and whose task is the model's.

    Raises:
        DataError: As `open_dataset`; or the new features do not fit the model.
    """
    cls = _dataset_class(part)
    if not issubclass(cls, FileDataset):
        raise DataError(f"{path}: dataset '{part.use}' is not read from files, so there are no new features for it")
    if preparation is None:
        opened = open_dataset(part)
        assert isinstance(opened, FileDataset)
        preparation = opened.preparation
    fitted = type(
        cls.__name__, (cls,), {"_given": preparation, "_enrolment": None if enrolment is None else Path(enrolment)}
    )
    return fitted(**{**part.options, "path": Path(path)})


def _dataset_class(part: Part[Dataset]) -> type[Dataset]:
    catalogue = registry.catalogue()
    return catalogue.load(catalogue.find("dataset", part.use))
