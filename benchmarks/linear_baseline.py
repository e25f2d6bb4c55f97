"""Ridge or logistic regression on each modality's mean step: what a recipe's model has to beat.

    python benchmarks/linear_baseline.py normtr_mosi data.path=mosi.pkl

The strength of the penalty is chosen on the validation split; features are those that the recipe's model sees.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from mmrobust import recipe as recipes
from mmrobust.contracts import Split
from mmrobust.measures import describe, measure, primary
from mmrobust.model.assemble import open_data


def means(split: Split) -> np.ndarray:
    """The mean real step of every modality side by side, `n d`."""
    return torch.cat([stream.map(torch.Tensor.float).mean() for stream in split.features.values()], 1).numpy()


def main() -> None:
    dataset = open_data(recipes.load(sys.argv[1], sys.argv[2:]))
    task, splits = dataset.task, dataset.splits
    x = {name: means(split) for name, split in splits.items()}
    y = {name: split.label for name, split in splits.items() if split.label is not None}
    chosen = describe(primary(task))
    best: tuple[float, float, dict[str, float]] | None = None
    for strength in np.logspace(-4, 5, 19):
        if task.kind == "regression":
            model = Ridge(alpha=strength).fit(x["train"], y["train"])
            predict = lambda name, model=model: torch.from_numpy(model.predict(x[name])).float().unsqueeze(1)
        else:
            model = LogisticRegression(C=1 / strength, max_iter=2000).fit(x["train"], y["train"])
            predict = lambda name, model=model: torch.from_numpy(model.predict_proba(x[name])).float()
        valid = measure(task, predict("valid"), y["valid"])[chosen.name]
        if best is None or chosen.improves(valid, best[0]):
            best = (valid, strength, measure(task, predict("test"), y["test"]))
    assert best is not None
    name = "ridge" if task.kind == "regression" else "logistic regression"
    print(f"{name}, penalty {best[1]:g} (chosen by valid {chosen.name} {best[0]:.4f}); test:")
    for name, value in best[2].items():
        print(f"  {describe(name).title:24} {describe(name).show(value)}")


if __name__ == "__main__":
    main()
