"""The trained models of a run, one or several seeds of them, for the predictions of new samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmrobust.contracts import Context, Split, Task
from mmrobust.data import Preparation
from mmrobust.model.model import Model
from mmrobust.recipe import Overrides, Recipe
from mmrobust.training.checkpoint import Checkpoints
from mmrobust.training.data_record import DataRecord
from mmrobust.training.device import choose_device
from mmrobust.training.folder import RunFolder
from mmrobust.training.trained import chosen_seeds, load_trained, open_data

__all__ = ["Ensemble", "load_ensemble", "mean_prediction"]


@dataclass(frozen=True)
class Ensemble:
    """The models of some seeds of a run.

    Attributes:
        recipe: What was trained.
        context: What the models know of the data.
        preparation: What new features need to become the models' input.
        seeds: Whose models they are.
        models: One for each seed, in evaluation mode.
        device: Where they are.
        chosen: Why these seeds, in words.
    """

    recipe: Recipe
    context: Context
    preparation: Preparation
    seeds: tuple[int, ...]
    models: tuple[Model, ...]
    device: torch.device
    chosen: str

    @property
    def task(self) -> Task:
        """What they predict."""
        return self.context.task

    @torch.inference_mode()
    def outputs(self, split: Split) -> Tensor:
        """What each model gives for the samples of a split, `s n c`, float32, on the CPU.

        Args:
            split: New samples, prepared as the training data was.
        """
        parts = []
        for index in torch.arange(len(split)).split(self.recipe.evaluate.batch_size):
            batch = split.batch(index).features
            features = {m: batch[m].zeroed().to(self.device) for m in self.context.modalities}
            parts.append(torch.stack([model(features).prediction.float().cpu() for model in self.models]))
        return torch.cat(parts, 1)


def load_ensemble(run: RunFolder, seeds: int | str = "best", overrides: Overrides = ()) -> Ensemble:
    """Loads the models of a run; the data that it was trained on is not needed.

    Args:
        run: The run.
        seeds: `best` on the validation split, `all`, or one seed.
        overrides: Changes of the recipe: `train.device=...`, `evaluate.batch_size=...`, and `data.path=...` for runs of
            older versions, which have to open their training data.

    Raises:
        UsageError: There is no such seed.
        CheckpointError: Nothing is trained yet, or a checkpoint is damaged.
        DamagedError: Another file of the run is damaged.
        ReadError: A file of the run cannot be read.
    """
    numbers = chosen_seeds(run, seeds)
    record = DataRecord.read(run)
    dataset = open_data(run, overrides)[0] if record is None else None
    preparation = getattr(dataset, "preparation", None) if record is None else record.preparation
    built = [load_trained(run, seed, dataset=dataset, overrides=overrides) for seed in numbers]
    if not isinstance(preparation, Preparation):
        preparation = _as_they_are(built[0].context)
    device = choose_device(built[0].recipe)
    models = tuple(one.model.to(device).eval() for one in built)
    chosen = _why(run, numbers, seeds)
    return Ensemble(built[0].recipe, built[0].context, preparation, tuple(numbers), models, device, chosen)


def _as_they_are(context: Context) -> Preparation:
    """The preparation of data that is not read from files: features go into the model as they are."""
    width = {m: shape.width for m, shape in context.features.items()}
    length = {m: shape.length for m, shape in context.features.items()}
    return Preparation(context.modalities, context.task, width, length)


def mean_prediction(task: Task, outputs: Tensor, temperature: float = 1.0) -> Tensor:
    """What several models say together.

    Args:
        task: What they predict.
        outputs: Of each model, `s n c`.
        temperature: Divides the logits of classes and decisions.

    Returns:
        Float64: the mean number `n c` of a regression, the mean probability of each class `n c`, or the mean
        probability of the yes of each decision, `n k`.
    """
    x = outputs.double()
    if task.kind == "regression":
        return x.mean(0)
    if task.kind == "classification":
        return (x / temperature).softmax(-1).mean(0)
    return (x / temperature).unflatten(-1, (-1, 2)).softmax(-1)[..., 1].mean(0)


def _why(run: RunFolder, numbers: Sequence[int], seeds: int | str) -> str:
    if len(numbers) > 1:
        return f"the mean of the models of seeds {', '.join(map(str, numbers))}"
    text = f"the model of seed {numbers[0]}"
    if seeds != "best" or len(run.seeds) == 1:
        return text
    best = Checkpoints(run.seed(numbers[0])).best().state.best
    return text if best.get("value") is None else f"{text}, the best on the validation split of {len(run.seeds)} seeds"
