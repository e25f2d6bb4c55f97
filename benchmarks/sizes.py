"""The sizes that are measured: made-up data shaped like the paper's, and NORM-TR on it, ours and the naive one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import naive
from mmrobust import recipe as recipes
from mmrobust.contracts import Dataset, Shape, Split, Stream, Task
from mmrobust.model.assemble import Built, build


@dataclass(frozen=True)
class Size:
    """What a benchmark runs on.

    Attributes:
        shapes: Steps and width of each modality.
        classes: None for a regression.
        train: Samples of the training split.
        test: Samples of the test split.
        depth: Blocks of the fusion.
        aligned: Whether step i of every modality is the same moment.
    """

    shapes: Mapping[str, tuple[int, int]]
    classes: int | None
    train: int
    test: int
    depth: int = 2
    aligned: bool = True


#: Steps, widths and depth of the paper's section 4.2 and 3.4.1; MOSEI in the unaligned lengths of MMSA's files.
SIZES = {
    "mosi": Size({"text": (50, 768), "audio": (50, 5), "vision": (50, 20)}, None, 1284, 686),
    "rml": Size({"audio": (8, 512), "vision": (8, 512)}, 6, 576, 144),
    "mosei": Size({"text": (50, 768), "audio": (500, 74), "vision": (500, 35)}, None, 64, 32, depth=4, aligned=False),
}


class MadeUp(Dataset):
    """Normal numbers of a size's shapes; a sample has at least half of the steps that there can be."""

    def __init__(self, size: Size, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.modalities = {m: Shape(width, length) for m, (length, width) in size.shapes.items()}
        self.aligned = size.aligned
        regression = Task("regression", 1, "mosi", -3.0, 3.0)
        self.task = regression if size.classes is None else Task("classification", size.classes, "classification")
        self.splits = {}
        for name, count in {"train": size.train, "valid": 16, "test": size.test}.items():
            share = 0.5 + 0.5 * torch.rand(count, 1, generator=random)
            features = {}
            for m, (length, width) in size.shapes.items():
                mask = torch.arange(length) < (share * length).round()
                features[m] = Stream(torch.randn(count, length, width, generator=random), mask).zeroed()
            label = 6 * torch.rand(count, generator=random) - 3
            if size.classes is not None:
                label = torch.randint(size.classes, (count,), generator=random)
            self.splits[name] = Split(features, label, tuple(map(str, range(count))))


#: The adversaries as the paper's text has them; the recipe's own are others (docs/normtr.md).
LITERAL = [
    "learning.views.type_1.objectives="
    "[task, {use: modality_adversary, explain: after, discriminator: {use: linear, pool: mean}}]",
    "learning.views.type_2.objectives=[task, {use: noise_adversary, discriminator: {use: linear, pool: mean}}]",
]


def ours(name: str, overrides: Sequence[str] = (), dataset: Dataset | None = None) -> Built:
    """The recipe `normtr`, 256 wide and with the paper's adversaries, on made-up data of a size; without dropout."""
    settings = ["model.width=256", f"model.fusion.depth={SIZES[name].depth}", "train.lr=1e-4", "evaluate.draws=10"]
    return build(recipes.load("normtr", [*settings, *LITERAL, *overrides]), dataset=dataset or MadeUp(SIZES[name]))


def naive_of(built: Built) -> naive.NormTR:
    """The naive model with the same weights."""
    state = renamed(dict(built.model.named_parameters()), dict(built.learning.named_parameters()))
    model = naive.NormTR(
        {m: shape.width for m, shape in built.context.features.items()},
        max(shape.length for shape in built.context.features.values()),
        built.context.width,
        depth=sum(name.endswith(".up.weight") for name in state),
        heads=built.recipe.model.fusion.options.get("heads", 8),
        outputs=built.context.task.outputs,
        pool="mean" if state["which_modality.weight"].shape[1] == built.context.width // 2 else "flatten",
    ).to(state["head.weight"].dtype)
    model.load_state_dict(state)
    return model


def samples(split: Split) -> naive.Samples:
    """A split for the naive loader."""
    assert split.label is not None
    return naive.Samples(
        {m: s.x for m, s in split.features.items()}, {m: s.mask for m, s in split.features.items()}, split.label
    )


#: Where our names begin, and the naive ones.
_NAMES = {
    "encoder.layers.": "g.",
    "generic.mlp.": "generic.",
    "specific.mlps.": "specific.",
    "fusion.queries.position": "query_position",
    "fusion.keys.position": "source_position",
    "fusion.blocks.": "blocks.",
    "head.norm.": "norm.",
    "head.linear.": "head.",
    "objectives.type_1/modality_adversary.explain.": "explain.",
    "objectives.type_1/modality_adversary.discriminator.linear.": "which_modality.",
    "objectives.type_2/noise_adversary.discriminator.linear.": "is_noisy.",
}


def renamed(model: Mapping[str, Tensor], learning: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters, or their gradients, by the names of the naive model; keys and values apart."""
    result = {}
    for name, value in {**model, **learning}.items():
        start = next(start for start in _NAMES if name.startswith(start))
        new = _NAMES[start] + name[len(start) :]
        if start.startswith(("generic.", "specific.")) or "explain" in start:
            new = new.replace(".0.", ".first.").replace(".2.", ".second.")
        new = new.replace(".attention.", ".").replace(".feed.0.", ".up.").replace(".feed.3.", ".down.")
        if ".key_value." in new:
            key, value = value.chunk(2)
            result[new.replace("key_value", "key")] = key
            new = new.replace("key_value", "value")
        result[new] = value
    return result


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter, zero where none arrived."""
    zero = lambda p: torch.zeros_like(p) if p.grad is None else p.grad
    return {name: zero(p) for name, p in module.named_parameters()}
