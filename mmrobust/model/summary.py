"""What a built recipe consists of: its tree with shapes, parameters and FLOPs, and one real training step."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mmrobust.contracts import Batch, Progress, Shape, Streams
from mmrobust.contracts.randomness import generator, global_seed
from mmrobust.errors import DivergedError, Problem, RecipeError
from mmrobust.model.assemble import Built
from mmrobust.nn.attention import Case, Unusable, asked, expected, explain, use_attention, watch


@dataclass(frozen=True)
class Row:
    """One line of the tree.

    Attributes:
        slot: Which slot of the recipe.
        use: The component in it.
        shapes: What it gives, e.g. `text 50x128, audio 50x128` (steps x width).
        parameters: How many numbers it learns.
        flops: Floating-point operations of one sample's forward pass, without padding (a multiplication and an addition
            are two).
    """

    slot: str
    use: str
    shapes: str
    parameters: int
    flops: int = 0


@dataclass(frozen=True)
class Summary:
    """What `mmrobust build` prints.

    Attributes:
        name: The recipe's name.
        text: The recipe's summary.
        data: One line on the data.
        features: Raw shapes.
        model: The parts in the order in which data meets them.
        objectives: The objectives by `view.objective`.
        outputs: Width of the prediction.
        attention: Which attention backend runs in training, and why not another one.
        fast: What `accel` makes faster, and what not and why.
        batch: Samples of the tried step.
        losses: Losses of the tried step, by `view.objective`, and `total`.
        idle: Parameters that got no gradient in it.
    """

    name: str
    text: str
    data: str
    features: str
    model: tuple[Row, ...]
    objectives: tuple[Row, ...]
    outputs: int
    attention: tuple[str, ...]
    fast: tuple[str, ...]
    batch: int
    losses: Mapping[str, float] = field(default_factory=dict)
    idle: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Parameters of the model, without the objectives'."""
        return sum(row.parameters for row in self.model)

    @property
    def flops(self) -> int:
        """Floating-point operations of one sample's forward pass."""
        return sum(row.flops for row in self.model)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        row = lambda r: {"slot": r.slot, "use": r.use, "gives": r.shapes, "parameters": r.parameters, "flops": r.flops}
        return {
            "name": self.name,
            "data": self.data,
            "features": self.features,
            "model": [row(r) for r in self.model],
            "objectives": [{"name": r.slot, "parameters": r.parameters} for r in self.objectives],
            "outputs": self.outputs,
            "parameters": self.parameters,
            "flops": self.flops,
            "attention": list(self.attention),
            "fast": list(self.fast),
            "step": {"batch": self.batch, "losses": dict(self.losses), "without_gradient": list(self.idle)},
        }

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        rows = [("", "", "gives (steps x width)", "parameters", "MFLOP")]
        rows += [("features", "", self.features, "", "")]
        last = len(self.model) - 1
        for i, r in enumerate(self.model):
            branch = "└─ " if i == last else "├─ "
            rows.append((branch + r.slot, r.use, r.shapes, _count(r.parameters), f"{r.flops / 1e6:,.2f}"))
        rows.append(("prediction", "", str(self.outputs), _count(self.parameters), f"{self.flops / 1e6:,.2f}"))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [f"{self.name}: {self.text}", f"data: {self.data}", ""]
        for row in rows:
            left = "  ".join(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=False))
            right = "  ".join(cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True))
            lines.append(f"{left}  {right}".rstrip())
        if self.objectives:
            lines += ["", "objectives (training only)"]
            width = max(len(r.slot) for r in self.objectives)
            lines += [
                f"   {r.slot.ljust(width)}  {self.losses[r.slot]:8.4f}  {_count(r.parameters)} parameters"
                for r in self.objectives
            ]
        cases = [line if i == 0 or line.startswith(" ") else f"   and {line}" for i, line in enumerate(self.attention)]
        lines += ["", "attention: " + "\n".join(cases), *(f"fast: {line}" for line in self.fast)]
        total = self.losses["total"]
        lines.append(f"one step on {self.batch} samples: loss {total:.4f}, forward and backward finite")
        if self.idle:
            lines.append(f"no gradient reached: {', '.join(self.idle)}")
        return "\n".join(lines)


def summarize(built: Built, *, seed: int | None = None) -> Summary:
    """Looks at a built recipe and tries one training step of it on real samples.

    Gradients are left as `None`, weights as they were.

    Args:
        built: What to look at.
        seed: Seed of the tried step's noise; None for the recipe's first.

    Raises:
        DivergedError: The loss or a gradient of the tried step is not finite.
        RecipeError: The recipe's attention backend cannot run what the model asks for.
    """
    recipe, context, dataset = built.recipe, built.context, built.dataset
    task = context.task
    rows = []
    train = dataset.splits["train"]
    count = min(recipe.train.batch_size, len(train))
    batch = train.batch(torch.arange(count)).zeroed()
    counts = _flops(built, batch.features)
    shapes = {
        "encoder": built.model.encoder.shapes,
        "generic": built.model.generic.shapes,
        "specific": built.model.specific.shapes,
        "fusion": {"": built.model.fusion.shape},
        "head": {},
    }
    uses = {
        "encoder": recipe.model.encoder,
        "generic": recipe.model.generic_extractor,
        "specific": recipe.model.specific_extractor,
        "fusion": recipe.model.fusion,
        "head": recipe.model.head,
    }
    for name, part in built.model.parts.items():
        slot = f"{name}_extractor" if name in ("generic", "specific") else name
        rows.append(Row(slot, uses[name].use, _shapes(shapes[name]), _size(part), counts[name] // count))
    known = expected(recipe.train.device, recipe.train.precision)
    losses, idle, attention = _attended(built, batch, recipe.train.seeds[0] if seed is None else seed, known)
    what = {"regression": f"regression on [{task.low:g}, {task.high:g}]" if task.low is not None else "regression"}
    kind = what.get(task.kind, f"{task.kind} of {len(task.names) or task.outputs}")
    sizes = ", ".join(f"{split} {len(s)}" for split, s in dataset.splits.items())
    objectives = tuple(
        Row(key, key.partition(".")[2], "", _size(objective)) for key, objective in built.learning.named_objectives()
    )
    return Summary(
        name=recipe.name,
        text=recipe.summary,
        data=f"{recipe.data.use}, {kind}; {sizes}",
        features=_shapes(context.features),
        model=tuple(rows),
        objectives=objectives,
        outputs=task.outputs,
        attention=attention,
        fast=built.fast,
        batch=count,
        losses=losses,
        idle=idle,
    )


def _attended(
    built: Built, batch: Batch, seed: int, known: Case
) -> tuple[dict[str, float], tuple[str, ...], tuple[str, ...]]:
    """The tried step, and which attention backend runs the like of it on the device that the recipe trains on."""
    recipe = built.recipe
    # The step is tried on a CPU; a backend that is for a GPU alone cannot be part of it.
    tried = nullcontext() if known.device == "cpu" else use_attention("auto")
    try:
        with tried, watch() as calls:
            # A CPU has other operations in bf16 than a GPU, and in fp16 gradients overflow without a scaler.
            losses, idle = _step(built, batch, seed, known.device == "cpu" and recipe.train.precision == "bf16")
        cases = [case._replace(device=known.device, dtype=known.dtype) for case in calls]
        return losses, idle, tuple(explain(recipe.model.attention, cases))
    except Unusable as error:
        if asked(recipe.model.attention)[1] != "the recipe":
            raise
        raise RecipeError(Problem(str(error), recipe.where("model", "attention"))) from error


def _step(built: Built, batch: Batch, seed: int, half: bool) -> tuple[dict[str, float], tuple[str, ...]]:
    modules = nn.ModuleDict({"model": built.model, "learning": built.learning})
    named = dict(modules.named_parameters())
    progress = Progress(0, torch.zeros(()))
    with global_seed(seed), torch.autocast("cpu", torch.bfloat16, enabled=half):
        total, parts, _ = built.learning.losses(built.model, batch, generator(seed, "summary"), progress)
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True) if total.requires_grad else []
    losses = {key: float(loss.detach()) for key, loss in parts.items()} | {"total": float(total.detach())}
    for key, loss in losses.items():
        if not math.isfinite(loss):
            raise DivergedError(f"the loss '{key}' of the very first step is {loss}; look for NaN in the features")
    for name, gradient in zip(named, gradients, strict=False):
        if gradient is not None and not gradient.isfinite().all():
            raise DivergedError(f"the gradient of '{name}' in the very first step is not finite")
    return losses, tuple(name for name, gradient in zip(named, gradients, strict=False) if gradient is None)


def _flops(built: Built, features: Streams) -> dict[str, int]:
    """Operations of each part in one forward pass; counted with the written-out attention, where none is hidden.

    Every step counts as real: what padding saves differs from batch to batch.
    """
    counts = dict.fromkeys(built.model.parts, 0)
    features = {m: replace(s, mask=torch.ones_like(s.mask)) for m, s in features.items()}
    was = built.model.training
    built.model.eval()
    with torch.no_grad(), use_attention("manual"), _Counter(built.model.parts, counts):
        built.model(features)
    built.model.train(was)
    return counts


class _Counter(TorchDispatchMode):
    """Adds up the operations of each part, by torch's own formulas.

    Torch's `FlopCounterMode` would do, were it not that its first use imports the compiler, which takes as long as
    importing torch.
    """

    def __init__(self, parts: Mapping[str, nn.Module], counts: dict[str, int]) -> None:
        super().__init__()
        self.counts, self.inside = counts, list[str]()
        self.hooks = []
        for name, part in parts.items():
            self.hooks.append(part.register_forward_pre_hook(lambda *_, name=name: self.inside.append(name)))
            self.hooks.append(part.register_forward_hook(lambda *_: self.inside.pop() and None))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the compiler is not asked to keep out, so it need not be imported

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None and self.inside:
            self.counts[self.inside[-1]] += formula(*args, **(kwargs or {}), out_val=out)
        return out

    def __exit__(self, *error: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        super().__exit__(*error)


def _shapes(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{key} {shape}".strip() for key, shape in shapes.items())


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _count(number: int) -> str:
    return f"{number:,}"
