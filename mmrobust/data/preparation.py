"""What was done to the training data, and has to be done to new data for the same model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mmrobust.contracts import Task
from mmrobust.errors import DataError


@dataclass(frozen=True)
class Preparation:
    """How features become a model's input; plain enough for JSON, so that a run needs no training data.

    Attributes:
        modalities: Their names, in the order of the dataset.
        task: What is to be predicted, with the names of classes or targets.
        width: Values in one step of each modality, as they stand in a file.
        length: Most steps of each modality, after shortening.
        reduce: How a modality with more steps is shortened; absent where its first steps are taken. With `mean_std` a
            step of the model is twice as wide as one of the file.
        mean: What is subtracted from each value of a shortened step (mean or median of the training split); absent
            where the modality is not standardised.
        std: What it is then divided by.
        fill: What replaces a value that is not finite; absent where nothing does.
        clip: Largest absolute value after standardising; absent where there is no limit.
        groups: `all` where a modality is standardised by the clips of each group (speaker), `earlier` where by the
            group's earlier clips alone; absent where the training split's statistics are used.
        together: Modalities whose features share one deviation.
    """

    modalities: tuple[str, ...]
    task: Task
    width: dict[str, int]
    length: dict[str, int]
    reduce: dict[str, str] = field(default_factory=dict)
    mean: dict[str, list[float]] = field(default_factory=dict)
    std: dict[str, list[float]] = field(default_factory=dict)
    fill: dict[str, list[float]] = field(default_factory=dict)
    clip: dict[str, float] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    together: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = asdict(self)
        plain["modalities"], plain["together"] = list(self.modalities), list(self.together)
        plain["task"]["names"] = list(self.task.names)
        return plain

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Preparation:
        """The preparation that `to_dict` gave.

        Raises:
            DataError: A value is missing or is not what it has to be.
        """
        names = _names("modalities", values.get("modalities"))
        widths = _each(values, "width", names, _count, complete=True)

        reduce = _each(values, "reduce", names, _word)

        def row(key: str, value: Any, m: str) -> list[float]:
            width = widths[m] * (2 if key != "fill" and reduce.get(m) == "mean_std" else 1)
            if not isinstance(value, list) or len(value) != width:
                raise _wrong(f"{key}.{m}", f"a list of {width} numbers", value)
            return [_real(f"{key}.{m}", x) for x in value]

        rows = {key: _each(values, key, names, row) for key in ("mean", "std", "fill")}
        if rows["mean"].keys() != rows["std"].keys():
            raise _wrong("std", "given for the modalities that have a mean", list(rows["std"]))
        return Preparation(
            names,
            _task(values.get("task")),
            widths,
            _each(values, "length", names, _count, complete=True),
            reduce,
            **rows,
            clip=_each(values, "clip", names, _real),
            groups=_each(values, "groups", names, _word),
            together=_names("together", values.get("together", ())),
        )


def _wrong(key: str, right: str, value: Any) -> DataError:
    return DataError(f"preparation: '{key}' has to be {right}, not {repr(value)[:80]}")


def _each(
    values: Mapping[str, Any], key: str, names: tuple[str, ...], read: Callable[..., Any], complete: bool = False
) -> dict[str, Any]:
    """A value for some modalities, or for all of them."""
    given = values.get(key, {})
    if not isinstance(given, Mapping) or not set(given) <= set(names) or (complete and len(given) < len(names)):
        raise _wrong(key, f"a value for {'each' if complete else 'some'} of {', '.join(names)}", given)
    return {m: read(key, given[m], m) for m in names if m in given}


def _names(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise _wrong(key, "a list of names", value)
    return tuple(value)


def _count(key: str, value: Any, m: str = "") -> int:
    if type(value) is not int or value < 1:
        raise _wrong(key, "a whole number from 1", value)
    return value


def _real(key: str, value: Any, m: str = "") -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _wrong(key, "a finite number", value)
    return float(value)


def _word(key: str, value: Any, m: str = "") -> str:
    if not isinstance(value, str):
        raise _wrong(key, "text", value)
    return value


def _task(value: Any) -> Task:
    if not isinstance(value, Mapping) or value.get("kind") not in ("regression", "classification", "multilabel"):
        raise _wrong("task", "an object with 'kind', 'outputs' and 'measures'", value)
    ends = {key: None if value.get(key) is None else _real(f"task.{key}", value[key]) for key in ("low", "high")}
    return Task(
        value["kind"],
        _count("task.outputs", value.get("outputs")),
        _word("task.measures", value.get("measures")),
        **ends,
        names=_names("task.names", value.get("names", ())),
    )
