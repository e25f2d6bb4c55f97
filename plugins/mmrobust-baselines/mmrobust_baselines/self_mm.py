"""Self-MM: Yu, Xu, Yuan, Wu (2021), "Learning modality-specific representations with self-supervised multi-task
learning for multimodal sentiment analysis".

Its parts: one vector for each modality (an LSTM for audio and vision; the mean of pre-computed features stands for
fine-tuned BERT's first token), their concatenation through one ReLU layer, a linear head, and
an objective that owns the unimodal heads, generates their labels and stores them for each sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmrobust.contracts import Context, Fusion, Objective, Outputs, Progress, Shape, Stream, Streams
from mmrobust.errors import OptionError
from torch import Tensor, nn

from mmrobust_baselines.layers import Reading, by_name, joined, perceptron


class ConcatMLP(Fusion):
    """F_m* = ReLU(W [F_t; F_a; F_v] + b): all vectors side by side through one layer.

    Gives `b 1 hidden`. Streams of more steps are averaged first.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Width of the layer.
        dropout: Share of the concatenation dropped in training.
    """

    def __init__(self, context: Context, *, hidden: int = 128, dropout: float = 0.0) -> None:
        super().__init__(context)
        shapes = joined(context.generic, context.specific)
        self.keys = tuple(shapes)
        self.layer = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(sum(s.width for s in shapes.values()), hidden), nn.ReLU()
        )
        self.shape = Shape(hidden, 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = joined(generic, specific)
        return Stream.pooled(self.layer(torch.cat([streams[key].mean() for key in self.keys], -1)))


class UnimodalLabels(Objective):
    """Unimodal tasks whose labels are generated from the multimodal label and updated during training.

    For each modality s: F_s* = ReLU(W F_s + b), y'_s = W F_s* + b. Labels begin as the
    multimodal ones. From the second time that a sample is seen, with C^p and C^n the mean stored representations of
    positive and negative samples, D^p = |F* - C^p|^2 / sqrt(d) and
    a = (D^n - D^p) / (D^p + eps), the new label is the mean of the ratio and the difference form, y_s = y_m a_s / (2
    a_m) + (y_m + a_s - a_m) / 2, and is blended in: at the i-th time,
    y^(i) = (i - 1)/(i + 1) y^(i-1) + 2/(i + 1) y_s. The loss is the mean over the batch of
    sum_s tanh(|y_s - y_m|) |y'_s - y_s| (the task's own term is the `task` objective with `loss: mae`).

    With `reading: release`, what the authors trained: the unimodal heads have one more layer, y'_s = W ReLU(W F_s* + b)
    + b; D is the plain Euclidean distance; and a sample is positive or negative for the centres of a modality by that
    modality's own generated label. With `paper` all centres go by the multimodal label.

    How it was read, in both: the order within a step is that of algorithm 1, but that representations and labels are
    those before the optimizer's step; the centres are computed again from the memory at each step, over samples seen so
    far; labels are clipped to the labels' range (the release clips to [-3, 3]), without which the ratio explodes where
    a_m is near zero; where a range does not hold zero, "positive" is above its middle. Stored representations are
    without dropout, where the release stores those of the training pass.

    The paper has regressions only. For classes the same idea is: one centre for each class, r = softmax(-D) over
    classes in place of a, the difference form on distributions, y_s = onehot(y_m) + r_s - r_m (which sums to one;
    negative parts are cut and the rest scaled), the same blending, and cross-entropy weighted by
    tanh(|y_s - onehot(y_m)|_1).

    Args:
        context: Shapes, task and settings of the model.
        hidden: Width of the unimodal representations F_s*, for all modalities or by name (32 for those left out).
        dropout: Share of F_s dropped before its layer in training, for all modalities or by name.
        epsilon: What keeps divisions finite.
        reading: `release` or `paper`, see above.

    Raises:
        OptionError: There are no specific features for each modality, or the task is several decisions.
    """

    labels: Tensor
    seen: Tensor
    truth: Tensor
    memory_fused: Tensor

    def __init__(
        self,
        context: Context,
        *,
        hidden: int | dict[str, int] = 32,
        dropout: float | dict[str, float] = 0.0,
        epsilon: float = 1e-8,
        reading: Reading = "release",
    ) -> None:
        super().__init__(context)
        if set(context.specific) != set(context.modalities):
            raise OptionError("use", "needs a specific extractor that gives one stream for each modality")
        if context.task.kind == "multilabel":
            raise OptionError("use", "generates labels of a regression or of classes, not of several decisions at once")
        assert context.fused is not None
        self.modalities = context.modalities
        task = context.task
        self.classes = task.outputs if task.kind == "classification" else 0
        low, high = task.low, task.high
        self.range = None if low is None or high is None else (low, high)
        self.middle = 0.0 if self.range is None or self.range[0] < 0 < self.range[1] else sum(self.range) / 2
        self.epsilon = epsilon
        width = self.classes or 1
        self.release = reading == "release"
        sizes = by_name("hidden", hidden, self.modalities, 32)
        shares = by_name("dropout", dropout, self.modalities, 0.0)
        self.layers = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Dropout(shares[m]), nn.Linear(context.specific[m].width, sizes[m]), nn.ReLU())
                for m in self.modalities
            }
        )
        self.heads = nn.ModuleDict(
            {m: nn.Sequential(*perceptron(d, d, int(self.release)), nn.Linear(d, width)) for m, d in sizes.items()}
        )
        self.register_buffer("labels", torch.zeros(context.samples, len(self.modalities), width))
        self.register_buffer("seen", torch.zeros(context.samples, dtype=torch.int64))
        self.register_buffer("memory_fused", torch.zeros(context.samples, context.fused.width))
        for m in self.modalities:
            self.register_buffer(f"memory_{m}", torch.zeros(context.samples, sizes[m]))
        self.register_buffer("truth", torch.zeros(context.samples))

    def _target(self, label: Tensor) -> Tensor:
        """The multimodal label as it is remembered, `b 1` or one-hot `b c`."""
        if self.classes:
            return F.one_hot(label.long(), self.classes).to(self.labels.dtype)
        return label.to(self.labels.dtype).unsqueeze(1)

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None and out.batch.label is not None
        index = out.batch.index
        truth = self._target(out.batch.label)
        known = (self.seen[index] > 0).view(-1, 1, 1)
        labels = torch.where(known, self.labels[index], truth.unsqueeze(1))
        losses = []
        for i, m in enumerate(self.modalities):
            predicted = self.heads[m](self.layers[m](out.specific[m].mean()))
            label = labels[:, i]
            weight = torch.tanh((label - truth).abs().sum(-1))
            if self.classes:
                error = F.cross_entropy(predicted, label, reduction="none")
            else:
                error = (predicted - label).abs().squeeze(-1)
            losses.append((weight * error).mean())
        return torch.stack(losses).sum()

    def update(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> None:
        assert out.batch is not None and out.batch.label is not None
        index, label = out.batch.index, out.batch.label
        target = self._target(label)
        dtype = self.memory_fused.dtype
        fused = out.fused.mean().to(dtype)
        # A representation without dropout, so that memory does not depend on luck.
        unimodal = {m: self._unimodal(m, out.specific[m].mean().to(dtype)) for m in self.modalities}
        whole = self._position(self.memory_fused, fused, self.truth)
        times = self.seen[index].to(target.dtype).view(-1, 1)
        for i, m in enumerate(self.modalities):
            before = self.labels[index, i]
            sides = self.labels[:, i, 0] if self.release and not self.classes else self.truth
            new = self._label(target, self._position(self.get_buffer(f"memory_{m}"), unimodal[m], sides), whole)
            blended = (times * before + 2 * new) / (times + 2)  # the i-th time is times + 1
            usable = (times > 0) & new.isfinite().all(-1, keepdim=True)
            self.labels[index, i] = torch.where(usable, blended, torch.where(times > 0, before, target))
            self.get_buffer(f"memory_{m}")[index] = unimodal[m]
        self.memory_fused[index] = fused
        self.truth[index] = label.to(self.truth.dtype)
        self.seen[index] += 1

    def _unimodal(self, modality: str, x: Tensor) -> Tensor:
        """F_s* without dropout."""
        layer = self.layers[modality]
        assert isinstance(layer, nn.Sequential)
        return layer[2](layer[1](x))

    def _position(self, memory: Tensor, x: Tensor, truth: Tensor) -> Tensor:
        """The relative distance of representations `b d` to the centres: a, `b 1`, or r, `b c`; NaN without a centre.

        Args:
            memory: Stored representations of all samples, `n d`.
            x: Representations of this batch, `b d`.
            truth: The labels that say to which centre a stored sample belongs, `n`.
        """
        seen = self.seen > 0
        if self.classes:
            groups = F.one_hot(truth.long(), self.classes).to(x.dtype) * seen.unsqueeze(1)
        else:
            side = truth - self.middle
            groups = torch.stack([side > 0, side < 0], 1).to(x.dtype) * seen.unsqueeze(1)
        count = groups.sum(0)
        centres = (groups.T @ memory) / count.clamp(min=1).unsqueeze(1)
        distance = torch.linalg.vector_norm(x.unsqueeze(1) - centres, dim=-1)
        if not self.release:
            distance = distance.square() / x.shape[-1] ** 0.5
        if self.classes:
            # A class without a sample so far has no centre.
            scores = torch.where(count > 0, -distance, torch.finfo(x.dtype).min).softmax(-1)
            return scores if bool(seen.any()) else scores * torch.nan
        positive, negative = distance.unbind(1)
        a = (negative - positive) / (positive + self.epsilon)
        return torch.where((count > 0).all(), a, torch.nan).unsqueeze(1)

    def _label(self, target: Tensor, own: Tensor, whole: Tensor) -> Tensor:
        """The new unimodal label (or its form for classes)."""
        if self.classes:
            new = (target + own - whole).clamp(min=0)
            return new / new.sum(-1, keepdim=True)
        y = target - self.middle
        new = y * own / (2 * (whole + self.epsilon)) + (y + own - whole) / 2 + self.middle
        return new if self.range is None else new.clamp(*self.range)
