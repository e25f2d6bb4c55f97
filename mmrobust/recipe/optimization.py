"""How weights are moved, as a recipe says it: optimizers, schedules of the learning rate, clipping of the gradient.

The names of the classes of optimizers and of their options, and the defaults, are those of `torch.optim`. They stand
here, as they are checked where torch is not imported; a test holds them against torch's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "Adam",
    "AdamW",
    "Clip",
    "Constant",
    "Cosine",
    "Linear",
    "Optimizer",
    "Plateau",
    "RMSprop",
    "Schedule",
    "within",
]


def within(
    default: Any, low: float | None = None, high: float | None = None, above: float | None = None,
    below: float | None = None,
) -> Any:  # fmt: skip
    """A setting's default and its range: at least `low`, more than `above`, at most `high`, less than `below`."""
    return field(default=default, metadata={"low": low, "high": high, "above": above, "below": below})


@dataclass(frozen=True)
class AdamW:
    """Adam with weight decay apart from the gradient (decoupled).

    Attributes:
        betas: Decay of the running means of the gradient and of its square.
        eps: Added to the denominator.
        amsgrad: Divide by the largest mean square so far.
    """

    weight_decay: ClassVar[float] = 0.01
    betas: tuple[float, float] = within((0.9, 0.999), low=0, below=1)
    eps: float = within(1e-8, low=0)
    amsgrad: bool = False


@dataclass(frozen=True)
class Adam:
    """Adam; weight decay is added to the gradient (L2).

    Attributes:
        betas: Decay of the running means of the gradient and of its square.
        eps: Added to the denominator.
        amsgrad: Divide by the largest mean square so far.
    """

    weight_decay: ClassVar[float] = 0.0
    betas: tuple[float, float] = within((0.9, 0.999), low=0, below=1)
    eps: float = within(1e-8, low=0)
    amsgrad: bool = False


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent; weight decay is added to the gradient (L2).

    Attributes:
        momentum: Share of the last step that is made again.
        dampening: Share of the gradient that is left out of the momentum.
        nesterov: Look ahead along the momentum; needs a momentum, and no dampening.
    """

    weight_decay: ClassVar[float] = 0.0
    momentum: float = within(0.0, low=0)
    dampening: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise ValueError("nesterov needs a momentum above 0 and a dampening of 0")


@dataclass(frozen=True)
class RMSprop:
    """RMSprop; weight decay is added to the gradient (L2).

    Attributes:
        alpha: Decay of the running mean of the gradient's square.
        eps: Added to the denominator.
        momentum: Share of the last step that is made again.
        centered: Divide by the standard deviation instead of the mean square.
    """

    weight_decay: ClassVar[float] = 0.0
    alpha: float = within(0.99, low=0, high=1)
    eps: float = within(1e-8, low=0)
    momentum: float = within(0.0, low=0)
    centered: bool = False


@dataclass(frozen=True)
class Cosine:
    """The learning rate falls along half a cosine."""


@dataclass(frozen=True)
class Constant:
    """The learning rate stays."""


@dataclass(frozen=True)
class Linear:
    """The learning rate falls along a line."""


@dataclass(frozen=True)
class Plateau:
    """The learning rate falls whenever the validation score that chooses the checkpoint stops getting better.

    Attributes:
        factor: What it is multiplied with.
        patience: Epochs without a better score that are let pass.
        threshold: How much better a score has to be to count.
        threshold_mode: Whether that is a share of the best score (`rel`) or a difference from it (`abs`).
        cooldown: Epochs after a fall that are not counted.
        min_lr: It falls no further.
    """

    factor: float = within(0.1, above=0, below=1)
    patience: int = within(10, low=0)
    threshold: float = within(1e-4, low=0)
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = within(0, low=0)
    min_lr: float = within(0.0, low=0)


@dataclass(frozen=True)
class Clip:
    """How the gradient is kept small.

    Attributes:
        by: Whether the gradient of all weights together is shortened (`norm`), or each number is cut off (`value`).
        at: The largest norm or value.
    """

    by: Literal["norm", "value"] = "norm"
    at: float = within(1.0, above=0)


Optimizer = AdamW | Adam | SGD | RMSprop
Schedule = Cosine | Constant | Linear | Plateau

OPTIMIZERS: dict[str, type[Any]] = {"adamw": AdamW, "adam": Adam, "sgd": SGD, "rmsprop": RMSprop}
SCHEDULES: dict[str, type[Any]] = {"cosine": Cosine, "constant": Constant, "linear": Linear, "plateau": Plateau}
