"""Datasets that lie in files: their content is selected, shortened, checked, standardised and becomes tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from mmrobust.contracts import Dataset, Shape, Split, Stream, Streams
from mmrobust.data import shortening, statistics
from mmrobust.data.concerns import concerns
from mmrobust.data.folds import Folds, one_fold
from mmrobust.data.new_samples import mask_what_is_missing, note_empty_samples
from mmrobust.data.preparation import Preparation
from mmrobust.data.shortening import Reduce, Steps
from mmrobust.data.tables import Array, Contents, Table, check_labels, check_widths, chunks, place
from mmrobust.errors import DataError, OptionError, nearest

Replace = Literal["zero", "mean"]
Scale = Literal["feature", "modality"]
Standardize = bool | list[str] | Literal["robust"] | dict[str, bool | str | list[str]]


@dataclass(frozen=True)
class FileOptions:
    """The options that all datasets in files have; each of them documents them for its users.

    Attributes:
        modalities: Which, in which order; None for all.
        length: Most steps, for all or some modalities.
        reduce: How some modalities are shortened.
        standardize: Whether, which, and by what features are standardised.
        scale: Whether a deviation is each feature's own, or that of the modality.
        clip: Largest absolute value after standardising, for all or some modalities.
        replace_nonfinite: What replaces NaN and infinities.
        folds: The folds of a cross-validation.
        fold: Which of them, from 1.
    """

    modalities: list[str] | None = None
    length: int | dict[str, int] | None = None
    reduce: dict[str, Reduce] | None = None
    standardize: Standardize = True
    scale: Scale | dict[str, Scale] = "feature"
    clip: float | dict[str, float] | None = None
    replace_nonfinite: Replace | None = None
    folds: Folds | None = None
    fold: int = 1


@dataclass(frozen=True)
class _Plan:
    """The options, each as it holds for each modality.

    Attributes:
        order: The modalities.
        lengths: Most steps of each.
        reduce: How each is shortened.
        scaled: Those that are standardised.
        robust: Whether by median and quartiles.
        groups: `all` or `earlier` for those that are standardised by the clips of each group.
        together: Those with one deviation for all features.
        clip: Largest absolute value of some.
    """

    order: list[str]
    lengths: dict[str, int]
    reduce: dict[str, Reduce]
    scaled: list[str]
    robust: bool
    groups: dict[str, str]
    together: set[str]
    clip: dict[str, float]


class FileDataset(Dataset):
    """A dataset that lies in a file.

    Subclasses set `layout`, implement `read`, and hand their options to `__init__`.

    Attributes:
        preparation: What new data for the same model needs; see `mmrobust.data.open_features`.
        fold_count: How many folds the data is divided into; None where it is not.
    """

    layout: ClassVar[str]
    _given: ClassVar[Preparation | None] = None  # set where new data is opened for a model that exists
    _enrolment: ClassVar[Path | None] = None  # clips of the new data's speakers that are not to be predicted

    preparation: Preparation
    fold_count: int | None = None

    def __init__(self, path: Path, options: FileOptions) -> None:
        self._path, self._options = Path(path), options
        if self._given is None and not self._path.exists():
            raise DataError(f"{path}: no such file; give the path of the data as data.path=FILE")
        try:
            self._open()
        except MemoryError as error:
            raise DataError(f"{path}: there is not enough memory to prepare it ({error})") from error

    @abstractmethod
    def read(self, path: Path) -> Contents:
        """Reads the whole file.

        Args:
            path: The file. Where `_given` is set it holds new samples, which need no labels.

        Raises:
            DataError: It is missing, damaged, hostile or of another layout.
        """

    def _open(self) -> None:
        given = self._given
        contents = self.read(self._path)
        if given is None and self._options.folds is not None:
            contents, self.fold_count = one_fold(contents, self._options.folds, self._options.fold)
        check_widths(contents)
        check_labels(contents)
        notes = [*contents.notes, *([] if given is not None else concerns(contents))]
        plan = self._plan(contents)
        mean, std, fill = ({}, {}, {}) if given is None else (given.mean, given.std, given.fill)
        tables = sorted(contents.tables.items(), key=lambda item: item[0] != "train")  # it gives the statistics
        parts: dict[str, Streams] = {split: {} for split, _ in tables}
        enrolled = {} if given is None else self._enrolled(plan, mean, fill, notes)
        whole: dict[str, Stream] = {}  # of the training split, all steps of modalities that are drawn anew
        widths: dict[str, int] = {}
        for m in plan.order:
            for split, table in tables:
                widths[m] = table.features[m].shape[2]
                steps = self._steps(split, m, table, plan, fill, notes)
                if given is None and split == tables[0][0] and m in plan.scaled:
                    measured = self._statistics(m, steps, plan, notes)
                    mean[m], std[m] = measured.mean.tolist(), measured.std.tolist()
                if m in mean:
                    steps.x = self._standardized(split, m, steps, table, plan, (mean[m], std[m]), enrolled, notes)
                parts[split][m] = steps.stream()
                if plan.reduce.get(m) == "random_segments":
                    if split == "train" and given is None:
                        whole[m] = parts[split][m]
                    parts[split][m] = shortening.middle(parts[split][m], plan.lengths[m])
        if given is not None:
            for split, table in tables:
                masks = {m: stream.mask.numpy() for m, stream in parts[split].items()}
                note_empty_samples(split, masks, table.ids, notes)
        elif plan.scaled:
            notes.append(self._how_standardized(plan))
        task = contents.task if given is None else given.task
        assert task is not None
        self.task = task
        kind = torch.float32 if task.kind == "regression" else torch.int64
        self.splits = {
            split: Split(
                parts[split],
                None if table.label is None else torch.from_numpy(np.ascontiguousarray(table.label)).to(kind),
                table.ids,
                _redraw(parts[split], whole, plan.lengths) if split == "train" and whole else None,
            )
            for split, table in contents.tables.items()
        }
        first = next(iter(parts.values()))
        self.modalities = {m: Shape(first[m].x.shape[2], plan.lengths[m]) for m in plan.order}
        masks = [[streams[m].mask for m in plan.order] for streams in parts.values()]
        self.aligned = len(set(plan.lengths.values())) == 1 and all(torch.equal(k[0], o) for k in masks for o in k[1:])
        self.notes = tuple(notes)
        self.preparation = given or Preparation(
            tuple(plan.order),
            task,
            widths,
            plan.lengths,
            dict(plan.reduce),
            mean,
            std,
            fill,
            plan.clip,
            plan.groups,
            tuple(m for m in plan.order if m in plan.together),
        )

    # ------------------------------------------------------------------ options

    def _plan(self, contents: Contents) -> _Plan:
        given, options = self._given, self._options
        order = self._order(contents)
        if given is not None:
            reduce: dict[str, Any] = dict(given.reduce)
            together = set(given.together)
            return _Plan(order, dict(given.length), reduce, [], False, given.groups, together, given.clip)
        reduce = _for_each("reduce", options.reduce or {}, order)
        scaled, robust, by = _standardize(options.standardize, order)
        if by and any(table.groups is None for table in contents.tables.values()):
            raise DataError(
                f"{self._path}: to standardise by group, the file has to name the group of each sample: a key 'group', "
                "or ids such as 'speaker$_$clip'"
            )
        return _Plan(
            order, self._lengths(contents, order), reduce, scaled, robust,
            dict.fromkeys(scaled, by) if by else {}, self._together(order), self._clip(scaled),
        )  # fmt: skip

    def _together(self, order: list[str]) -> set[str]:
        scale = self._options.scale
        scales = dict.fromkeys(order, scale) if isinstance(scale, str) else _for_each("scale", scale, order)
        return {m for m, how in scales.items() if how == "modality"}

    def _clip(self, scaled: list[str]) -> dict[str, float]:
        clip = self._options.clip
        if clip is None:
            return {}
        limits = dict.fromkeys(scaled, clip) if not isinstance(clip, dict) else _for_each("clip", clip, scaled)
        for m, limit in limits.items():
            if not 0 < limit < float("inf"):
                raise OptionError("clip", f"{limit} of {m} is no limit; give a number above 0, in standard deviations")
        return {m: float(limit) for m, limit in limits.items()}

    def _order(self, contents: Contents) -> list[str]:
        there = list(next(iter(contents.tables.values())).features)
        order = list(self._options.modalities or there)
        if len(set(order)) < len(order):
            raise OptionError("modalities", f"a modality is named twice: {', '.join(order)}")
        if self._given is not None:
            order = list(self._given.modalities)
        for split, table in contents.tables.items():
            for m in order:
                if m not in table.features:
                    raise DataError(f"{place(self._path, split)} has no modality '{m}'{nearest(m, table.features)}")
                width = table.features[m].shape[2]
                if self._given is not None and width != self._given.width[m]:
                    raise DataError(
                        f"{place(self._path, split, m)} is {width} wide, but the model was trained on features "
                        f"{self._given.width[m]} wide"
                    )
        return order

    def _lengths(self, contents: Contents, order: list[str]) -> dict[str, int]:
        length = self._options.length
        there = {m: max(table.features[m].shape[1] for table in contents.tables.values()) for m in order}
        wanted = dict.fromkeys(order, length) if isinstance(length, int) else _for_each("length", length or {}, order)
        for m, count in wanted.items():
            if count < 1:
                raise OptionError("length", f"{count} steps of {m} are too few; give at least 1")
            if isinstance(length, int) and there[m] == 1:
                continue  # a summary of the whole sample has no sequence to cut
            if count > there[m]:
                raise DataError(
                    f"{self._path}: length {count} is asked for, but '{m}' has only {there[m]} steps; "
                    f"give at most {there[m]}"
                )
        return {m: min(wanted.get(m, there[m]), there[m]) for m in order}

    # ------------------------------------------------------------------ one modality of one split

    def _steps(
        self, split: str, m: str, table: Table, plan: _Plan, fill: dict[str, list[float]], notes: list[str]
    ) -> Steps:
        """One modality of one split, shortened and finite, not yet standardised."""
        steps = self._finite(split, m, self._shortened(split, m, table, plan, notes), table, fill, notes)
        if plan.reduce.get(m) in ("mean", "mean_std"):
            steps = shortening.pool(steps, plan.lengths[m], plan.reduce[m] == "mean_std")
        return steps

    def _enrolled(
        self, plan: _Plan, mean: Mapping[str, list[float]], fill: dict[str, list[float]], notes: list[str]
    ) -> dict[str, dict[str, statistics.Sums]]:
        """What the enrolment clips say of each group, for each modality that is standardised by group."""
        if self._enrolment is None:
            return {}
        if not plan.groups:
            raise DataError(
                f"{self._enrolment}: this model does not standardise by group, so it takes no enrolment clips"
            )
        sums: dict[str, dict[str, statistics.Sums]] = {m: {} for m in plan.groups}
        contents = self.read(self._enrolment)
        self._order(contents)
        for split, table in contents.tables.items():
            if table.groups is None:
                raise DataError(
                    f"{place(self._enrolment, split)}: enrolment clips need a key 'group', or ids that name it"
                )
            for m in plan.groups:
                steps = self._steps(split, m, table, plan, fill, [])
                own = statistics.Sums.of(steps.x, steps.mask, np.asarray(mean[m])).by_group(table.groups)
                for group, known in own.items():
                    sums[m][group] = known.plus(sums[m][group]) if group in sums[m] else known
            notes.append(f"enrolment: {len(table.ids)} clips of {len(set(table.groups))} groups")
        return sums

    def _shortened(self, split: str, m: str, table: Table, plan: _Plan, notes: list[str]) -> Steps:
        """As many steps as the model takes, or all of them where they are still to be drawn or averaged."""
        times = table.times.get(m)
        steps = Steps(table.features.pop(m), table.masks[m], None if times is None else np.asarray(times, np.float32))
        how = plan.reduce.get(m, "truncate")
        long = int((steps.mask.sum(1) > plan.lengths[m]).sum())
        if self._given is not None and how == "truncate" and long:
            where = place(self._path, split, m)
            notes.append(f"{where}: {long} samples are cut to the {plan.lengths[m]} steps the model takes")
        if how in shortening.WHOLE:
            count = max(plan.lengths[m], steps.x.shape[1])
            steps = shortening.packed(shortening.select(steps, count, how))
        else:
            steps = shortening.select(steps, plan.lengths[m], how)
        steps.clear_padding()
        return steps

    def _finite(
        self, split: str, m: str, steps: Steps, table: Table, fill: dict[str, list[float]], notes: list[str]
    ) -> Steps:
        """The same without NaN and infinities: new samples are masked there, others need `replace_nonfinite`."""
        if self._given is not None:
            where = f"{split}, {m}"
            x, mask = mask_what_is_missing(where, steps.x, steps.mask, self._given.fill.get(m), notes)
            steps = Steps(x, mask, steps.times)
            steps.clear_padding()
            return steps
        replace = self._options.replace_nonfinite
        bad = self._not_finite(split, m, steps.x, steps.mask, table.ids, replace, notes)
        if replace is not None and m not in fill:
            means = statistics.moments(steps.x, steps.mask).mean if replace == "mean" else np.zeros(steps.x.shape[2])
            fill[m] = means.tolist()
        if bad is not None:
            steps.x[bad] = np.broadcast_to(np.asarray(fill[m], steps.x.dtype), steps.x.shape)[bad]
        return steps

    def _not_finite(
        self, split: str, m: str, x: Array, mask: Array, ids: Sequence[str], replace: Replace | None, notes: list[str]
    ) -> Array | None:
        where = place(self._path, split, m)
        if not mask.any():
            raise DataError(f"{where}: there is no real step in any sample")
        nan = infinite = 0
        samples: list[int] = []
        bad: Array | None = None
        for chunk in chunks(len(x)):
            part = x[chunk]
            wrong = ~np.isfinite(part) & mask[chunk, :, None]
            if wrong.any():
                bad = np.zeros(x.shape, bool) if bad is None else bad
                bad[chunk] = wrong
                nan += int((np.isnan(part) & wrong).sum())
                infinite += int((np.isinf(part) & wrong).sum())
                samples += (np.flatnonzero(wrong.any((1, 2))) + chunk.start).tolist()
        if bad is None:
            return None
        if nan + infinite == int(mask.sum()) * x.shape[2]:
            raise DataError(
                f"{where}: no value is finite ({nan} NaN, {infinite} infinite); extract these features anew"
            )
        count = f"{nan + infinite} values are not finite ({nan} NaN, {infinite} infinite), in {len(samples)} samples"
        if replace is None:
            raise DataError(
                f"{where}: {count}, the first of them '{ids[samples[0]]}'; "
                "to replace them, say replace_nonfinite: zero (or mean) in the recipe's data"
            )
        notes.append(f"{split}, {m}: {count}; replaced by {replace}")
        return bad

    def _statistics(self, m: str, steps: Steps, plan: _Plan, notes: list[str]) -> statistics.Statistics:
        measure = statistics.quartiles if plan.robust else statistics.moments
        measured = measure(steps.x, steps.mask, together=m in plan.together)
        if measured.dominated and m not in plan.clip:
            columns = [f"{value:.4g} in column {k}" for k, value in list(measured.dominated.items())[:3]]
            more = ", ..." if len(measured.dominated) > 3 else ""
            notes.append(
                f"{m}: a handful of values hold most of the spread of {len(measured.dominated)} of {steps.x.shape[2]} "
                f"columns ({', '.join(columns)}{more}), so that the other values hardly differ; "
                "standardize: robust (median and quartiles) or clip: 5 (deviations) lessens that"
            )
        return measured

    def _standardized(
        self,
        split: str,
        m: str,
        steps: Steps,
        table: Table,
        plan: _Plan,
        usual: tuple[list[float], list[float]],
        enrolled: Mapping[str, Mapping[str, statistics.Sums]],
        notes: list[str],
    ) -> Array:
        mean, std = np.asarray(usual[0]), np.asarray(usual[1])
        if m in plan.groups and table.groups is None:
            notes.append(f"{split}, {m}: no groups are named; standardised by the training split, not by group")
        elif m in plan.groups and table.groups is not None:
            earlier = plan.groups[m] == "earlier"
            mean, std = statistics.by_group(
                steps.x, steps.mask, table.groups, (mean, std), earlier, enrolled.get(m, {})
            )
            if m in plan.together:
                std = np.broadcast_to(np.sqrt(np.square(std).mean(1, keepdims=True)), std.shape)
        return statistics.standardized(steps.x, steps.mask, mean, std, plan.clip.get(m))

    @staticmethod
    def _how_standardized(plan: _Plan) -> str:
        which = ", ".join(plan.scaled)
        if not plan.groups:
            by = (
                "median and quartiles of the training split's real steps"
                if plan.robust
                else "the training split's real steps"
            )
            return f"{which}: standardised by {by}"
        if "all" in plan.groups.values():
            return (
                f"{which}: standardised by the real steps of each group's own samples, without labels; this is "
                "transductive: a group's samples have to be there before the first of them is predicted"
            )
        return f"{which}: standardised by the real steps of each group's earlier samples (in the file's order)"


def _redraw(features: Streams, whole: Streams, lengths: Mapping[str, int]) -> Callable[[torch.Generator], Streams]:
    """Draws the frames of an epoch for the modalities that are here as a whole; the others stay."""

    def draw(generator: torch.Generator) -> Streams:
        return {
            m: shortening.draw(whole[m], lengths[m], generator) if m in whole else stream
            for m, stream in features.items()
        }

    return draw


def _standardize(value: Standardize, order: list[str]) -> tuple[list[str], bool, str | None]:
    """Which modalities are standardised, whether by quartiles, and `all` or `earlier` if by group."""
    if not isinstance(value, dict):
        which = (
            order if value in (True, "robust") else list(_for_each("standardize", dict.fromkeys(value or []), order))
        )
        return which, value == "robust", None
    unknown = [key for key in value if key not in ("by", "causal", "robust", "modalities")]
    if unknown:
        raise OptionError("standardize", f"unknown key '{unknown[0]}'; it takes by, causal, robust and modalities")
    by, causal, robust = value.get("by", "training"), value.get("causal", False), value.get("robust", False)
    which = value.get("modalities", order)
    if by not in ("training", "group"):
        raise OptionError("standardize", f"by has to be training or group, not '{by}'")
    if not isinstance(causal, bool) or not isinstance(robust, bool) or not isinstance(which, list):
        raise OptionError("standardize", "causal and robust have to be true or false, and modalities a list")
    if by == "training" and causal:
        raise OptionError("standardize", "causal goes with by: group: each group's earlier samples alone are used")
    if by == "group" and robust:
        raise OptionError("standardize", "robust goes with by: training")
    groups = None if by == "training" else "earlier" if causal else "all"
    return list(_for_each("standardize", dict.fromkeys(which), order)), robust, groups


def _for_each(option: str, value: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """An option given for some of the modalities."""
    for m in value:
        if m not in order:
            raise OptionError(option, f"there is no modality '{m}'{nearest(m, order)}")
    return dict(value)
