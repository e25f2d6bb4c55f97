"""Datasets and file formats; what is read is never executed.

`open_dataset` opens what a recipe names, `open_features` reads new features for prediction, `save_arrays` writes the
documented layout in which any features can be brought in (`docs/data.md`).
"""

from __future__ import annotations

from mmrobust import registry
from mmrobust.contracts import Dataset, Part

__all__ = ["open_dataset"]


def open_dataset(part: Part[Dataset]) -> Dataset:
    """Opens the data that a recipe names.

    Args:
        part: Name and options of the dataset.

    Raises:
        PluginError: There is no such dataset, or it cannot be imported.
        OptionError: It refuses an option.
        DataError: The data is missing, damaged, hostile, or not what the options say.
    """
    catalogue = registry.catalogue()
    return catalogue.load(catalogue.find("dataset", part.use))(**part.options)
