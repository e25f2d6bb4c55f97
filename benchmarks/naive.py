"""NORM-TR as one writes it from the paper: the reference that benchmarks divide by.

The same mathematics as the recipe `normtr`, in plain PyTorch and nothing but PyTorch: one pass for each view, softmax
attention, masks made sample by sample in Python, a `DataLoader` that feeds, AdamW's default loop, and a sweep that runs
the loader once for each rate and draw. `tests/test_naive.py` holds that its loss, gradients and predictions are ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

Sequences = dict[str, Tensor]


class GradientReversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class MLP(nn.Module):
    """Two layers, each followed by Leaky ReLU (section 3.3.1)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, out)
        self.second = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.second(F.leaky_relu(self.first(x))))


class Block(nn.Module):
    """One pre-norm Transformer block: queries from the NRGF, keys and values from the MFs (section 3.4.1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query = nn.LayerNorm(width)
        self.norm_source = nn.LayerNorm(width)
        self.norm_feed = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        split = lambda t: t.view(*t.shape[:2], self.heads, -1).transpose(1, 2)
        normed = self.norm_source(source)
        query = split(self.query(self.norm_query(x)))
        key, value = split(self.key(normed)), split(self.value(normed))
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        return x + self.down(F.gelu(self.up(self.norm_feed(x))))


class NormTR(nn.Module):
    """The whole of section 3: model and both discriminators.

    Args:
        widths: Feature width of each modality.
        length: Most steps of any modality.
        width: N.
        depth: Blocks.
        heads: Heads.
        outputs: Classes, or 1 for a regression.
        pool: What the discriminators read: all steps in a row, or the mean of the real ones.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        length: int,
        width: int = 256,
        depth: int = 2,
        heads: int = 8,
        outputs: int = 1,
        pool: Literal["flatten", "mean"] = "flatten",
    ) -> None:
        super().__init__()
        half = width // 2
        self.modalities, self.length, self.pool = list(widths), length, pool
        self.g = nn.ModuleDict({m: nn.Linear(n, width) for m, n in widths.items()})
        self.generic = MLP(width, half)
        self.specific = nn.ModuleDict({m: MLP(width, half) for m in widths})
        self.query_position = nn.Parameter(0.02 * torch.randn(1, length, half))
        self.source_position = nn.Parameter(0.02 * torch.randn(1, length, half))
        self.blocks = nn.ModuleList(Block(half, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(half)
        self.head = nn.Linear(half, outputs)
        read = half * (length if pool == "flatten" else 1)
        self.explain = nn.ModuleDict({m: MLP(half, half) for m in widths})
        self.which_modality = nn.Linear(read, len(widths))
        self.is_noisy = nn.Linear(read, 1)

    def forward(self, features: Sequences, masks: Sequences) -> tuple[Tensor, Sequences, Sequences]:
        """The prediction `b c`, the NRGF and the MFs `{m: b t d}`."""
        encoded = {m: self.g[m](features[m]) for m in self.modalities}
        generic = {m: self.generic(encoded[m]) for m in self.modalities}
        specific = {m: self.specific[m](encoded[m]) for m in self.modalities}
        position = lambda table, x: x + table[:, : x.shape[1]]
        x = torch.cat([position(self.query_position, generic[m]) for m in self.modalities], 1)
        source = torch.cat([position(self.source_position, specific[m]) for m in self.modalities], 1)
        mask = torch.cat([masks[m] for m in self.modalities], 1)
        for block in self.blocks:
            x = block(x, source, mask)
        return self.head(self.norm(mean(x, mask))), generic, specific

    def read(self, x: Tensor, mask: Tensor) -> Tensor:
        """What a discriminator sees of a sequence."""
        if self.pool == "mean":
            return mean(x, mask)
        return F.pad(x * mask.unsqueeze(-1), (0, 0, 0, self.length - x.shape[1])).flatten(1)

    def modality_loss(self, generic: Sequences, specific: Sequences, masks: Sequences) -> Tensor:
        """Equation 6."""
        losses = []
        for i, m in enumerate(self.modalities):
            explained = self.explain[m](GradientReversal.apply(generic[m]))
            for x in (explained, specific[m].detach()):
                logits = self.which_modality(self.read(x, masks[m]))
                losses.append(F.cross_entropy(logits, torch.full((len(x),), i)))
        return torch.stack(losses).mean()

    def noise_loss(self, generic: Sequences, masks: Sequences, erased: Sequences) -> Tensor:
        """Equation 7."""
        logits, targets = [], []
        for m in self.modalities:
            logits.append(self.is_noisy(self.read(GradientReversal.apply(generic[m]), masks[m])))
            targets.append(erased[m].any(1, keepdim=True).to(generic[m].dtype))
        return F.binary_cross_entropy_with_logits(torch.cat(logits, 1), torch.cat(targets, 1))


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real steps."""
    weight = mask.unsqueeze(-1).to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


def task_loss(prediction: Tensor, label: Tensor) -> Tensor:
    """Equation 8."""
    if label.is_floating_point():
        return F.mse_loss(prediction.squeeze(-1), label)
    return F.cross_entropy(prediction, label)


@dataclass
class Samples(Dataset):
    """A split, sample by sample."""

    features: Sequences
    masks: Sequences
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Sequences, Sequences, Tensor]:
        features = {m: x[index] for m, x in self.features.items()}
        return features, {m: mask[index] for m, mask in self.masks.items()}, self.labels[index]


def window(mask: Tensor) -> Tensor:
    """A window of up to half of one sample's real steps, `t`."""
    real = int(mask.sum())
    size = random.randint(0, real // 2)
    start = random.randint(0, real - size)
    erased = torch.zeros(len(mask), dtype=torch.bool)
    erased[start : start + size] = True
    return erased


def type_1(masks: Sequences) -> Sequences:
    """Every modality of every sample loses a window (section 3.5.1)."""
    return {m: torch.stack([window(row) for row in mask]) for m, mask in masks.items()}


def type_2(masks: Sequences) -> Sequences:
    """One modality of every sample loses a window (section 3.5.1)."""
    erased = {m: torch.zeros_like(mask) for m, mask in masks.items()}
    for i in range(len(next(iter(masks.values())))):
        m = random.choice(list(masks))
        erased[m][i] = window(masks[m][i])
    return erased


def frame_drop(masks: Sequences, rate: float) -> Sequences:
    """Every step is lost with the rate's probability (section 4.6)."""
    return {m: torch.stack([torch.rand(len(row)) < rate for row in mask]) & mask for m, mask in masks.items()}


def erase(features: Sequences, erased: Sequences) -> Sequences:
    """V: the features times a mask (section 3.5.1)."""
    return {m: x * (~erased[m]).unsqueeze(-1) for m, x in features.items()}


def loss(
    model: NormTR, features: Sequences, masks: Sequences, label: Tensor, first: Sequences, second: Sequences
) -> Tensor:
    """Equation 9, given what Type-1 and Type-2 noise erase; each view is trained for the task."""
    prediction, generic, specific = model(erase(features, first), masks)
    total = task_loss(prediction, label) + model.modality_loss(generic, specific, masks)
    prediction, generic, _ = model(erase(features, second), masks)
    return total + task_loss(prediction, label) + model.noise_loss(generic, masks, second)


def adamw(model: NormTR, lr: float = 1e-4, weight_decay: float = 0.01) -> torch.optim.AdamW:
    """The default loop over parameters; no decay of biases and norms."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, foreach=False, fused=False)


def loader(samples: Samples, batch_size: int, shuffle: bool) -> DataLoader:
    return DataLoader(samples, batch_size, shuffle=shuffle, collate_fn=default_collate)


def step(model: NormTR, optimizer: torch.optim.Optimizer, batch: Sequence[Any], clip: float = 1.0) -> float:
    """One step of training on a batch of the loader."""
    features, masks, label = batch
    total = loss(model, features, masks, label, type_1(masks), type_2(masks))
    optimizer.zero_grad()
    total.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return total.item()


def epoch(model: NormTR, optimizer: torch.optim.Optimizer, feed: DataLoader) -> float:
    """The mean loss of one epoch."""
    model.train()
    return sum(step(model, optimizer, batch) for batch in feed) / len(feed)


@torch.no_grad()
def sweep(
    model: NormTR,
    samples: Samples,
    rates: Sequence[float],
    draws: int,
    batch_size: int,
    noise: Callable[[Sequences, float], Sequences] = frame_drop,
) -> Tensor:
    """Predictions under every rate and draw, `r d n c`."""
    model.eval()
    result = []
    for rate in rates:
        for _ in range(draws):
            predictions = []
            for features, masks, _ in loader(samples, batch_size, shuffle=False):
                predictions.append(model(erase(features, noise(masks, rate)), masks)[0])
            result.append(torch.cat(predictions))
    return torch.stack(result).view(len(rates), draws, len(samples), -1)
