"""The limit: the scores of the best decisions that can be made when no more is known than the posterior."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mmrobust.contracts import Posterior, Task
from mmrobust.measures.classification import OF_TABLE, f1_swapped, f1_weighted
from mmrobust.measures.regression import SIMS_EDGES, bins
from mmrobust.measures.scores import measure
from mmrobust.measures.sets import check, measures_of

__all__ = ["limit", "weighted_median"]


def limit(task: Task, posterior: Posterior, label: Tensor, names: Sequence[str] | None = None) -> dict[str, float]:
    """The scores of the best decisions that can be made when no more is known than the posterior.

    Each measure gets the decision that is best for it, made from the posterior alone and then scored against the
    labels: the median for MAE, the mean for RMSE and Corr, the most probable bin for Acc-7, -5 and -3, the most
    probable side for Acc-2, the most probable class for accuracy. F1 and UA look at all samples together. With two
    classes the limit of F1 is the threshold on the probability of a side that maximises the F1 of the expected table
    of confusion. Otherwise it is the randomised rule that Frank and Wolfe's method gives for that table (Narasimhan et
    al., 2015); for F1 it is not proven to be the best. A model may score higher on one test split by luck.

    Args:
        task: What was to be predicted.
        posterior: Of the same samples, `n g`.
        label: The truth, `n`.
        names: Which measures; the task's own set where None.

    Returns:
        A value for each name; empty for a multilabel task, whose posterior is not known.
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
        rules |= {name: _best_decisions(p, name) for name in names if name != "accuracy"}
        return {name: OF_TABLE[name](truth.T @ rules[name]).item() for name in names}
    return {name: measure(task, _best_guess(name, values, weights), label, [name])[name] for name in names}


def _best_guess(name: str, values: Tensor, weights: Tensor) -> Tensor:
    """The number to say for each sample so that measure `name` is best, `n`."""
    bound = {"acc7": 3, "acc5": 2, "acc3": 1}.get(name)
    if name in ("mae", "sims_mae"):
        return weighted_median(values.clamp(-1, 1) if name == "sims_mae" else values, weights)
    if name in ("rmse", "corr", "sims_corr"):
        return weights @ (values.clamp(-1, 1) if name == "sims_corr" else values)
    if bound is not None:
        kind = values.clamp(-bound, bound).round().long() + bound
        mass = torch.zeros(len(weights), 2 * bound + 1, dtype=weights.dtype).index_add_(1, kind, weights)
        return mass.argmax(-1).double() - bound
    if name in ("sims_acc2", "sims_acc3", "sims_acc5"):
        edges = torch.tensor(SIMS_EDGES[int(name[-1])], dtype=torch.float64)
        kind = bins(values.clamp(-1, 1), edges.tolist())
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


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
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
    quality = (f1_swapped if swapped else f1_weighted)(table)
    side = torch.zeros(len(p), dtype=torch.long)
    side[order[: int(quality.argmax())]] = 1
    return side


def _best_decisions(p: Tensor, name: str) -> Tensor:
    """How to call each sample, as probabilities `n c`, from those of its classes `n c`."""
    classes = p.shape[-1]
    score = OF_TABLE[name]
    if classes == 2 and name in ("f1", "f1_swapped"):
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
