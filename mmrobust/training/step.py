"""One update of the weights: the gradients of one batch or of several, then the optimizer's step.

`Step` knows what it moves through few methods, which two classes have: `Trained`, one seed, and
`mmrobust.accel.stacked.Stacked`, several seeds as one. What a step reports has a row for each seed in both.

Nothing in it waits for a GPU, and what it reports stays on the device until somebody reads it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmrobust.contracts import Batch, Objective, Outputs, Progress
from mmrobust.model.learning import Learning
from mmrobust.model.model import Model

if TYPE_CHECKING:
    from mmrobust.recipe import TrainSettings

__all__ = ["Moments", "Step", "Trainable", "Trained", "Views", "autocast", "first_line"]

#: The drawn views of a step may pass through vmap and into a graph.
for _form in (Batch, Outputs):
    if _form not in pytree.SUPPORTED_NODES:
        torch.export.register_dataclass(_form, serialized_type_name=f"mmrobust.{_form.__name__}")

Views = Mapping[str, Batch]
#: What a checkpoint keeps of a seed besides its weights: `<parameter>/<moment>`.
Moments = Mapping[str, Tensor]
#: The loss to be lowered, what is reported, the losses of adversaries, and the outputs of each view.
Losses = tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Outputs]]


class Trainable(Protocol):
    """What `Step` needs of the seeds that it moves; k is their number.

    Attributes:
        seeds: How many seeds it is, k.
        losses: Names of what `__call__` reports: the whole loss, each of its parts before its weight, and what the
            objectives report beside it.
        adversaries: The objectives that work against the others, and whether their gradient is limited.
        memories: The objectives that keep a memory.
        leading: How many dimensions its parameters have before those of a seed's own: 0 or 1.
    """

    seeds: int
    losses: list[str]
    adversaries: dict[str, bool]
    memories: list[str]
    leading: int

    @property
    def uncompilable(self) -> str | None:
        """Why torch.compile cannot compile it; None where it can."""
        ...

    def __call__(self, views: Views, progress: Progress) -> Losses:
        """See `Losses`: 0-d; what `losses` says, `k n`; each 0-d; the outputs where an objective keeps a memory."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained, by name."""
        ...

    def train(self) -> Any:
        """Goes into training mode."""
        ...

    def gather(self, drawn: Sequence[Views]) -> Views:
        """The views of each seed as the views that `__call__` takes."""
        ...

    def remember(self, outputs: dict[str, Outputs], progress: Progress) -> None:
        """Lets the objectives change their memories."""
        ...

    def norms(self, gradients: Sequence[Tensor]) -> Tensor:
        """The norm of each seed's gradient, `k`."""
        ...

    def shorten(self, gradients: Sequence[Tensor], norms: Tensor, at: float | Tensor) -> None:
        """Scales the gradients, in place, of each seed whose norm is larger than `at`, a number or `k`."""
        ...

    def join(self, own: Sequence[Tensor]) -> Tensor:
        """The tensors of the seeds, one each, as a new tensor of the form that the parameters have."""
        ...

    def split(self, tensor: Tensor) -> Sequence[Tensor]:
        """The opposite of `join`, without a copy."""
        ...

    def release(self) -> None:
        """Gives every seed its parameters in memory of its own."""
        ...


class Trained(nn.Module):
    """All that is trained of one seed, as one module: a `Trainable` with k = 1.

    Args:
        model: The model.
        learning: The objectives, with whatever they own.
    """

    seeds = 1
    leading = 0
    uncompilable = None

    def __init__(self, model: Model, learning: Learning) -> None:
        super().__init__()
        self.model = model
        self.learning = learning
        objectives = learning.named_objectives()
        self.losses = ["total", *(key for key, _ in objectives), *learning.figures]
        self.adversaries = {key: objective.limited for key, objective in objectives if objective.adversarial}
        self.factors = {key: objective.weight for key, objective in objectives}
        self.memories = [key for key, objective in objectives if type(objective).update is not Objective.update]

    def forward(self, views: Views, progress: Progress) -> Losses:
        """See `Trainable.__call__`."""
        total, parts, figures, outputs = self.learning.compute(self.model, views, progress)
        opposing = {key: self.factors[key] * parts[key] for key in self.adversaries}
        # The step adds the gradient of a limited adversary, so the total to be lowered leaves its loss out.
        whole = sum((opposing[key] for key, limited in self.adversaries.items() if limited), total)
        values = torch.stack([_precise(value) for value in (whole, *parts.values(), *figures.values())])
        return total, values.unsqueeze(0), opposing, outputs if self.memories else {}

    def gather(self, drawn: Sequence[Views]) -> Views:
        """See `Trainable.gather`."""
        return drawn[0]

    def remember(self, outputs: dict[str, Outputs], progress: Progress) -> None:
        """See `Trainable.remember`."""
        self.learning.update(outputs, progress)

    def norms(self, gradients: Sequence[Tensor]) -> Tensor:
        """See `Trainable.norms`."""
        return nn.utils.get_total_norm(gradients).unsqueeze(0)

    def shorten(self, gradients: Sequence[Tensor], norms: Tensor, at: float | Tensor) -> None:
        """See `Trainable.shorten`."""
        at = at[0] if isinstance(at, Tensor) else at
        # Where a norm can be looked at without waiting, what is short enough is not multiplied by one.
        if norms.device.type != "cpu" or not norms.item() <= at:
            share = (at / (norms[0] + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(list(gradients), share)  # pyright: ignore[reportPrivateImportUsage]

    def join(self, own: Sequence[Tensor]) -> Tensor:
        """See `Trainable.join`."""
        return own[0].clone()

    def split(self, tensor: Tensor) -> Sequence[Tensor]:
        """See `Trainable.split`."""
        return [tensor]

    def release(self) -> None:
        """See `Trainable.release`; one seed has memory of its own."""


class Step:
    """Moves the weights of the seeds that it is given, compiled or captured on request.

    Args:
        trained: What is moved, on the device.
        settings: Section `train` of the recipe.
        device: Where it is.
        log: Gets a line on what the user should know.
        moments: What `rest` has given of each seed, or a checkpoint; empty for a seed that has made no step.

    Attributes:
        names: What a step reports: the loss, each of its parts before its weight, what the objectives report, the norm
            of the gradient, and `norms`.
        norms: Of the gradient on the generic extractor: that of each adversary, `view.objective.gradient`, and of all
            other objectives together, `task.gradient`; empty without an adversary.
        opposing: Gradients of the adversaries on the generic extractor, added up over the batches of an update.
        optimizer: Holds the moments.
        scaler: Scales the loss where the precision is fp16.
        average: The moving average of the weights, by name; empty without `train.ema` and before the first step. At
            rest it changes places with the weights.
        lr: The learning rate that was set last.
        lenient: Whether kernels without a deterministic form may run, since the step has some.
    """

    def __init__(
        self,
        trained: Trainable,
        settings: TrainSettings,
        device: torch.device,
        log: Callable[[str], None],
        moments: Sequence[Moments] = (),
    ) -> None:
        self.trained, self.settings, self.device, self.log = trained, settings, device, log
        self.norms = [f"{key}.gradient" for key in trained.adversaries]
        self.norms += ["task.gradient"] if self.norms else []
        self.names = [*trained.losses, "gradient", *self.norms]
        self.opposing: dict[str, list[Tensor]] = {}
        self.weights = {name: p for name, p in trained.named_parameters() if p.requires_grad}
        decays = [(p, p.dim() - trained.leading >= 2) for p in self.weights.values()]
        self.optimizer = build_optimizer(decays, settings, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.average: dict[str, Tensor] = {}
        self.lr = settings.lr
        self.lenient = False
        self._compiled: Callable[[Views, Progress], Losses] | None = None
        self._run: Callable[[Sequence[Views], Progress], Tensor] | None = None
        self._take(moments)

    # A step

    def __call__(self, batches: Sequence[Views], progress: Progress) -> Tensor:
        """One update from some batches; what `names` says of each seed, `k n`, on the device."""
        if self._run is None:
            self._run = self._faster()
        return self._run(batches, progress)

    def backward(self, views: Views, progress: Progress, share: float = 1.0) -> Tensor:
        """Adds the gradients of one batch to those that are there.

        Args:
            views: The batch, drawn.
            progress: How far training has come.
            share: The batch's share in the update.

        Returns:
            The losses, `k n`.
        """
        values, outputs = self._backward(views, progress, share)
        if self.trained.memories:
            self.trained.remember(outputs, progress)
        return values

    def update(self) -> Tensor:
        """Moves the weights along the gradients that are there and forgets them.

        Returns:
            The norm of each seed's gradient before clipping, and `norms`, `k n`.
        """
        opposing = self._oppose()
        self.scaler.unscale_(self.optimizer)
        norms = _precise(self._clip())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.settings.ema is not None:
            self._move_average(self.settings.ema)
        return torch.stack([norms, *opposing], -1)

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate; in place where the optimizer reads it from the device."""
        self.lr = rate
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def forward(self, views: Views, progress: Progress) -> Losses:
        """The loss and what it consists of, under the recipe's precision."""
        with autocast(self.settings.precision, self.device):
            return self.trained(views, progress)

    def _learn(self, batches: Sequence[Views], progress: Progress) -> Tensor:
        losses = [self.backward(views, progress, 1 / len(batches)) for views in batches]
        mean = losses[0] if len(losses) == 1 else torch.stack(losses).mean(0)
        return torch.cat([mean, self.update()], -1)

    def _backward(self, views: Views, progress: Progress, share: float) -> tuple[Tensor, dict[str, Outputs]]:
        if self._compiled is not None:
            try:
                return self._through(self._compiled, views, progress, share)
            except Exception as error:  # whatever torch.compile meets; the plain pass raises what is truly wrong
                self._compiled = None
                self.optimizer.zero_grad()
                self.log(f"train.compile: torch.compile failed, so the step runs as it is ({first_line(error)})")
        return self._through(self.forward, views, progress, share)

    def _through(
        self, forward: Callable[[Views, Progress], Losses], views: Views, progress: Progress, share: float
    ) -> tuple[Tensor, dict[str, Outputs]]:
        try:
            total, values, opposing, outputs = forward(views, progress)
            scaled = lambda loss: self.scaler.scale(loss if share == 1 else loss * share)
            for key, loss in opposing.items():
                self._keep_opposing(key, scaled(loss))
            if total.requires_grad:  # a limited adversary is no part of it
                scaled(total).backward()
        except RuntimeError as error:
            if self.lenient or "does not have a deterministic implementation" not in str(error):
                raise
            self.lenient = True
            torch.use_deterministic_algorithms(True, warn_only=True)
            self.optimizer.zero_grad()
            self.opposing.clear()
            self.log(f"steps are not the same bits every time on this GPU: {first_line(error)}")
            return self._through(forward, views, progress, share)
        return values, outputs

    def _generic(self) -> list[nn.Parameter]:
        """The weights of the generic extractor."""
        return [p for name, p in self.weights.items() if name.startswith("model.generic.")]

    def _keep_opposing(self, key: str, loss: Tensor) -> None:
        """Adds the gradient of an adversary on the generic extractor to that of the update's other batches."""
        weights = self._generic()
        own = [None] * len(weights)
        if loss.requires_grad and weights:
            own = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        own = [torch.zeros_like(p) if g is None else g for p, g in zip(weights, own, strict=True)]
        before = self.opposing.get(key)
        self.opposing[key] = own if before is None else [a + b for a, b in zip(before, own, strict=True)]

    @torch.no_grad()
    def _oppose(self) -> list[Tensor]:
        """Adds the gradients of limited adversaries, none longer than that of the other objectives; what `norms` says.

        The gradients of adversaries that are not limited are in the weights' already.
        """
        opposing, self.opposing = self.opposing, {}
        if not self.norms:
            return []
        weights = self._generic()
        if not weights:
            zero = torch.zeros(self.trained.seeds, device=self.device)
            return [zero] * len(self.norms)
        others = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in weights]
        for key, limited in self.trained.adversaries.items():
            if not limited:
                others = [a - b for a, b in zip(others, opposing[key], strict=True)]
        most, norms = self.trained.norms(others), []
        for key, limited in self.trained.adversaries.items():
            norms.append(self.trained.norms(opposing[key]))
            if limited:
                self.trained.shorten(opposing[key], norms[-1], most)
                for p, g in zip(weights, opposing[key], strict=True):
                    p.grad = g if p.grad is None else p.grad.add_(g)
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else 1.0
        return [_precise(norm) / scale for norm in (*norms, most)]

    def _clip(self) -> Tensor:
        moved = [p for group in self.optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in moved if p.grad is not None]
        norms, clip = self.trained.norms(gradients), self.settings.clip
        if clip is not None and clip.by == "norm":
            self.trained.shorten(gradients, norms, clip.at)
        elif clip is not None:
            for gradient in gradients:
                gradient.clamp_(-clip.at, clip.at)
        return norms

    @torch.no_grad()
    def _move_average(self, decay: float) -> None:
        if not self.average:  # it begins at the weights after the first step
            self.average = {name: p.detach().clone() for name, p in self.weights.items()}
        else:
            for name, average in self.average.items():
                average.lerp_(self.weights[name], 1 - decay)

    # Faster steps

    def _faster(self) -> Callable[[Sequence[Views], Progress], Tensor]:
        """A step, made as fast as the recipe asks and the place allows."""
        if self.settings.compile:
            if self.trained.uncompilable:
                self.log(f"train.compile: {self.trained.uncompilable}, so steps are not compiled")
            else:
                self._compiled = torch.compile(self.forward)
        if self.settings.graphs:
            if reason := self.graphless():
                self.log(f"train.graphs: {reason}, so steps are not captured")
            else:
                from mmrobust.accel.graphs import Graphed

                forward = lambda batches, progress: self.forward(batches[0], progress)
                return Graphed(self._learn, forward, self.optimizer.zero_grad, self.log)
        return self._learn

    def graphless(self) -> str | None:
        """Why whole steps cannot be captured."""
        if self.device.type != "cuda":
            return f"CUDA graphs need a GPU, and this trains on '{self.device}'"
        if self.scaler.is_enabled():
            return "fp16 looks at every gradient for an overflow"
        if self.trained.memories:
            return f"the objective {self.trained.memories[0]} keeps a memory"
        return None

    # At rest

    @contextmanager
    def rest(self) -> Iterator[Sequence[Moments]]:
        """The seeds as a checkpoint keeps them, for a block; what it gives shares memory with the step.

        Their models have the weights that are validated, kept and used: the average, where there is one.

        Yields:
            The moments of each seed.
        """
        self._exchange()
        try:
            yield self._moments()
        finally:
            self._exchange()

    def release(self) -> Sequence[Moments]:
        """Ends the step: the seeds are at rest, with memory of their own; gives the moments of each."""
        self._exchange()
        moments = [{key: value.clone() for key, value in own.items()} for own in self._moments()]
        self._run = None  # and with it its graphs
        self.trained.release()
        return moments

    @torch.no_grad()
    def _exchange(self) -> None:
        """Puts the averages in the place of the weights, and the weights in that of the averages."""
        for name, average in self.average.items():
            weight = self.weights[name].clone()
            self.weights[name].copy_(average)
            average.copy_(weight)

    def _moments(self) -> Sequence[Moments]:
        moments: list[dict[str, Tensor]] = [{} for _ in range(self.trained.seeds)]
        for name, p in self.weights.items():
            for key, value in self.optimizer.state[p].items():
                if value is not None:
                    parts = [value] * len(moments) if key == "step" else self.trained.split(value)
                    for own, part in zip(moments, parts, strict=True):
                        own[f"{name}/{key}"] = part
        for name, weight in self.average.items():
            for own, part in zip(moments, self.trained.split(weight), strict=True):
                own[f"{name}/weight"] = part
        return moments

    def _take(self, moments: Sequence[Moments]) -> None:
        """Takes over the moments that all the seeds have."""
        joined: dict[str, dict[str, Tensor]] = {}
        for key in moments[0] if moments else ():
            own = [one[key] for one in moments if key in one]
            if len(own) == len(moments):
                name, _, moment = key.rpartition("/")
                # A copy: kernels may round differently on memory that is aligned differently, as in a file's bytes.
                joined.setdefault(name, {})[moment] = own[0].clone() if moment == "step" else self.trained.join(own)
        own = {name: joined.get(name, {}).pop("weight", None) for name in self.weights}
        self.average = {name: weight.to(self.device) for name, weight in own.items() if weight is not None}
        self._exchange()
        names = {p: name for name, p in self.weights.items()}
        order = [names[p] for group in self.optimizer.param_groups for p in group["params"]]
        state = self.optimizer.state_dict()
        state["state"] = {i: joined[name] for i, name in enumerate(order) if name in joined}
        self.optimizer.load_state_dict(state)


def build_optimizer(
    weights: Sequence[tuple[nn.Parameter, bool]], settings: TrainSettings, device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer that the recipe names; weight decay pulls at matrices alone, not at biases and norms.

    Args:
        weights: Each with whether it decays.
        settings: Section `train`.
        device: Where they are.
    """
    captured = settings.graphs and device.type == "cuda"  # a graph would keep a number for ever, but reads a tensor
    groups: list[dict[str, Any]] = [
        {"params": [p for p, decays in weights if decays], "weight_decay": settings.weight_decay},
        {"params": [p for p, decays in weights if not decays], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    for group in groups:
        group["lr"] = torch.tensor(settings.lr, device=device) if captured else settings.lr
    kind = getattr(torch.optim, type(settings.optimizer).__name__)
    able = {"fused": device.type in ("cpu", "cuda", "mps"), "capturable": captured}
    known = inspect.signature(kind).parameters
    return kind(groups, **asdict(settings.optimizer), **{name: on for name, on in able.items() if name in known})


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The recipe's number format, for a `with` block."""
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def _precise(value: Tensor) -> Tensor:
    """A value to be reported: in fp32 at least."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))


def first_line(error: BaseException) -> str:
    """What an error says, in a line; of one that only wraps another, what that says."""
    error = getattr(error, "inner_exception", None) or error
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
