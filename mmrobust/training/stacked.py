"""Seeds trained together: the weights of all are stacked, and one step moves every one of them.

Each seed keeps what it would have alone: its own order of samples and noises (drawn one seed after the other, then
stacked), its own memories, norm of the gradient, validation, best checkpoint, patience and divergence. AdamW works on
each number alone and needs nothing of its own. A seed that has stopped leaves the stack and the others go on. What
comes out is what each seed gives alone, but for the order in which floats are added; dropout draws from one stream for
all, so that it has the same distribution as alone, not the same bits.

Outside of a step every seed is an ordinary `Trainer`: its parameters, buffers and moments are views of the stack, so
that validation, checkpoints and resuming know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from mmrobust.contracts import Batch, Component, Outputs, Progress
from mmrobust.contracts.randomness import derive, generator
from mmrobust.errors import DivergedError
from mmrobust.model.assemble import Built, build
from mmrobust.training.checkpoint import State
from mmrobust.training.folder import RunFolder
from mmrobust.training.loop import (
    Interrupt,
    Told,
    Trainer,
    choose_device,
    own_randomness,
    slow_precision,
    stop_if,
    tell_epoch,
    telling,
    told_best,
)
from mmrobust.training.progress import Meter
from mmrobust.training.step import Found, Learner, Views, adamw, first_line, held

__all__ = ["Stack", "fit_together", "unstackable"]

_SLOTS = {"generic": "generic_extractor", "specific": "specific_extractor"}


def unstackable(built: Built) -> str | None:
    """Why the seeds of a recipe cannot be trained as one stacked model; None where they can."""
    if built.recipe.train.precision == "fp16":
        return "fp16 scales the loss of each seed on its own (bf16 needs no scaling)"
    for slot, part in built.model.parts.items():
        slot = _SLOTS.get(slot, slot)
        if culprit := _culprit(part):
            return f"{slot} '{getattr(built.recipe.model, slot).use}' cannot be stacked ({culprit})"
    for key, part in built.learning.named_objectives():
        if culprit := _culprit(part):
            return f"objective '{key}' cannot be stacked ({culprit})"
    return None


def _culprit(part: nn.Module) -> str | None:
    found = next((m for m in part.modules() if isinstance(m, Component) and not m.vmappable), None)
    return None if found is None else f"{type(found).__name__} declares vmappable = False"


class Stack(Learner):
    """Moves the weights of several seeds that stand at the same step, as one.

    While it lives, the seeds' parameters and buffers are views of it, and so are their moments after `hand_over`.

    Args:
        trainers: The seeds.
        tell: Told what the user should know.
    """

    # Measured with torch 2.15: traced under vmap, an autograd function's own backward is silently left out.
    uncompiled = "torch.compile would lose the gradient reversal of stacked seeds"

    def __init__(self, trainers: Sequence[Trainer], tell: Callable[[str], None] = lambda text: None) -> None:
        self.trainers = list(trainers)
        first = trainers[0]
        assert all(trainer.state.step == first.state.step for trainer in trainers)
        modules = [trainer.learner.trained for trainer in trainers]
        self.parameters: dict[str, nn.Parameter] = {}
        self.buffers: dict[str, Tensor] = {}
        for name, own in _tensors(modules, nn.Module.named_parameters).items():
            stacked = torch.stack([p.detach() for p in own])
            self.parameters[name] = nn.Parameter(stacked, requires_grad=own[0].requires_grad)
            for p, view in zip(own, stacked, strict=True):
                p.data, p.grad = view, None
        for name, own in _tensors(modules, nn.Module.named_buffers).items():
            self.buffers[name] = torch.stack(own)
        self._bind()
        super().__init__(first.learner.trained, first.settings, first.device, tell)
        self._take_moments()

    def _optimizer(self) -> torch.optim.AdamW:
        stacked = [(p, p.dim() >= 3) for p in self.parameters.values() if p.requires_grad]
        return adamw(stacked, self.settings, self.device)

    def _take_moments(self) -> None:
        """Takes over the seeds' moments."""
        optimizers = [trainer.learner.optimizer for trainer in self.trainers]
        for p, *own in zip(held(self.optimizer), *map(held, optimizers), strict=True):
            states = [optimizer.state[one] for optimizer, one in zip(optimizers, own, strict=True)]
            if all("exp_avg" in state for state in states):
                names = [name for name in states[0] if name != "step"]
                moments = {name: torch.stack([state[name] for state in states]) for name in names}
                self.optimizer.state[p] = {"step": states[0]["step"].clone(), **moments}

    def hand_over(self) -> None:
        """Makes every seed's own optimizer show what the stack's has come to."""
        for number, trainer in enumerate(self.trainers):
            optimizer = trainer.learner.optimizer
            for p, own in zip(held(self.optimizer), held(optimizer), strict=True):
                if state := self.optimizer.state[p]:
                    shared = {name: moment[number] for name, moment in state.items() if name != "step"}
                    optimizer.state[own] = {"step": state["step"], **shared}
            trainer.learner.lr = self.lr

    def dissolve(self) -> None:
        """Gives every seed memory of its own again."""
        self.hand_over()
        self._run = None  # and with it its graphs
        for trainer in self.trainers:
            for p in trainer.learner.trained.parameters():
                p.data = p.data.clone()
            for module, leaf, _ in _buffers(trainer.learner.trained):
                module._buffers[leaf] = module._buffers[leaf].clone()  # type: ignore[union-attr]
            for state in trainer.learner.optimizer.state.values():
                state.update({name: value.clone() for name, value in state.items()})

    def _bind(self) -> None:
        for number, trainer in enumerate(self.trainers):
            for module, leaf, name in _buffers(trainer.learner.trained):
                if name in self.buffers:
                    module._buffers[leaf] = self.buffers[name][number]

    def forward(self, views: Views, progress: Progress) -> Found:
        """As one seed's, of views whose first dimension is the seed; each value has one for each seed."""

        def one(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], views: Views) -> Any:
            return functional_call(self.trained, {**parameters, **buffers}, (views, progress))

        with self.precision():
            total, values, outputs = vmap(one, randomness="different")(self.parameters, self.buffers, dict(views))
        return total.sum(), values, outputs  # no seed's loss depends on another's weights

    def remember(self, outputs: dict[str, Outputs], progress: Progress) -> None:
        """Lets the objectives of each seed change their memories."""
        for number, trainer in enumerate(self.trainers):
            trainer.learning.update(pytree.tree_map(lambda x, at=number: x[at], outputs), progress)
            for module, leaf, name in _buffers(trainer.learner.trained):
                own, stacked = module._buffers[leaf], self.buffers[name][number]
                if own is not None and own.data_ptr() != stacked.data_ptr():  # a new tensor, not the old one changed
                    stacked.copy_(own)
                    module._buffers[leaf] = stacked

    def clip(self) -> Tensor:
        """Shortens each seed's gradient where it is too long; their norms before, one for each."""
        gradients = [p.grad for p in held(self.optimizer) if p.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
        norm = torch.linalg.vector_norm(norms, dim=0)
        if self.settings.clip is not None:
            share = (self.settings.clip / (norm + 1e-6)).clamp(max=1)
            for g in gradients:
                g.mul_(share.view(-1, *[1] * (g.dim() - 1)))
        return norm

    def epoch(self, watch: Callable[[], None], diverged: Callable[[int, str], None]) -> list[dict[str, Any]]:
        """Trains one epoch of all seeds; a line for `metrics.jsonl` of each that did not diverge.

        Args:
            watch: Called after each step.
            diverged: Told of each seed that diverged, and why.
        """
        first = self.trainers[0]
        going = {trainer.seed: (trainer, trainer.begin()) for trainer in self.trainers}
        epochs = [epoch for _, epoch in going.values()]
        with own_randomness(self.device, derive(first.seed, "dropout", epochs[0].number), self.lenient):
            for i in range(first.steps_each):
                number = first.state.step
                indices = [epoch.batches[i] for epoch in epochs]
                drawn = [
                    trainer.learning.draw(trainer.train.batch(index), epoch.noise)
                    for trainer, index, epoch in zip(self.trainers, indices, epochs, strict=True)
                ]
                self.set_rate(first.rate(number))
                values = self(stack_views(drawn), first.progress(number))
                for trainer, epoch, index, row in zip(self.trainers, epochs, indices, values, strict=True):
                    trainer.state.step += 1
                    if trainer.seed not in going:  # diverged; what it does in the stack harms nobody
                        continue
                    epoch.pending.append(Told(number, index, row))
                    try:
                        trainer.look(epoch)
                    except DivergedError as error:
                        del going[trainer.seed]
                        diverged(trainer.seed, str(error))
                watch()
        self.hand_over()
        lines = []
        for trainer, epoch in going.values():
            try:
                lines.append(trainer.end(epoch))
            except DivergedError as error:
                diverged(trainer.seed, str(error))
        return lines


def stack_views(drawn: Sequence[Mapping[str, Batch]]) -> dict[str, Batch]:
    """The views of several seeds as one, the seed first: `k b ...`. What views share is stacked once."""
    known: dict[tuple[int, ...], Tensor] = {}

    def stack(*leaves: Tensor) -> Tensor:
        key = tuple(map(id, leaves))
        if key not in known:
            known[key] = torch.stack(leaves)
        return known[key]

    return pytree.tree_map(stack, dict(drawn[0]), *map(dict, drawn[1:]))


def _tensors(modules: Sequence[nn.Module], names: Callable[..., Iterator[tuple[str, Any]]]) -> dict[str, list[Any]]:
    """The same parameter or buffer of each module, by name."""
    found = [dict(names(module)) for module in modules]
    return {name: [one[name] for one in found] for name in found[0]}


def _buffers(module: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """Where each buffer lives: its module, its name there, and its whole name; one that is shared is told once."""
    owners = dict(module.named_modules())
    found = []
    for name, _ in module.named_buffers():
        path, _, leaf = name.rpartition(".")
        found.append((owners[path], leaf, name))
    return found


def fit_together(
    built: Built,
    folder: RunFolder,
    seeds: Sequence[int],
    *,
    diverged: Callable[[int, str], None],
    tell: Callable[[str], None],
    resume: bool,
    meter: Meter,
    interrupt: Interrupt,
) -> dict[int, State]:
    """Trains seeds as one stacked model, each to its own end.

    Seeds that a kill left at different epochs first catch up with one another.

    Args:
        built: The recipe, built for any seed; changed in place.
        folder: The run.
        seeds: Those that are not finished.
        diverged: Told of each seed that diverged, and why.
        tell: Told what the user should know.
        resume: Go on from the newest unharmed checkpoints.
        meter: Shows the progress of all.
        interrupt: Looked at after each step.

    Returns:
        Where each seed ended that did not diverge.

    Raises:
        InterruptedRun: `interrupt` was requested.
        WriteError: A checkpoint cannot be written.
    """
    trainers = _trainers(built, folder, seeds, meter)
    why = _trial(trainers)
    if resume:
        for trainer in trainers:
            trainer.resume()
    if slow := slow_precision(built.recipe.train.precision, trainers[0].device):
        tell(slow)
    epochs, states = built.recipe.train.epochs, {trainer.seed: trainer.state for trainer in trainers}
    meter.skip(sum(state.step for state in states.values()))
    going = {trainer.seed: trainer for trainer in trainers}
    if why:
        tell(f"the seeds are trained one after the other, as they cannot be stacked ({why})")
        size = 1
    else:
        names = ", ".join(map(str, seeds))
        tell(f"seeds {names} are trained together, as one stacked model{_dropout(built)}")
        size = len(trainers)
    for trainer in trainers:
        if trainer.state.epoch:
            trainer.tell(f"goes on after epoch {trainer.state.epoch}")
    stack: Stack | None = None

    def drop(seed: int, text: str) -> None:
        diverged(seed, text)
        trainer = going.pop(seed)
        del states[seed]
        meter.skip(trainer.steps - trainer.state.step)

    def finish(trainer: Trainer) -> None:
        trainer.tell(told_best(trainer.state, epochs))
        meter.skip(trainer.steps - trainer.state.step)
        del going[trainer.seed]

    while going:
        stop_if(interrupt, f"after epoch {min(t.state.epoch for t in going.values())}")
        lowest = min(trainer.state.epoch for trainer in going.values())
        now = [trainer for trainer in going.values() if trainer.state.epoch == lowest][:size]
        if stack is None or stack.trainers != now:
            if stack is not None:
                stack.dissolve()
            stack = Stack(now, tell) if len(now) > 1 else None
        label = f"seed {', '.join(str(trainer.seed) for trainer in now)}: epoch {lowest + 1}/{epochs}"

        def watch(*_: object, count: int = len(now), label: str = label, lowest: int = lowest) -> None:
            meter.update(meter.done + count, label=label)
            stop_if(interrupt, f"in epoch {lowest + 1}")

        if stack is None:
            try:
                lines = [now[0].epoch(watch)]
            except DivergedError as error:
                drop(now[0].seed, str(error))
                continue
        else:
            lines = stack.epoch(watch, drop)
        for line in lines:
            trainer = going[line["seed"]]
            better = trainer.close_epoch(line)
            tell_epoch(trainer, line, better, meter, f"seed {trainer.seed}: ")
            if trainer.state.finished:
                finish(trainer)
    return states


def _trainers(built: Built, folder: RunFolder, seeds: Sequence[int], meter: Meter) -> list[Trainer]:
    device, recipe = choose_device(built.recipe), built.recipe
    trainers: list[Trainer] = []
    for seed in seeds:
        own = build(recipe, dataset=built.dataset, seed=seed)
        tell = telling(folder, meter, f"seed {seed}: ")
        trainers.append(Trainer(own, folder, seed, device, tell, beside=trainers[0] if trainers else None))
    return trainers


def _trial(trainers: Sequence[Trainer]) -> str | None:
    """Why these seeds, freshly built, cannot be stacked, found out on a few samples; nothing is changed by it."""
    first = trainers[0]
    index = torch.arange(min(len(first.train), 4), device=first.device)
    views = [t.learning.draw(t.train.batch(index), generator(0, "trial", device=first.device)) for t in trainers]
    modules = [trainer.learner.trained for trainer in trainers]
    for module in modules:
        module.train()
    stack = Stack(trainers)
    try:
        with own_randomness(first.device, 0, lenient=True):
            total, _, _ = stack.forward(stack_views(views), first.progress(0))
            torch.autograd.grad(total, list(stack.parameters.values()), allow_unused=True)
    except Exception as error:  # a part of anyone's, doing anything
        return first_line(error)
    finally:
        stack.dissolve()
    return None


def _dropout(built: Built) -> str:
    parts: list[Any] = [*built.model.modules(), *built.learning.modules()]
    if any(isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0 for part in parts):
        return "; dropout has the same distribution as in a seed alone, not the same bits"
    return ""
