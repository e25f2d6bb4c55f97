"""Datasets and file formats; what is read is never executed.

`open_dataset` opens what a recipe names, `open_features` reads new features for a model that was trained on it,
`save_arrays` writes the layout in which any features can be brought in, and `mmrobust.data.info` says what is in a
file (`docs/data.md`).
"""

from mmrobust.data.arrays import save_arrays
from mmrobust.data.dataset import FileDataset, FileOptions
from mmrobust.data.opening import open_dataset, open_features
from mmrobust.data.preparation import Preparation

__all__ = ["FileDataset", "FileOptions", "Preparation", "open_dataset", "open_features", "save_arrays"]
