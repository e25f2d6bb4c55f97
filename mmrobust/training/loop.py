"""The training loop: the same for one seed, which is a stack of one, and for several that are trained as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from mmrobust.contracts.randomness import derive
from mmrobust.errors import InterruptedRun
from mmrobust.supervisor import Interrupt
from mmrobust.training.device import deterministic, slow_precision
from mmrobust.training.progress import Meter
from mmrobust.training.seed import Seed
from mmrobust.training.step import Step, Trainable

__all__ = ["fit", "train_epoch"]


def fit(seeds: Sequence[Seed], meter: Meter | None = None, interrupt: Interrupt | None = None) -> None:
    """Trains seeds, each to its own end; seeds that stand at the same epoch are trained as one.

    Afterwards each has `state.finished`, or `diverged` says why not.

    Args:
        seeds: New, or resumed; their models stand at the last epoch's weights afterwards.
        meter: Shows the progress of all, in steps; None for none.
        interrupt: Looked at after each step.

    Raises:
        InterruptedRun: `interrupt` was requested.
        WriteError: A checkpoint cannot be written.
    """
    meter = Meter("", 1, quiet=True) if meter is None else meter
    if slow := slow_precision(seeds[0].settings.precision, seeds[0].device):
        seeds[0].log(slow)
    for key, objective in seeds[0].learning.named_objectives():
        if objective.caution and not seeds[0].state.epoch:
            seeds[0].log(f"{key}: {objective.caution}")
    for seed in seeds:
        if seed.state.epoch and not seed.done:
            seed.log(f"goes on after epoch {seed.state.epoch}")
    begun, step, stacked = meter.done, None, []
    while going := [seed for seed in seeds if not seed.done]:
        lowest = min(seed.state.epoch for seed in going)
        meter.skip(begun + sum(seed.steps_done for seed in seeds) - meter.done)
        stop_if(interrupt, f"after epoch {lowest}", going)
        now = [seed for seed in going if seed.state.epoch == lowest]
        if step is None or stacked != now:
            release(step, stacked)
            step, stacked = take(now), now
        train_epoch(step, now, partial(watch, now, meter, interrupt))
    release(step, stacked)
    meter.skip(begun + sum(seed.steps_done for seed in seeds) - meter.done)


def train_epoch(step: Step, seeds: Sequence[Seed], watch: Callable[[], None] = lambda: None) -> None:
    """Trains seeds for one epoch, validates them, and writes their checkpoints.

    Args:
        step: What moves their weights.
        seeds: All at the same epoch.
        watch: Called after each step.
    """
    epochs = [seed.begin() for seed in seeds]
    step.trained.train()
    with deterministic(step.device, derive(seeds[0].number, "dropout", epochs[0].number), step.lenient):
        for updates in zip(*(epoch.updates for epoch in epochs), strict=True):
            step.set_rate(seeds[0].rate())
            drawn = [[seed.draw(index) for index in update] for seed, update in zip(seeds, updates, strict=True)]
            batches = [step.trained.gather(views) for views in zip(*drawn, strict=True)]
            values = step(batches, seeds[0].progress())
            for seed, update, row in zip(seeds, updates, values, strict=True):
                seed.record(step, update, row)
            if all(seed.diverged for seed in seeds):
                return
            watch()
    with step.rest() as moments:
        for seed, own in zip(seeds, moments, strict=True):
            if not seed.diverged:
                seed.end(step, own)


def take(seeds: Sequence[Seed], log: Callable[[str], None] | None = None) -> Step:
    """A step that moves these seeds, from where they rest.

    Args:
        seeds: All at the same epoch.
        log: Gets a line on what the user should know; None for the first seed's log.
    """
    first = seeds[0]
    trained = first.trained if len(seeds) == 1 else _stacked(seeds)
    step = Step(trained, first.settings, first.device, log or first.log, [seed.moments for seed in seeds])
    if first.state.scaler:
        step.scaler.load_state_dict(first.state.scaler)
    return step


def _stacked(seeds: Sequence[Seed]) -> Trainable:
    from mmrobust.accel.stacked import Stacked

    return Stacked([seed.trained for seed in seeds])


def release(step: Step | None, seeds: Sequence[Seed]) -> None:
    """Puts the seeds of a step to rest, each with memory of its own."""
    if step is not None:
        for seed, moments in zip(seeds, step.release(), strict=True):
            seed.moments = moments


def watch(seeds: Sequence[Seed], meter: Meter, interrupt: Interrupt | None) -> None:
    """Shows a step that is done, and stops where that was asked for."""
    epoch, losses = seeds[0].epoch, [seed.epoch.loss for seed in seeds]
    label = seeds[0].label if len(seeds) == 1 else f"seed {', '.join(str(seed.number) for seed in seeds)}: "
    known = [loss for loss in losses if loss is not None]
    note = f"loss {sum(known) / len(known):.4g}" if known else ""
    meter.update(meter.done + len(seeds), note, f"{label}epoch {epoch.number}/{seeds[0].settings.epochs}")
    stop_if(interrupt, f"in epoch {epoch.number}", seeds)


def stop_if(interrupt: Interrupt | None, where: str, seeds: Sequence[Seed]) -> None:
    """Raises `InterruptedRun` where the user has asked to stop."""
    if interrupt is not None and interrupt.requested:
        numbers = ", ".join(str(seed.number) for seed in seeds)
        raise InterruptedRun(f"interrupted {where} of seed {numbers}; every finished epoch is saved")
