"""Rule: a dataset holds what it declares: splits, shapes, finite values, labels within the task, and ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mmrobust.contracts import Dataset, Posterior, Shape, Split, Stream, Task
from mmrobust.testing.check import check
from mmrobust.testing.comparing import quiet_random, same
from mmrobust.testing.failures import Blocked, Failed, NotApplicable
from mmrobust.testing.subject import Subject


@check(Dataset)
def check_dataset_splits(subject: Subject) -> None:
    """There is a train split, others are called valid and test, and none is empty.

    The loop trains on `train`, chooses on `valid` and reports `test`, by these names.
    """
    splits = getattr(subject.dataset, "splits", None)
    if not isinstance(splits, Mapping) or not all(isinstance(s, Split) for s in splits.values()):
        raise Failed("self.splits, a mapping of names to Split", repr(type(splits).__name__))
    strange = set(splits) - {"train", "valid", "test"}
    if "train" not in splits or strange:
        raise Failed("splits train, valid, test (train at least)", ", ".join(splits))
    for name, split in splits.items():
        if not len(split):
            raise Failed(f"samples in split '{name}'", "none")


@check(Dataset)
def check_dataset_shapes(subject: Subject) -> None:
    """Features, masks, times, labels and ids have the shapes and types that the dataset declares.

    The model is built from the declared shapes before a sample is read.
    """
    dataset = subject.dataset
    modalities, task = getattr(dataset, "modalities", None), getattr(dataset, "task", None)
    if not modalities or not isinstance(modalities, Mapping):
        raise Failed("self.modalities, a mapping of names to Shape", repr(modalities))
    if not all(isinstance(shape, Shape) for shape in modalities.values()):
        raise Failed("self.modalities, a mapping of names to Shape", repr(modalities))
    if not isinstance(task, Task):
        raise Failed("self.task, a Task", repr(task))
    for name, split in dataset.splits.items():
        if set(split.features) != set(modalities):
            raise Failed(f"split '{name}' has {', '.join(modalities)}", ", ".join(split.features))
        for m, shape in modalities.items():
            _stream(split.features[m], shape, len(split), f"'{m}' of split '{name}'")
        if split.label is not None:
            shape = (len(split), task.outputs // 2) if task.kind == "multilabel" else (len(split),)
            shape = (len(split), task.outputs) if task.kind == "regression" and task.outputs > 1 else shape
            real, label = task.kind == "regression", split.label
            if tuple(label.shape) != shape or not (label.is_floating_point() if real else label.dtype == torch.int64):
                expected = f"labels of split '{name}' of shape {shape}, {'float' if real else 'int64'}"
                raise Failed(expected, f"{tuple(label.shape)}, {label.dtype}")
        elif name == "train":
            raise Failed("labels in split 'train'", "none")


@check(Dataset)
def check_dataset_values(subject: Subject) -> None:
    """Real steps are finite, and every sample has at least one real step in some modality.

    One NaN in one clip turns all weights into NaN; where files hold some, the dataset replaces them only if the
    recipe says how, and counts them.
    """
    dataset = _ready(subject)
    for name, split in dataset.splits.items():
        some = torch.zeros(len(split), dtype=torch.bool)
        for m, stream in split.features.items():
            bad = int((~stream.x.isfinite() & stream.mask.unsqueeze(-1)).sum())
            if bad:
                raise Failed(f"finite values in '{m}' of split '{name}'", f"{bad} NaN or infinite ones")
            some |= stream.mask.any(1)
        if not some.all():
            raise Failed(f"a real step in every sample of split '{name}'", f"{int((~some).sum())} samples have none")


@check(Dataset)
def check_dataset_labels(subject: Subject) -> None:
    """Labels are within what the task says, and the task is complete.

    A class number beyond the outputs fails inside a GPU kernel, with a message about an assertion in a CUDA file;
    scores clip to `low` and `high`.
    """
    dataset = _ready(subject)
    task: Task = dataset.task
    if task.outputs < 1:
        raise Failed("one output or more", str(task.outputs))
    if task.kind == "multilabel" and task.outputs % 2:
        raise Failed("two outputs for each yes-or-no decision", str(task.outputs))
    decisions = task.outputs // 2 if task.kind == "multilabel" else task.outputs
    if (task.kind != "regression" or task.outputs > 1) and task.names and len(task.names) != decisions:
        raise Failed(f"{decisions} names in the task", f"{len(task.names)}")
    for name, split in dataset.splits.items():
        if split.label is None:
            continue
        low, high = {
            "regression": (task.low, task.high),
            "classification": (0, task.outputs - 1),
            "multilabel": (0, 1),
        }[task.kind]
        if not split.label.isfinite().all():
            raise Failed(f"finite labels in split '{name}'", "NaN or infinity")
        least, most = split.label.min().item(), split.label.max().item()
        if (low is not None and least < low - 1e-6) or (high is not None and most > high + 1e-6):
            raise Failed(f"labels of split '{name}' from {low} to {high}", f"from {least:g} to {most:g}")


@check(Dataset)
def check_dataset_ids(subject: Subject) -> None:
    """Every sample of a split has a name of its own.

    Predictions are written by id; two samples of one name cannot be distinguished.
    """
    for name, split in _ready(subject).splits.items():
        ids = list(split.ids)
        twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
        if twice:
            raise Failed(
                f"unique ids in split '{name}'", f"{len(twice)} that occur more than once, such as '{twice[0]}'"
            )
        if not all(isinstance(i, str) for i in ids):
            raise Failed(f"ids of split '{name}' as text", repr(next(i for i in ids if not isinstance(i, str))))


@check(Dataset)
def check_dataset_repeatable(subject: Subject) -> None:
    """Opened again it gives the same data, whatever the global random state, and leaves that state alone.

    A split drawn anew at each start trains on what it tests on, in the next run.
    """
    first = _ready(subject)
    with quiet_random(77):
        before = torch.get_rng_state()
        second = subject.cls(**subject.options)
        if not torch.equal(before, torch.get_rng_state()):
            raise Failed("no number is drawn from the global random state", "it has moved on")
    for name, split in first.splits.items():
        other = second.splits.get(name)
        if other is None or list(split.ids) != list(other.ids) or not same(split.label, other.label):
            raise Failed("the same data when opened again", f"split '{name}' differs")
        for m, stream in split.features.items():
            if not same(stream.zeroed().x, other.features[m].zeroed().x):
                raise Failed("the same data when opened again", f"'{m}' of split '{name}' differs")


@check(Dataset)
def check_dataset_batches(subject: Subject) -> None:
    """A batch of it is float32, and has the samples of its index, in that order.

    It is what a model gets, from `float16` files too.
    """
    dataset = _ready(subject)
    split = dataset.splits["train"]
    index = torch.tensor([len(split) - 1, 0])
    batch = split.batch(index)
    for m, stream in batch.features.items():
        if stream.x.dtype != torch.float32:
            raise Failed(f"float32 features of '{m}'", f"{stream.x.dtype}")
        if not same(stream.zeroed().x, split.features[m].zeroed().x[index].float()):
            raise Failed("the samples of the index", f"others, in '{m}'")
    if not torch.equal(batch.index, index):
        raise Failed("batch.index is the index", str(batch.index.tolist()))


@check(Dataset)
def check_dataset_posterior(subject: Subject) -> None:
    """If the posterior is known, it is a distribution over the task's labels, and is the prior where all is erased.

    Reports draw it as the limit that no model can pass; a wrong one makes a good model look hopeless, or a leak look
    like skill.
    """
    dataset = _ready(subject)
    split = dataset.splits["train"]
    batch = split.batch(torch.arange(min(8, len(split))))
    clean = dataset.posterior("train", batch)
    if clean is None:
        raise NotApplicable("the posterior of this data is not known")
    _distribution(clean, len(batch), dataset.task)
    masks = {m: s.mask for m, s in batch.features.items()}
    erased = batch.noisy({m: s.without(masks[m]) for m, s in batch.features.items()}, masks)
    nothing_left = dataset.posterior("train", erased)
    _distribution(nothing_left, len(batch), dataset.task)
    if not torch.allclose(nothing_left.weights, nothing_left.weights[:1].expand_as(nothing_left.weights), atol=1e-9):
        raise Failed("the same posterior for every sample of which everything is erased", "it differs between samples")
    if torch.allclose(clean.weights, nothing_left.weights):
        raise Failed("a posterior that knows more of a clean sample than of an erased one", "they are the same")


def _ready(subject: Subject) -> Any:
    for basic in (check_dataset_splits, check_dataset_shapes):
        try:
            basic(subject)
        except Failed:
            raise Blocked(f"its data cannot be read, see {basic.name}") from None
    return subject.dataset


def _stream(stream: Any, shape: Shape, count: int, what: str) -> None:
    if not isinstance(stream, Stream):
        raise Failed(f"{what} is a Stream", type(stream).__name__)
    x, mask = stream.x, stream.mask
    fits = x.ndim == 3 and x.shape[0] == count and x.shape[1] <= shape.length and x.shape[2] == shape.width
    if not fits or not x.is_floating_point():
        raise Failed(
            f"{what} is float, ({count}, at most {shape.length}, {shape.width})", f"{tuple(x.shape)}, {x.dtype}"
        )
    if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
        raise Failed(f"the mask of {what} is bool, {tuple(x.shape[:2])}", f"{mask.dtype}, {tuple(mask.shape)}")
    if stream.times is not None and stream.times.shape != (*x.shape[:2], 2):
        raise Failed(f"times of {what} are {(*x.shape[:2], 2)}", str(tuple(stream.times.shape)))


def _distribution(posterior: Any, count: int, task: Task) -> None:
    if not isinstance(posterior, Posterior):
        raise Failed("a Posterior", type(posterior).__name__)
    values, weights = posterior.values, posterior.weights
    if values.ndim != 1 or weights.shape != (count, len(values)) or weights.dtype != torch.float64:
        raise Failed(f"float64 weights of shape ({count}, {len(values)})", f"{tuple(weights.shape)}, {weights.dtype}")
    if (weights < 0).any() or not torch.allclose(weights.sum(1), torch.ones(count, dtype=weights.dtype), atol=1e-6):
        sums = weights.sum(1)
        raise Failed("weights that are not negative and sum to one", f"sums from {sums.min():.4f} to {sums.max():.4f}")
    if task.kind == "regression":
        low, high = task.low, task.high
    else:
        low, high = 0, task.outputs - 1
    if (low is not None and values.min() < low - 1e-6) or (high is not None and values.max() > high + 1e-6):
        raise Failed(f"values from {low} to {high}", f"from {values.min():g} to {values.max():g}")
