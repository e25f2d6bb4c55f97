"""Folds of a cross-validation in which no group (speaker) is on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmrobust.data.tables import Array, Contents, Table
from mmrobust.errors import DataError, OptionError, nearest

Folds = dict[str, str | int | float] | list[list[str | int]]

_KEYS = ("by", "count", "valid", "seed")


def one_fold(contents: Contents, folds: Folds, fold: int) -> tuple[Contents, int]:
    """All samples of a file, divided anew: one fold's groups test, some of the others' validate, the rest train.

    Args:
        contents: The file; its own splits do not matter.
        folds: `{by: group, count: 5, valid: 0.15, seed: 0}`, or a list of the groups that test in each fold.
        fold: Which fold tests, from 1.

    Returns:
        The contents with the splits `train`, `valid` and `test`, and the number of folds.

    Raises:
        DataError: The file names no groups, or too few.
        OptionError: `folds` or `fold` is wrong.
    """
    table = _joined(contents)
    if table.groups is None:
        raise DataError(
            f"{contents.path}: for folds the file has to name the group of each sample: a key 'group', or ids such as "
            "'speaker$_$clip'"
        )
    share, seed = 0.15, 0
    if isinstance(folds, dict):
        count, share, seed = _settings(folds)
        tests = _divided(contents.path, table.groups, count, seed)
    else:
        tests = _listed(folds, table.groups)
    if not 1 <= fold <= len(tests):
        raise OptionError("fold", f"there is no fold {fold}; the data has folds 1 to {len(tests)}")
    test = tests[fold - 1]
    valid = _validation(contents.path, [g for g in table.groups if g not in test], share, seed + fold)
    split = np.array(["test" if g in test else "valid" if g in valid else "train" for g in table.groups])
    tables = {name: _rows(table, np.flatnonzero(split == name)) for name in ("train", "valid", "test")}
    note = f"fold {fold} of {len(tests)}: {_shown(test)} test, {_shown(valid)} validate, the others train"
    return replace(contents, tables=tables, notes=[*contents.notes, note]), len(tests)


def _settings(folds: dict[str, str | int | float]) -> tuple[int, float, int]:
    for key in folds:
        if key not in _KEYS:
            raise OptionError("folds", f"unknown key '{key}'{nearest(key, _KEYS)}")
    count, share, seed = folds.get("count", 5), folds.get("valid", 0.15), folds.get("seed", 0)
    if folds.get("by", "group") != "group":
        raise OptionError("folds", f"by has to be group, not '{folds['by']}'")
    if type(count) is not int or count < 2:
        raise OptionError("folds", f"count has to be a whole number from 2, not {count}")
    if isinstance(share, str) or not 0 < share < 1:
        raise OptionError("folds", f"valid has to be a share of the other samples between 0 and 1, not {share}")
    if type(seed) is not int or seed < 0:
        raise OptionError("folds", f"seed has to be a whole number from 0, not {seed}")
    return count, float(share), seed


def _divided(path: Path, groups: Sequence[str], count: int, seed: int) -> list[set[str]]:
    """The groups of each fold: in an order of the seed, the largest first into the fold with the fewest samples."""
    sizes = {g: groups.count(g) for g in dict.fromkeys(groups)}
    if len(sizes) < count + 1:
        raise DataError(f"{path}: {count} folds need at least {count + 1} groups, and there are {len(sizes)}")
    order = np.random.default_rng(seed).permutation(sorted(sizes))
    folds: list[set[str]] = [set() for _ in range(count)]
    filled = [0] * count
    for g in sorted(order.tolist(), key=lambda g: -sizes[g]):  # stable: equal sizes keep the seed's order
        k = filled.index(min(filled))
        folds[k].add(g)
        filled[k] += sizes[g]
    return folds


def _listed(folds: Sequence[Sequence[str | int]], groups: Sequence[str]) -> list[set[str]]:
    there = set(groups)
    tests = [{str(g) for g in fold} for fold in folds]
    for fold in tests:
        unknown = sorted(fold - there)
        if unknown:
            raise OptionError("folds", f"there is no group '{unknown[0]}' in the data{nearest(unknown[0], there)}")
        if not fold or len(there - fold) < 2:
            raise OptionError("folds", "each fold needs a group that tests, and two that do not")
    if not tests:
        raise OptionError("folds", "the list of folds is empty")
    return tests


def _validation(path: Path, groups: Sequence[str], share: float, seed: int) -> set[str]:
    """Groups that hold about `share` of the samples, drawn by the seed; at least one, and not all."""
    sizes = {g: groups.count(g) for g in sorted(set(groups))}
    if len(sizes) < 2:
        raise DataError(f"{path}: a fold needs two groups beside those that test: one that trains, one that validates")
    chosen: set[str] = set()
    total = 0
    for g in np.random.default_rng(seed).permutation(list(sizes)).tolist():
        if chosen and (total + sizes[g] / 2 > share * len(groups) or len(chosen) == len(sizes) - 1):
            break
        chosen.add(g)
        total += sizes[g]
    return chosen


def _joined(contents: Contents) -> Table:
    """All splits as one table; modalities are padded to the longest."""
    parts = list(contents.tables.values())
    longest = {m: max(t.features[m].shape[1] for t in parts) for m in parts[0].features}

    def join(arrays: list[Array], m: str) -> Array:
        padded = [np.pad(a, [(0, 0), (0, longest[m] - a.shape[1]), *[(0, 0)] * (a.ndim - 2)]) for a in arrays]
        return padded[0] if len(padded) == 1 else np.concatenate(padded)

    groups = [t.groups for t in parts]
    labels = [t.label for t in parts]
    return Table(
        {m: join([t.features[m] for t in parts], m) for m in longest},
        {m: join([t.masks[m] for t in parts], m) for m in longest},
        None if any(x is None for x in labels) else np.concatenate([x for x in labels if x is not None]),
        tuple(name for t in parts for name in t.ids),
        {m: join([t.times[m] for t in parts], m) for m in parts[0].times if all(m in t.times for t in parts)},
        None if any(g is None for g in groups) else tuple(g for part in groups if part is not None for g in part),
    )


def _rows(table: Table, rows: Array) -> Table:
    return Table(
        {m: x[rows] for m, x in table.features.items()},
        {m: x[rows] for m, x in table.masks.items()},
        None if table.label is None else table.label[rows],
        tuple(table.ids[i] for i in rows),
        {m: x[rows] for m, x in table.times.items()},
        None if table.groups is None else tuple(table.groups[i] for i in rows),
    )


def _shown(groups: set[str]) -> str:
    names = sorted(groups, key=lambda g: (len(g), g))
    return ", ".join(names) if len(names) <= 8 else f"{len(names)} groups ({', '.join(names[:3])}, ...)"
