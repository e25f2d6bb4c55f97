"""One step of the optimizer: from views that are drawn to weights that have moved, compiled or captured on request.

Nothing in it waits for a GPU, and what it tells stays on the device until somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmrobust.accel.graphs import Graphed
from mmrobust.contracts import Batch, Objective, Outputs, Progress
from mmrobust.model.learning import Learning
from mmrobust.model.model import Model

if TYPE_CHECKING:
    from mmrobust.recipe import TrainSettings

__all__ = ["Found", "Learner", "Trained", "Views", "adamw", "first_line", "held"]

#: The drawn views of a step may pass through vmap and into a graph.
for _form in (Batch, Outputs):
    if _form not in pytree.SUPPORTED_NODES:
        torch.export.register_dataclass(_form, serialized_type_name=f"mmrobust.{_form.__name__}")

Views = Mapping[str, Batch]
Found = tuple[Tensor, Tensor, dict[str, Outputs]]


class Trained(nn.Module):
    """All that is trained, as one module.

    Args:
        model: The model.
        learning: The objectives, with whatever they own.
    """

    def __init__(self, model: Model, learning: Learning) -> None:
        super().__init__()
        self.model = model
        self.learning = learning
        objectives = [objective for _, objective in learning.named_objectives()]
        self.remembers = any(type(objective).update is not Objective.update for objective in objectives)

    def forward(self, views: Views, progress: Progress) -> Found:
        """The loss of drawn views, every value to be told, and the outputs where an objective remembers them."""
        total, parts, outputs = self.learning.compute(self.model, views, progress)
        values = torch.stack([_precise(value) for value in (total, *parts.values())])
        return total, values, outputs if self.remembers else {}


class Learner:
    """What moves the weights of one seed.

    Class attributes:
        uncompiled: Why torch.compile is not asked; None where it is.

    Args:
        trained: The model and its objectives, on the device.
        settings: Section `train` of the recipe.
        device: Where they are.
        tell: Told what the user should know.

    Attributes:
        names: What a step tells: the loss, each of its parts before its weight, and the norm of the gradient.
        optimizer: Holds the moments.
        scaler: Scales the loss where the precision is fp16.
        lr: The learning rate that was set last.
        lenient: Whether kernels without a deterministic form may run, since the step has some.
    """

    uncompiled: ClassVar[str | None] = None

    def __init__(
        self, trained: Trained, settings: TrainSettings, device: torch.device, tell: Callable[[str], None]
    ) -> None:
        self.trained, self.settings, self.device, self.tell = trained, settings, device, tell
        self.names = ["total", *(key for key, _ in trained.learning.named_objectives()), "gradient"]
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.lr = settings.lr
        self.lenient = False
        self.optimizer = self._optimizer()
        self._compiled: Callable[[Views, Progress], Found] | None = None
        self._run: Callable[[Views, Progress], Tensor] | None = None

    def _optimizer(self) -> torch.optim.AdamW:
        parameters = [(p, p.dim() >= 2) for p in self.trained.parameters() if p.requires_grad]
        return adamw(parameters, self.settings, self.device)

    def graphless(self) -> str | None:
        """Why whole steps cannot be captured."""
        if self.device.type != "cuda":
            return f"CUDA graphs need a GPU, and this trains on '{self.device}'"
        if self.scaler.is_enabled():
            return "fp16 looks at every gradient for an overflow"
        if self.trained.remembers:
            named = self.trained.learning.named_objectives()
            kept = [key for key, objective in named if type(objective).update is not Objective.update]
            return f"the objective {kept[0]} keeps a memory"
        return None

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate; in place where the optimizer reads it from the device."""
        self.lr = rate
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def __call__(self, views: Views, progress: Progress) -> Tensor:
        """One step; what `names` says, `n`, on the device."""
        if self._run is None:
            self._run = self._faster()
        return self._run(views, progress)

    def _faster(self) -> Callable[[Views, Progress], Tensor]:
        """A step, made as fast as the recipe asks and the place allows."""
        if self.settings.compile:
            if self.uncompiled:
                self.tell(f"train.compile: {self.uncompiled}, so steps are not compiled")
            else:
                self._compiled = torch.compile(self.forward)
        if self.settings.graphs:
            if reason := self.graphless():
                self.tell(f"train.graphs: {reason}, so steps are not captured")
            else:
                return Graphed(self._learn, self.forward, self.optimizer.zero_grad, self.tell)
        return self._learn

    def forward(self, views: Views, progress: Progress) -> Found:
        """The loss and what it was made of, under the recipe's precision."""
        with self.precision():
            return self.trained(views, progress)

    def precision(self) -> torch.autocast:
        """The recipe's number format, inside a `with`."""
        dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.settings.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _learn(self, views: Views, progress: Progress) -> Tensor:
        values, outputs = self._backward(views, progress)
        if self.trained.remembers:
            self.remember(outputs, progress)
        self.scaler.unscale_(self.optimizer)
        gradient = _precise(self.clip())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return torch.cat([values, gradient.unsqueeze(-1)], -1)

    def _backward(self, views: Views, progress: Progress) -> tuple[Tensor, dict[str, Outputs]]:
        if self._compiled is not None:
            try:
                return self._through(self._compiled, views, progress)
            except Exception as error:  # whatever torch.compile meets; the plain pass raises what is truly wrong
                self._compiled = None
                self.optimizer.zero_grad()
                self.tell(f"train.compile: torch.compile failed, so the step runs as it is ({first_line(error)})")
        return self._through(self.forward, views, progress)

    def _through(
        self, forward: Callable[[Views, Progress], Found], views: Views, progress: Progress
    ) -> tuple[Tensor, dict[str, Outputs]]:
        try:
            total, values, outputs = forward(views, progress)
            self.scaler.scale(total).backward()
        except RuntimeError as error:
            if self.lenient or "does not have a deterministic implementation" not in str(error):
                raise
            self.lenient = True
            torch.use_deterministic_algorithms(True, warn_only=True)
            self.optimizer.zero_grad()
            self.tell(f"steps are not the same bits every time on this GPU: {first_line(error)}")
            return self._through(forward, views, progress)
        return values, outputs

    def remember(self, outputs: dict[str, Outputs], progress: Progress) -> None:
        """Lets the objectives change their memories."""
        self.trained.learning.update(outputs, progress)

    def clip(self) -> Tensor:
        """Shortens the gradient where it is too long; its norm before, 0-d."""
        parameters = [p for p in held(self.optimizer) if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        # Where a norm can be looked at without waiting, what is short enough is not multiplied by one.
        if self.settings.clip is not None and (norm.device.type != "cpu" or not norm <= self.settings.clip):
            nn.utils.clip_grads_with_norm_(parameters, self.settings.clip, norm)
        return norm


def held(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """What an optimizer moves, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def adamw(
    parameters: list[tuple[nn.Parameter, bool]], settings: TrainSettings, device: torch.device
) -> torch.optim.AdamW:
    """AdamW; weight decay pulls at matrices alone, not at biases and norms.

    Args:
        parameters: Each with whether it decays.
        settings: Section `train`.
        device: Where they are.
    """
    groups: list[dict[str, Any]] = [
        {"params": [p for p, decays in parameters if decays], "weight_decay": settings.weight_decay},
        {"params": [p for p, decays in parameters if not decays], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    captured = settings.graphs and device.type == "cuda"  # a graph would keep a number for ever, but reads a tensor
    for group in groups:
        group["lr"] = torch.tensor(settings.lr, device=device) if captured else settings.lr
    fused = device.type in ("cpu", "cuda", "mps")
    return torch.optim.AdamW(groups, fused=fused, capturable=captured)


def _precise(value: Tensor) -> Tensor:
    """A value to be told: in fp32 at least."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))


def first_line(error: BaseException) -> str:
    """What an error says, in a line; of one that only wraps another, what that says."""
    error = getattr(error, "inner_exception", None) or error
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
