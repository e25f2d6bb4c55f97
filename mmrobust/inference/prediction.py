"""What a model predicts of one sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

__all__ = ["Prediction"]


@dataclass(frozen=True)
class Prediction:
    """A prediction of one sample, with how far it can be relied on.

    Attributes:
        id: Of the sample.
        value: The number of a regression; several by their names where there are several targets.
        label: The most probable class, or the decisions that are a yes.
        probabilities: Of each class, or of the yes of each decision, by name.
        interval: Where the true number lies with the probability of `coverage`.
        set: Classes that hold the true one with the probability of `coverage`.
        coverage: Of the interval or the set.
        abstain: Whether the sample is too uncertain for what was asked of the predictor.
        lost: Share of each modality's steps that was missing, not finite, all zero or far outside the training's range.
        notes: What was done to the features, and why.
    """

    id: str
    value: float | Mapping[str, float] | None = None
    label: str | tuple[str, ...] | None = None
    probabilities: Mapping[str, float] | None = None
    interval: tuple[float, float] | None = None
    set: tuple[str, ...] | None = None
    coverage: float | None = None
    abstain: bool = False
    lost: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; what there is not is left out."""
        values: dict[str, Any] = {"id": self.id}
        for name in ("value", "label", "probabilities", "interval", "set", "coverage"):
            value = getattr(self, name)
            if value is not None:
                values[name] = list(value) if isinstance(value, tuple) else value
        return {**values, "abstain": self.abstain, "lost": dict(self.lost), "notes": list(self.notes)}

    def __str__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text in self._rows())

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in self._rows())
        return f"<table>{rows}</table>"

    def _rows(self) -> list[tuple[str, str]]:
        """Each thing that there is, in words."""
        rows = [("sample", self.id)]
        if isinstance(self.value, Mapping):
            rows.append(("values", ", ".join(f"{name} {x:.4g}" for name, x in self.value.items())))
        elif self.value is not None:
            rows.append(("value", f"{self.value:.4g}"))
        if self.label is not None:
            rows.append(("label", self.label if isinstance(self.label, str) else ", ".join(self.label) or "none"))
        if self.probabilities:
            rows.append(("probabilities", ", ".join(f"{name} {p:.1%}" for name, p in self.probabilities.items())))
        if self.coverage is not None and self.interval is not None:
            rows.append((f"{self.coverage:.0%} interval", f"{self.interval[0]:.4g} to {self.interval[1]:.4g}"))
        if self.coverage is not None and self.set is not None:
            rows.append((f"{self.coverage:.0%} set", ", ".join(self.set)))
        if self.abstain:
            rows.append(("abstains", "too uncertain"))
        lost = {m: share for m, share in self.lost.items() if share}
        if lost:
            rows.append(("lost", ", ".join(f"{m} {share:.0%}" for m, share in lost.items())))
        return rows + [("note", note) for note in self.notes]
