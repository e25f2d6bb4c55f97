"""Small streams and contexts for the tests of parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from mmrobust.contracts import Batch, Context, Dataset, Outputs, Progress, Shape, Split, Stream, Streams, Task
from mmrobust.model.assemble import part_builder

REGRESSION = Task("regression", 1, "mosi", -3.0, 3.0)
CLASSES = Task("classification", 3, "classification")
PROGRESS = Progress(1, torch.tensor(0.5))


def context(
    shapes: Mapping[str, Shape], *, generic: Mapping[str, Shape] | None = None, task: Task = REGRESSION, **changes: Any
) -> Context:
    """A context whose raw, encoded and specific shapes are all the same; `generic` is empty unless given."""
    base = Context(
        modalities=tuple(shapes),
        task=task,
        width=8,
        features=shapes,
        samples=16,
        encoded=shapes,
        generic=generic or {},
        specific=shapes,
        build=part_builder,
    )
    return replace(base, **changes)


def streams(shapes: Mapping[str, Shape], count: int = 4, *, seed: int = 0, full: bool = False) -> Streams:
    """Random streams; sample i of modality k has `(i + k) % 3` steps of padding unless `full`."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for k, (key, shape) in enumerate(shapes.items()):
        x = torch.randn(count, shape.length, shape.width, generator=generator)
        gone = torch.tensor([0 if full else (i + k) % 3 for i in range(count)])
        size = (shape.length - gone).clamp(min=1)
        result[key] = Stream(x, torch.arange(shape.length) < size.unsqueeze(1)).zeroed()
    return result


def pooled(*widths: int) -> dict[str, Shape]:
    """Shapes of modalities a, b, c, ... of one step."""
    return {name: Shape(width, 1) for name, width in zip("abcd", widths, strict=False)}


def outputs(specific: Streams, *, generic: Streams | None = None, label: torch.Tensor | None = None) -> Outputs:
    """The outputs of a pass with these features."""
    count = next(iter(specific.values())).x.shape[0]
    batch = Batch.fresh(specific, torch.zeros(count) if label is None else label)
    fused = Stream.pooled(torch.cat([s.mean() for s in specific.values()], -1))
    return Outputs(specific, generic or {}, specific, fused, torch.zeros(count, 1), {}, batch)


class RandomData(Dataset):
    """Filled by `random_data`."""

    def __init__(self) -> None:
        pass


def random_data(task: Task, shapes: dict[str, Shape], aligned: bool) -> RandomData:
    """Random data of these shapes, twelve samples to train on."""
    dataset = RandomData()
    dataset.modalities, dataset.aligned, dataset.task = shapes, aligned, task
    dataset.splits = {}
    random = torch.Generator().manual_seed(0)
    for split, count in {"train": 12, "valid": 4, "test": 4}.items():
        x = streams(shapes, count)
        size = (count, 4) if task.kind == "multilabel" else (count,)
        label = torch.randint(0, 2 if task.kind == "multilabel" else 3, size, generator=random)
        dataset.splits[split] = Split(x, label, tuple(map(str, range(count))))
    return dataset


def timm_works() -> bool:
    """Whether timm can be imported: it imports torchvision, which fails in many ways."""
    try:
        import timm  # noqa: F401
    except Exception:
        return False
    return True


def need_timm() -> None:
    """Skips the test where timm cannot be imported."""
    if not timm_works():
        pytest.skip("timm cannot be imported")
