"""The measures that the field reports, each defined once.

A name means one thing for good: `sims_acc2` is not `acc2_has0`. Every value is a plain fraction or a plain number;
reports multiply those whose `percent` is set by 100. All are computed over a whole split at once, vectorised over any
leading dimensions (draws, resamples): comparisons in float32 unless both sides are float64, sums in float64.

Sets (`Task.measures`), after MMSA's `metricsTop` and MulT's evaluation of IEMOCAP:

| set | measures |
|---|---|
| `mosi`, `mosei` | `mae corr acc7 acc5 acc3 acc2_has0 f1_has0 acc2_non0 f1_non0` |
| `sims` | `sims_mae sims_corr sims_acc5 sims_acc3 sims_acc2 sims_f1` |
| `regression` | `mae rmse corr`; of several targets `mae.<target>` and so on for each, then `mae_mean` and so on |
| `classification` | `accuracy balanced_accuracy f1 f1_macro` (RML's Acc-6 is the first, UA the second) |
| `iemocap` | `accuracy.<emotion>` and `f1.<emotion>` for each emotion, then `accuracy_mean f1_mean` |

Where a definition runs out:

- *Corr of a constant prediction* is 0, where NumPy says NaN: who always says the same knows nothing of the order of
  the labels, and at rate 1 every model may come to this, so that NaN would take the area under every curve with it.
  Constant means that the values differ by no more than rounding does (64 units in the last place of the largest).
- *Corr where the labels are constant* is NaN: no prediction could be told from any other. Also for a single sample.
- *Acc-2 and F1 with zero labels left out* are NaN where no label is left.
- *A class that is neither true nor predicted anywhere* counts for nothing, in the macro average either; *a class that
  is true but never predicted, or the other way round*, has an F1 of 0. Both are what scikit-learn does.
- *A tie between logits* goes to the class of the lower number, as in NumPy.
- *An empty split*, a prediction or a label that is not finite, are errors and never a number.

NaN is written as null in JSON and as a dash in tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mmrobust.errors import UsageError, nearest

__all__ = ["MEASURES", "Measure", "describe"]


@dataclass(frozen=True)
class Measure:
    """What a reader has to know of one measure.

    Attributes:
        name: As recipes and JSON files call it.
        label: As tables and figures call it.
        better: Whether `higher` or `lower` values are better.
        percent: True where tables show the value times 100.
        doc: Definition, in one line.
    """

    name: str
    label: str
    better: Literal["higher", "lower"]
    percent: bool
    doc: str

    def show(self, value: float | None) -> str:
        """A value as tables give it: percentages with one decimal, all else with three, a dash where undefined."""
        if value is None or not math.isfinite(value):
            return "–"
        text = f"{value * 100:.1f}" if self.percent else f"{value:.3f}"
        return text if float(text) else text.removeprefix("-")

    @property
    def title(self) -> str:
        """The label with its unit and an arrow that points to better values: `Acc-7, % ↑`."""
        return f"{self.label}{', %' if self.percent else ''} {'↑' if self.better == 'higher' else '↓'}"

    def improves(self, new: float, old: float) -> bool:
        """True where `new` is strictly better than `old`; anything is better than NaN."""
        if math.isnan(old) or math.isnan(new):
            return math.isnan(old) and not math.isnan(new)
        return new > old if self.better == "higher" else new < old


def _measures() -> dict[str, Measure]:
    rows = [
        ("mae", "MAE", "lower", False, "mean absolute error, nothing clipped"),
        ("rmse", "RMSE", "lower", False, "root of the mean squared error"),
        ("corr", "Corr", "higher", False, "Pearson's correlation; 0 for a constant prediction"),
        ("acc7", "Acc-7", "higher", True, "both sides clipped to [-3, 3], rounded half to even, equal"),
        ("acc5", "Acc-5", "higher", True, "both sides clipped to [-2, 2], rounded half to even, equal"),
        ("acc3", "Acc-3", "higher", True, "both sides clipped to [-1, 1], rounded half to even, equal"),
        ("acc2_has0", "Acc-2 (neg/non-neg)", "higher", True, "same side of >= 0, over all samples"),
        ("f1_has0", "F1 (neg/non-neg)", "higher", True, "F1 of the sides of >= 0, weighted by the truth's support"),
        ("acc2_non0", "Acc-2 (neg/pos)", "higher", True, "same side of > 0, samples labelled 0 left out"),
        ("f1_non0", "F1 (neg/pos)", "higher", True, "F1 of the sides of > 0, samples labelled 0 left out, weighted"),
        ("f1_has0_swapped", "F1 (neg/non-neg, swapped)", "higher", True,
         "f1_has0 with truth and prediction exchanged, as in older scripts: flatters a collapsed model"),
        ("f1_non0_swapped", "F1 (neg/pos, swapped)", "higher", True,
         "f1_non0 with truth and prediction exchanged, as in older scripts: flatters a collapsed model"),
        ("sims_mae", "MAE", "lower", False, "mean absolute error, both sides clipped to [-1, 1]"),
        ("sims_corr", "Corr", "higher", False, "Pearson's correlation, both sides clipped to [-1, 1]"),
        ("sims_acc5", "Acc-5", "higher", True, "same bin of (-1.01, -.7, -.1, .1, .7, 1.01], clipped to [-1, 1]"),
        ("sims_acc3", "Acc-3", "higher", True, "same bin of (-1.01, -.1, .1, 1.01], clipped to [-1, 1]"),
        ("sims_acc2", "Acc-2", "higher", True, "same bin of (-1.01, 0, 1.01], clipped to [-1, 1]"),
        ("sims_f1", "F1", "higher", True, "F1 of the bins of (-1.01, 0, 1.01], weighted by the truth's support"),
        ("accuracy", "Accuracy", "higher", True, "share of samples whose most probable class is the true one"),
        ("balanced_accuracy", "UA", "higher", True, "balanced accuracy: mean recall of the classes that are true"),
        ("f1", "F1", "higher", True, "F1 of each class, averaged by the truth's support"),
        ("f1_macro", "F1 (macro)", "higher", True, "F1 of each class, plain average"),
        ("f1_swapped", "F1 (swapped)", "higher", True,
         "f1 with truth and prediction exchanged, as in older scripts: flatters a collapsed model"),
        ("mae_mean", "MAE (mean)", "lower", False, "mean absolute error, averaged over the targets"),
        ("rmse_mean", "RMSE (mean)", "lower", False, "root of the mean squared error, averaged over the targets"),
        ("corr_mean", "Corr (mean)", "higher", False, "Pearson's correlation, averaged over the targets"),
        ("accuracy_mean", "Accuracy (mean)", "higher", True, "binary accuracy, averaged over the decisions"),
        ("f1_mean", "F1 (mean)", "higher", True, "weighted F1 of each decision, averaged over the decisions"),
    ]  # fmt: skip
    return {row[0]: Measure(*row) for row in rows}  # type: ignore[arg-type]


MEASURES: dict[str, Measure] = _measures()


def describe(name: str) -> Measure:
    """What there is to know of a measure, `f1.happy` and the like included.

    Raises:
        UsageError: There is no such measure.
    """
    if name in MEASURES:
        return MEASURES[name]
    base, dot, decision = name.partition(".")
    if dot and decision and base in ("mae", "rmse", "corr"):
        of = MEASURES[base]
        return Measure(name, f"{of.label}, {decision}", of.better, of.percent, f"{of.doc}, of the target '{decision}'")
    if dot and decision and base in ("accuracy", "f1"):
        of = MEASURES[base]
        what = "binary accuracy" if base == "accuracy" else "F1 of yes and no, averaged by the truth's support"
        return Measure(
            name,
            f"{of.label}, {decision}",
            "higher",
            True,
            f"{what}, of the decision '{decision}'",
        )
    raise UsageError(f"there is no measure '{name}'{nearest(name, MEASURES)}")
