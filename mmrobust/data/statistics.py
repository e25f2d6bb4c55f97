"""Location and spread of features over real steps, for standardising."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mmrobust.data.tables import Array, chunks

_IQR = 1.3489795  # interquartile range of a normal distribution with deviation 1
_ENOUGH = 8  # samples of a group from which its own statistics are taken as they are


@dataclass(frozen=True)
class Statistics:
    """Of each feature of one modality.

    Attributes:
        mean: Mean, or median, `w`.
        std: Standard deviation, or interquartile range over 1.349, `w`; 1 where nothing varies.
        dominated: Features whose variance a handful of values holds, with the largest of them.
    """

    mean: Array
    std: Array
    dominated: dict[int, float]


def moments(x: Array, mask: Array, together: bool = False) -> Statistics:
    """Mean and standard deviation over real, finite values.

    Args:
        x: `n t w`.
        mask: `n t`.
        together: One deviation for all features: the root of their mean variance.
    """
    count, total = _sums(x, mask)
    mean = total / np.maximum(count, 1)
    square, fourth = np.zeros((2, x.shape[2]))
    for chunk in chunks(len(x)):
        away = x[chunk][mask[chunk]].astype(np.float64)
        away -= mean
        np.square(away, out=away)
        if not np.isfinite(away).all():
            away[~np.isfinite(away)] = 0
        square += away.sum(0)
        fourth += np.einsum("nw,nw->w", away, away)
    std = np.sqrt(square / np.maximum(count, 1))
    # n / kurtosis is about how many values hold the variance.
    kurtosis = fourth * np.maximum(count, 1) / np.maximum(np.square(square), 1e-300)
    few = np.flatnonzero(kurtosis > np.maximum(100, count / 10)).tolist()
    dominated = {k: _furthest(x[..., k][mask], mean[k]) for k in few}
    if together:
        std = np.full_like(std, np.sqrt(np.square(std).mean()))
    return Statistics(mean, _varying(mean, std), dominated)


def _sums(x: Array, mask: Array) -> tuple[Array, Array]:
    """How many finite values each feature has in real steps, and their sum."""
    count, total = np.zeros((2, x.shape[2]))
    for chunk in chunks(len(x)):
        real = x[chunk][mask[chunk]].astype(np.float64)
        fine = np.isfinite(real)
        if fine.all():
            count += len(real)
        else:
            count += fine.sum(0)
            real[~fine] = 0
        total += real.sum(0)
    return count, total


def _furthest(values: Array, mean: float) -> float:
    """The finite value that lies furthest from the mean."""
    values = values[np.isfinite(values)].astype(np.float64)
    return float(values[np.abs(values - mean).argmax()])


def quartiles(x: Array, mask: Array, together: bool = False) -> Statistics:
    """Median and interquartile range (over 1.349, so that it is the deviation of a normal distribution).

    A few wild values do not move them. A feature of which more than half is one value has no such range; it gets its
    standard deviation.
    """
    usual = moments(x, mask)
    real = x[mask]
    low, middle, high = np.empty((3, x.shape[2]))
    for k in range(x.shape[2]):
        values = real[:, k].astype(np.float64)
        values = values[np.isfinite(values)]
        low[k], middle[k], high[k] = np.percentile(values, (25, 50, 75)) if len(values) else (0, 0, 0)
    std = (high - low) / _IQR
    std = np.where(std > 1e-6 * np.maximum(np.abs(middle), 1e-6), std, usual.std)
    if together:
        std = np.full_like(std, np.sqrt(np.square(std).mean()))
    return Statistics(middle, _varying(middle, std), {})


def _varying(mean: Array, std: Array) -> Array:
    return np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1.0)


def standardized(x: Array, mask: Array, mean: Array, std: Array, clip: float | None) -> Array:
    """`(x - mean) / std`, at most `clip` away from 0, padding zero; in the file's float16 where that holds the values.

    Args:
        x: `n t w`; changed in place where it is float32.
        mask: `n t`.
        mean: `w`, or `n w` for each sample its own.
        std: Likewise.
        clip: Largest absolute value.
    """
    mean, std = mean.astype(np.float32), std.astype(np.float32)
    largest = 0.0
    out = x if x.dtype == np.float32 else np.empty(x.shape, np.float32)
    for chunk in chunks(len(x)):
        m, s = (mean, std) if mean.ndim == 1 else (mean[chunk, None], std[chunk, None])
        part = (x[chunk] - m) / s
        if clip is not None:
            np.clip(part, -clip, clip, out=part)
        part[~mask[chunk]] = 0
        out[chunk] = part
        largest = max(largest, float(np.abs(part).max()))
    return out.astype(x.dtype) if largest < 6e4 else out


@dataclass(frozen=True)
class Sums:
    """What is known of the features of some samples; each has one row, or all have one together.

    Attributes:
        clips: Samples with a real step, `n 1`.
        steps: Real steps, `n 1`.
        total: Sum over the steps, relative to a centre, `n w`.
        square: Sum of squares, likewise.
    """

    clips: Array
    steps: Array
    total: Array
    square: Array

    @staticmethod
    def of(x: Array, mask: Array, centre: Array) -> Sums:
        """One row for each sample of `n t w`."""
        steps = mask.sum(1).astype(np.float64)[:, None]
        total, square = np.zeros((2, len(x), x.shape[2]))
        for chunk in chunks(len(x), 64):
            part = np.where(mask[chunk, :, None], x[chunk].astype(np.float64) - centre, 0)
            total[chunk], square[chunk] = part.sum(1), np.square(part).sum(1)
        return Sums((steps > 0).astype(np.float64), steps, total, square)

    def map(self, f: Callable[[Array], Array]) -> Sums:
        """The same with `f` applied to each array."""
        return Sums(f(self.clips), f(self.steps), f(self.total), f(self.square))

    def plus(self, other: Sums) -> Sums:
        """Of these samples and the others."""
        return Sums(
            self.clips + other.clips, self.steps + other.steps, self.total + other.total, self.square + other.square
        )

    def by_group(self, groups: tuple[str, ...]) -> dict[str, Sums]:
        """One row for each group of the samples."""
        rows = _rows(groups)
        return {group: self.map(lambda v, i=i: v[i].sum(0, keepdims=True)) for group, i in rows.items()}


def _rows(groups: tuple[str, ...]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        rows.setdefault(group, []).append(i)
    return rows


def by_group(
    x: Array,
    mask: Array,
    groups: tuple[str, ...],
    usual: tuple[Array, Array],
    earlier: bool,
    enrolled: Mapping[str, Sums],
) -> tuple[Array, Array]:
    """Mean and deviation for each sample, from the samples of its group.

    A group of `n` samples, fewer than eight, has its own statistics to a share of `n / 8` and the training split's for
    the rest, so that a single clip is not measured by itself.

    Args:
        x: `n t w`.
        mask: `n t`.
        groups: Of each sample.
        usual: Mean and deviation of the training split, `w`.
        earlier: Use the group's samples before this one in the file's order alone, so that nothing of the future, nor
            the sample itself, is known.
        enrolled: What is known of some groups from other samples, relative to the usual mean.

    Returns:
        `n w` twice.
    """
    sums = Sums.of(x, mask, usual[0])
    mean, std = np.empty_like(sums.total), np.empty_like(sums.total)
    for group, rows in _rows(groups).items():
        if earlier:
            known = sums.map(lambda v, i=rows: np.cumsum(v[i], 0) - v[i])
        else:
            known = sums.map(lambda v, i=rows: v[i].sum(0, keepdims=True))
        known = known.plus(enrolled[group]) if group in enrolled else known
        share = np.minimum(known.clips / _ENOUGH, 1)
        count = np.maximum(known.steps, 1)
        away = known.total / count
        variance = np.maximum(known.square / count - np.square(away), 0)
        mean[rows] = usual[0] + share * away
        std[rows] = np.sqrt(share * variance + (1 - share) * np.square(usual[1]))
    return mean, _varying(mean, std)
