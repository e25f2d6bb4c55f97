"""The measures that the field reports, each defined once.

A name means one thing for good: `sims_acc2` is not `acc2_has0`. Every value is a plain fraction or a plain number;
reports multiply those whose `percent` is set by 100. All are computed over a whole split at once, vectorised over any
leading dimensions (draws, resamples): comparisons in float32 unless both sides are float64, sums in float64.

Sets (`Task.measures`), after MMSA's `metricsTop` and MulT's evaluation of IEMOCAP:

| set | measures |
|---|---|
| `mosi`, `mosei` | `mae corr acc7 acc5 acc3 acc2_has0 f1_has0 acc2_non0 f1_non0` |
| `sims` | `sims_mae sims_corr sims_acc5 sims_acc3 sims_acc2 sims_f1` |
| `regression` | `mae rmse corr` |
| `classification` | `accuracy f1 f1_macro` (RML's Acc-6 and F1 are the first two) |
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mmrobust.contracts import Posterior, Task
from mmrobust.errors import DataError, DivergedError, UsageError, nearest

__all__ = [
    "MEASURES",
    "Measure",
    "describe",
    "limit",
    "measure",
    "measure_many",
    "measures_of",
    "primary",
]

SIMS_EDGES = {
    2: (-1.01, 0.0, 1.01),
    3: (-1.01, -0.1, 0.1, 1.01),
    5: (-1.01, -0.7, -0.1, 0.1, 0.7, 1.01),
}


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
        ("f1", "F1", "higher", True, "F1 of each class, averaged by the truth's support"),
        ("f1_macro", "F1 (macro)", "higher", True, "F1 of each class, plain average"),
        ("f1_swapped", "F1 (swapped)", "higher", True,
         "f1 with truth and prediction exchanged, as in older scripts: flatters a collapsed model"),
        ("accuracy_mean", "Accuracy (mean)", "higher", True, "binary accuracy, averaged over the decisions"),
        ("f1_mean", "F1 (mean)", "higher", True, "weighted F1 of each decision, averaged over the decisions"),
    ]  # fmt: skip
    return {row[0]: Measure(*row) for row in rows}  # type: ignore[arg-type]


MEASURES: dict[str, Measure] = _measures()

_MOSI = (
    "mae",
    "corr",
    "acc7",
    "acc5",
    "acc3",
    "acc2_has0",
    "f1_has0",
    "acc2_non0",
    "f1_non0",
)
_SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mosi": ("regression", _MOSI),
    "mosei": ("regression", _MOSI),
    "sims": (
        "regression",
        ("sims_mae", "sims_corr", "sims_acc5", "sims_acc3", "sims_acc2", "sims_f1"),
    ),
    "regression": ("regression", ("mae", "rmse", "corr")),
    "classification": ("classification", ("accuracy", "f1", "f1_macro")),
    "iemocap": ("multilabel", ("accuracy_mean", "f1_mean")),
}


def measures_of(task: Task) -> list[str]:
    """Names of the measures that the field reports for this task, in the order of its tables.

    Raises:
        UsageError: The task names a set that does not exist or is for another kind of task.
    """
    if task.measures not in _SETS:
        raise UsageError(f"unknown set of measures '{task.measures}'{nearest(task.measures, _SETS)}")
    kind, names = _SETS[task.measures]
    if kind != task.kind:
        raise UsageError(f"the measures of '{task.measures}' are for {kind}, but the data is for {task.kind}")
    if kind == "multilabel":
        decisions = _decisions(task)
        return [f"{base}.{decision}" for decision in decisions for base in ("accuracy", "f1")] + list(names)
    return list(names)


def primary(task: Task) -> str:
    """The measure by which checkpoints are chosen on the validation split."""
    names = measures_of(task)
    return "f1_mean" if task.kind == "multilabel" else names[0]


def describe(name: str) -> Measure:
    """What there is to know of a measure, `f1.happy` and the like included.

    Raises:
        UsageError: There is no such measure.
    """
    if name in MEASURES:
        return MEASURES[name]
    base, dot, decision = name.partition(".")
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


def check(task: Task, names: Sequence[str]) -> list[str]:
    """The same names, known to be measurable on this task.

    Raises:
        UsageError: A name is unknown, or is for another kind of task.
    """
    for name in names:
        describe(name)
        if name not in (known := _available(task)):
            raise UsageError(f"the measure '{name}' cannot be taken on a {task.kind} task{nearest(name, known)}")
    return list(names)


def measure(task: Task, prediction: Tensor, label: Tensor, names: Sequence[str] | None = None) -> dict[str, float]:
    """The scores of one set of predictions.

    Args:
        task: What was to be predicted.
        prediction: What a model returned, `n c` (`n 1` or `n` for regression).
        label: The truth, `n` (`n k` for multilabel).
        names: Which measures; the task's own set where None.

    Returns:
        A value for each name, in their order; NaN where the measure is undefined (see the module).

    Raises:
        DataError: There are no samples, the shapes do not fit, or a label is not finite.
        DivergedError: A prediction is not finite.
        UsageError: A measure is unknown or does not fit the task.
    """
    if task.kind == "regression" and prediction.dim() == 1:
        prediction = prediction.unsqueeze(-1)
    return {name: value.item() for name, value in measure_many(task, prediction, label, names).items()}


def measure_many(
    task: Task, prediction: Tensor, label: Tensor, names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """The scores of many sets of predictions at once.

    Args:
        task: What was to be predicted.
        prediction: `... n c`, any leading dimensions.
        label: `n` or `n k` for all of them, or with leading dimensions of its own that broadcast.
        names: Which measures; the task's own set where None.

    Returns:
        A float64 tensor of the leading dimensions for each name.

    Raises:
        DataError: See `measure`.
        DivergedError: See `measure`.
        UsageError: See `measure`.
    """
    names = measures_of(task) if names is None else check(task, names)
    prediction, label = prediction.detach(), label.detach()
    _check(task, prediction, label)
    if task.kind == "regression":
        # 0.1 in float32 is not 0.1 in float64: both sides are compared with an edge in the coarser of the two.
        dtype = torch.float64 if prediction.dtype == label.dtype == torch.float64 else torch.float32
        guess, truth = torch.broadcast_tensors(prediction.squeeze(-1).to(dtype), label.to(dtype))
        return {name: _REAL[name](guess, truth) for name in names}
    if task.kind == "classification":
        guess = prediction.argmax(-1)
        guess, truth = torch.broadcast_tensors(guess, label.long())
        table = _confusion(truth, guess, task.outputs)
        return {name: _TABLE[name](table) for name in names}
    guess = prediction.unflatten(-1, (-1, 2)).argmax(-1)
    guess, truth = torch.broadcast_tensors(guess, label.long())
    table = _confusion(truth.transpose(-1, -2), guess.transpose(-1, -2), 2)
    return _decided(task, table, names)


def limit(task: Task, posterior: Posterior, label: Tensor, names: Sequence[str] | None = None) -> dict[str, float]:
    """The scores of the best decisions that can be made when no more is known than the posterior.

    Each measure gets the decision that is best for it, made from the posterior alone and then scored against the
    labels: the median for MAE, the mean for RMSE and Corr, the most probable bin for Acc-7, -5 and -3, the most
    probable side for Acc-2, the most probable class for accuracy. For F1, which looks at all samples together, it is
    the threshold on the probability of a side that maximises the F1 of the expected table of confusion, and with more
    than two classes the randomised rule that Frank and Wolfe's method finds for that table (Narasimhan et al., 2015),
    which is not proven to be the best. A model may score higher on one test split by luck.

    Args:
        task: What was to be predicted.
        posterior: Of the same samples, `n g`.
        label: The truth, `n`.
        names: Which measures; the task's own set where None.

    Returns:
        A value for each name; empty for a multilabel task, whose posterior is not known to anyone.
    """
    names = measures_of(task) if names is None else check(task, names)
    label = label.detach().cpu()
    values, weights = (
        posterior.values.detach().double().cpu(),
        posterior.weights.detach().double().cpu(),
    )
    if task.kind == "multilabel":
        return {}
    if task.kind == "classification":
        p = torch.zeros(len(weights), task.outputs, dtype=torch.float64).index_add_(1, values.long(), weights)
        truth = one_hot(label.long(), task.outputs).double()
        rules = {name: one_hot(p.argmax(-1), task.outputs).double() for name in names if name == "accuracy"}
        rules |= {name: _best_for_f1(p, name) for name in names if name != "accuracy"}
        return {name: _TABLE[name](truth.T @ rules[name]).item() for name in names}
    return {name: measure(task, _best_guess(name, values, weights), label, [name])[name] for name in names}


# Numbers ---------------------------------------------------------------------------------------------------------


def _mae(guess: Tensor, truth: Tensor) -> Tensor:
    return (guess.double() - truth.double()).abs().mean(-1)


def _rmse(guess: Tensor, truth: Tensor) -> Tensor:
    return (guess.double() - truth.double()).square().mean(-1).sqrt()


def _constant(x: Tensor) -> Tensor:
    """True where the values of `... n` differ by no more than rounding does."""
    spread = x.amax(-1) - x.amin(-1)
    return spread <= 64 * torch.finfo(x.dtype).eps * x.abs().amax(-1)


def _corr(guess: Tensor, truth: Tensor) -> Tensor:
    a, b = guess.double(), truth.double()
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    # Each is scaled by its own largest value first: squares of tiny numbers would vanish.
    a = a / a.abs().amax(-1, keepdim=True).clamp(min=1e-300)
    b = b / b.abs().amax(-1, keepdim=True).clamp(min=1e-300)
    value = ((a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()).clamp(-1, 1)
    value = torch.where(_constant(guess), torch.zeros_like(value), value)
    return value.masked_fill(_constant(truth), torch.nan)


def _rounded(bound: int) -> Callable[[Tensor, Tensor], Tensor]:
    def same(guess: Tensor, truth: Tensor) -> Tensor:
        equal = guess.clamp(-bound, bound).round() == truth.clamp(-bound, bound).round()
        return equal.double().mean(-1)

    return same


def _bins(x: Tensor, edges: Sequence[float]) -> Tensor:
    """The number of the bin (a, b] that each value lies in."""
    return torch.bucketize(x.contiguous(), torch.tensor(edges[1:-1], dtype=x.dtype, device=x.device))


def _has0(guess: Tensor, truth: Tensor) -> Tensor:
    return _confusion((truth >= 0).long(), (guess >= 0).long(), 2)


def _non0(guess: Tensor, truth: Tensor) -> Tensor:
    return _confusion((truth > 0).long(), (guess > 0).long(), 2, truth != 0)


def _sims(bins: int) -> Callable[[Tensor, Tensor], Tensor]:
    def table(guess: Tensor, truth: Tensor) -> Tensor:
        edges = SIMS_EDGES[bins]
        return _confusion(_bins(truth.clamp(-1, 1), edges), _bins(guess.clamp(-1, 1), edges), bins)

    return table


# Tables of confusion ---------------------------------------------------------------------------------------------


def _confusion(truth: Tensor, guess: Tensor, classes: int, keep: Tensor | None = None) -> Tensor:
    """How often each class was taken for each, `... n` twice to `... classes classes`, truth first."""
    cell = truth * classes + guess
    count = torch.ones_like(cell, dtype=torch.float64) if keep is None else keep.double()
    table = torch.zeros(*cell.shape[:-1], classes * classes, dtype=torch.float64, device=cell.device)
    return table.scatter_add_(-1, cell, count).unflatten(-1, (classes, classes))


def _accuracy(table: Tensor) -> Tensor:
    return table.diagonal(dim1=-2, dim2=-1).sum(-1) / table.sum((-2, -1))


def _f1_of_classes(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """F1, how often it is true, how often it is predicted, each `... classes`."""
    true, predicted = table.sum(-1), table.sum(-2)
    f1 = 2 * table.diagonal(dim1=-2, dim2=-1) / (true + predicted).clamp(min=1e-300)
    return f1, true, predicted


def _f1_weighted(table: Tensor) -> Tensor:
    f1, true, _ = _f1_of_classes(table)
    return (f1 * true).sum(-1) / true.sum(-1)


def _f1_swapped(table: Tensor) -> Tensor:
    f1, _, predicted = _f1_of_classes(table)
    return (f1 * predicted).sum(-1) / predicted.sum(-1)


def _f1_macro(table: Tensor) -> Tensor:
    f1, true, predicted = _f1_of_classes(table)
    return f1.sum(-1) / ((true + predicted) > 0).sum(-1)


_TABLE: dict[str, Callable[[Tensor], Tensor]] = {
    "accuracy": _accuracy,
    "f1": _f1_weighted,
    "f1_macro": _f1_macro,
    "f1_swapped": _f1_swapped,
}

_REAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": _mae,
    "rmse": _rmse,
    "corr": _corr,
    "acc7": _rounded(3),
    "acc5": _rounded(2),
    "acc3": _rounded(1),
    "acc2_has0": lambda guess, truth: _accuracy(_has0(guess, truth)),
    "f1_has0": lambda guess, truth: _f1_weighted(_has0(guess, truth)),
    "acc2_non0": lambda guess, truth: _accuracy(_non0(guess, truth)),
    "f1_non0": lambda guess, truth: _f1_weighted(_non0(guess, truth)),
    "f1_has0_swapped": lambda guess, truth: _f1_swapped(_has0(guess, truth)),
    "f1_non0_swapped": lambda guess, truth: _f1_swapped(_non0(guess, truth)),
    "sims_mae": lambda guess, truth: _mae(guess.clamp(-1, 1), truth.clamp(-1, 1)),
    "sims_corr": lambda guess, truth: _corr(guess.clamp(-1, 1), truth.clamp(-1, 1)),
    "sims_acc5": lambda guess, truth: _accuracy(_sims(5)(guess, truth)),
    "sims_acc3": lambda guess, truth: _accuracy(_sims(3)(guess, truth)),
    "sims_acc2": lambda guess, truth: _accuracy(_sims(2)(guess, truth)),
    "sims_f1": lambda guess, truth: _f1_weighted(_sims(2)(guess, truth)),
}


def _decisions(task: Task) -> tuple[str, ...]:
    return task.names or tuple(str(k) for k in range(task.outputs // 2))


def _decided(task: Task, table: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Scores of several two-way decisions from `... k 2 2`."""
    each = {"accuracy": _accuracy(table), "f1": _f1_weighted(table)}
    of = {decision: k for k, decision in enumerate(_decisions(task))}
    result = {}
    for name in names:
        base, dot, decision = name.partition(".")
        result[name] = each[base][..., of[decision]] if dot else each[base.removesuffix("_mean")].mean(-1)
    return result


def _available(task: Task) -> list[str]:
    if task.kind == "regression":
        return list(_REAL)
    return list(_TABLE) if task.kind == "classification" else measures_of(task)


def _check(task: Task, prediction: Tensor, label: Tensor) -> None:
    tail = 2 if task.kind == "multilabel" else 1
    rows = prediction.shape[-2] if prediction.dim() > 1 else -1
    if label.dim() < tail or prediction.dim() < 2 or label.shape[-tail] != rows or prediction.shape[-1] != task.outputs:
        raise DataError(
            f"predictions of shape {tuple(prediction.shape)} do not fit labels of shape {tuple(label.shape)}: "
            f"a {task.kind} task needs (samples, {task.outputs}) and a label for each sample"
        )
    if rows == 0:
        raise DataError("there is nothing to measure: the split holds no samples")
    if task.kind == "regression":
        if not label.isfinite().all():
            raise DataError(f"{int((~label.isfinite()).sum())} labels are not finite numbers")
    else:
        top = 2 if task.kind == "multilabel" else task.outputs
        if bool(((label < 0) | (label >= top)).any()):
            raise DataError(f"labels lie between {label.min().item()} and {label.max().item()}, not in 0 to {top - 1}")
    if not prediction.isfinite().all():
        bad = ~prediction.isfinite().flatten(0, -2).all(-1)
        raise DivergedError(f"{int(bad.sum())} of {len(bad)} predictions are not finite: the model has diverged")


# The best decisions ----------------------------------------------------------------------------------------------


def _best_guess(name: str, values: Tensor, weights: Tensor) -> Tensor:
    """The number to say for each sample so that measure `name` is best, `n`."""
    bound = {"acc7": 3, "acc5": 2, "acc3": 1}.get(name)
    if name in ("mae", "sims_mae"):
        return _median(values.clamp(-1, 1) if name == "sims_mae" else values, weights)
    if name in ("rmse", "corr", "sims_corr"):
        return weights @ (values.clamp(-1, 1) if name == "sims_corr" else values)
    if bound is not None:
        kind = values.clamp(-bound, bound).round().long() + bound
        mass = torch.zeros(len(weights), 2 * bound + 1, dtype=weights.dtype).index_add_(1, kind, weights)
        return mass.argmax(-1).double() - bound
    if name in ("sims_acc2", "sims_acc3", "sims_acc5"):
        edges = torch.tensor(SIMS_EDGES[int(name[-1])], dtype=torch.float64)
        kind = _bins(values.clamp(-1, 1), edges.tolist())
        mass = torch.zeros(len(weights), len(edges) - 1, dtype=weights.dtype).index_add_(1, kind, weights)
        return ((edges[1:] + edges[:-1]) / 2)[mass.argmax(-1)]
    # What is left looks at two sides of zero; the side is said as -1 or 1.
    upper = values >= 0 if "has0" in name else values > 0
    counted = values != 0 if "non0" in name else torch.ones_like(upper)
    p = torch.stack(
        [weights @ (~upper & counted).double(), weights @ (upper & counted).double()],
        -1,
    )
    side = p.argmax(-1) if "acc2" in name else _best_threshold(p, swapped=name.endswith("swapped"))
    return side.double() * 2 - 1


def _median(values: Tensor, weights: Tensor) -> Tensor:
    """The value at which each row's distribution reaches one half, `n`: no other has a smaller expected distance."""
    values, order = values.sort(stable=True)
    half = weights.sum(-1, keepdim=True) / 2
    reached = torch.searchsorted(weights[:, order].cumsum(-1), half).squeeze(-1)
    return values[reached.clamp(max=len(values) - 1)]


def _best_threshold(p: Tensor, swapped: bool = False) -> Tensor:
    """Which samples to call positive, `n` of 0 and 1, from `n 2`: every cut of the ranking is tried.

    A cut may fall between equal probabilities: where nothing is known, F1 is best if a half is called positive.
    """
    score = p[:, 1] / p.sum(-1).clamp(min=1e-300)
    order = score.argsort(descending=True, stable=True)
    zero = torch.zeros(1, 2, dtype=p.dtype)
    chosen = torch.cat([zero, p[order].cumsum(0)])  # row k: expected truth among the k samples called positive
    rest = chosen[-1] - chosen
    table = torch.stack(
        [
            torch.stack([rest[:, 0], chosen[:, 0]], -1),
            torch.stack([rest[:, 1], chosen[:, 1]], -1),
        ],
        1,
    )
    quality = (_f1_swapped if swapped else _f1_weighted)(table)
    side = torch.zeros(len(p), dtype=torch.long)
    side[order[: int(quality.argmax())]] = 1
    return side


def _best_for_f1(p: Tensor, name: str) -> Tensor:
    """How to call each sample, as probabilities `n c`, from those of its classes `n c`."""
    classes = p.shape[-1]
    score = _TABLE[name]
    if classes == 2 and name != "f1_macro":
        return one_hot(_best_threshold(p, swapped=name == "f1_swapped"), 2).double()
    best, best_quality = p, -1.0
    shares = torch.linspace(0, 1, 21, dtype=p.dtype)[:, None, None]
    for said in (one_hot(p.argmax(-1), classes).double(), p):
        for _ in range(50):
            table = (p.T @ said).requires_grad_()  # what the table of confusion will look like on average
            (gain,) = torch.autograd.grad(score(table), table)
            better = one_hot((p @ gain).argmax(-1), classes).double()  # what one more sample called so would bring
            table = table.detach()
            quality = score(table + shares * (p.T @ better - table))
            share = int(quality.argmax())
            if quality[share].item() > best_quality:
                best, best_quality = said + shares[share, 0] * (better - said), quality[share].item()
            if share == 0:
                break
            said = said + shares[share, 0] * (better - said)
    return best
