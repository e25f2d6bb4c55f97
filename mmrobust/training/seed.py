"""One seed of a training: what it draws, what it reports, how it is validated, saved and resumed.

Everything random in an epoch (the order of samples, the noises, dropout) comes from the recipe's seed and the number
of the epoch, and a checkpoint is written after each. A training that was killed therefore goes on from its last
checkpoint and ends with the same bits as one that was not: on a CPU with the same versions and number of threads; on a
GPU as far as its kernels are deterministic, which is asked of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmrobust import measures
from mmrobust.contracts import Progress, Split
from mmrobust.contracts.randomness import generator
from mmrobust.errors import DivergedError
from mmrobust.model.checks import selection
from mmrobust.recipe.optimization import Plateau
from mmrobust.training.checkpoint import Checkpoints, State, restore
from mmrobust.training.device import resident
from mmrobust.training.folder import RunFolder
from mmrobust.training.progress import Meter, duration
from mmrobust.training.schedule import factor, plateau
from mmrobust.training.step import Moments, Step, Trained, Views

if TYPE_CHECKING:
    from mmrobust.model.assemble import Built
    from mmrobust.recipe import TrainSettings

__all__ = ["Epoch", "Seed", "StepRecord", "best_value", "predict_split", "steps_of_epoch", "summary"]

_LOOK = 50  # steps on a GPU between two looks at the losses; each look waits for it


@dataclass
class StepRecord:
    """What one step reported, until it is looked at.

    Attributes:
        number: Of the step, from 0.
        index: The samples, `b`.
        values: What `Step.names` says, `n`, on the device.
    """

    number: int
    index: Tensor
    values: Tensor


@dataclass
class Epoch:
    """What one seed draws and reports in one epoch.

    Attributes:
        number: From 1.
        updates: The samples of each step: one batch or, where gradients are accumulated, several.
        noise: Source of its noises.
        lr: The learning rate, before what changes it from step to step.
        records: Steps that were not looked at yet.
        seen: How many were looked at.
        sums: What those reported, added up, by name.
    """

    number: int
    updates: Sequence[Sequence[Tensor]]
    noise: torch.Generator
    lr: float
    records: list[StepRecord] = field(default_factory=list)
    seen: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def loss(self) -> float | None:
        """The mean loss of the steps that were looked at."""
        return self.sums["total"] / self.seen if self.seen else None


class Seed:
    """One seed of a recipe, from its first epoch to its best checkpoint.

    Args:
        built: The recipe, built with this seed; its model and objectives are moved to the device and changed.
        folder: Where the run is kept.
        number: The seed itself, of the order, the noises and dropout.
        device: Where to train.
        meter: Shows the progress, in steps; None for none.
        label: What every line about this seed begins with.
        beside: Another seed of the same run, whose data on the device serves this one too.

    Attributes:
        state: Where it stands.
        moments: What a `Step` needs besides the weights to go on.
        epoch: The epoch that it is in.
        diverged: Why it cannot go on.
    """

    epoch: Epoch

    def __init__(
        self,
        built: Built,
        folder: RunFolder,
        number: int,
        device: torch.device,
        *,
        meter: Meter | None = None,
        label: str = "",
        beside: Seed | None = None,
    ) -> None:
        self.built, self.folder, self.number, self.device, self.label = built, folder, number, device, label
        self.meter = Meter("", 1, quiet=True) if meter is None else meter
        self.settings = settings = built.recipe.train
        self.model, self.learning = built.model.to(device), built.learning.to(device)
        self.trained = Trained(self.model, self.learning)
        splits = built.dataset.splits
        self.train = resident(splits["train"], built.context, device) if beside is None else beside.train
        self.select = selection(built.recipe, built.dataset)
        self.valid: Split | None = None
        if self.select is not None:
            self.valid = resident(splits["valid"], built.context, device) if beside is None else beside.valid
        self.steps_each = steps_of_epoch(len(self.train), settings)
        self.steps = self.steps_each * settings.epochs
        self.checkpoints = Checkpoints(folder.seed(number), settings.keep, self.log)
        self.state = State(number)
        self.moments: Moments = {}
        self.diverged: DivergedError | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.state.finished or self.diverged is not None

    @property
    def steps_done(self) -> int:
        """How many steps of the whole training need no more time; all where nothing is left to do."""
        return self.steps if self.done else self.state.step

    def log(self, text: str) -> None:
        """Writes a line both to the log of the run and for the user."""
        self.folder.say(f"{self.label}{text}")
        self.meter.say(f"{self.label}{text}")

    def resume(self) -> None:
        """Goes to the newest checkpoint that is unharmed, or stays at the beginning where there is none."""
        checkpoint = self.checkpoints.newest()
        if checkpoint is not None:
            restore(checkpoint, self.model, self.learning)
            self.moments = checkpoint.optimizer
            self.checkpoints.prune(checkpoint.state)
            self.state = checkpoint.state

    # An epoch

    def begin(self) -> Epoch:
        """The next epoch: its order and noise come from the seed and its number."""
        number = self.state.epoch + 1
        source = self.built.dataset.splits["train"]
        if source.redraw is not None:  # features that differ from epoch to epoch
            drawn = source.drawn(generator(self.number, "features", number))
            self.train = resident(drawn, self.built.context, self.device)
        order = torch.randperm(len(self.train), generator=generator(self.number, "order", number)).to(self.device)
        noise = generator(self.number, "noise", number, device=self.device)
        # Batches of nearly one size: no tiny last one, of which some objectives could make no statistics.
        batches = order.tensor_split(math.ceil(len(self.train) / self.settings.batch_size))
        ends = [round(len(batches) * i / self.steps_each) for i in range(self.steps_each + 1)]
        self.epoch = Epoch(number, [batches[a:b] for a, b in pairwise(ends)], noise, self._epoch_rate())
        return self.epoch

    def draw(self, index: Tensor) -> Views:
        """The views of the samples at `index`, `b`, with their noises."""
        return self.learning.draw(self.train.batch(index), self.epoch.noise)

    def rate(self) -> float:
        """The learning rate of the next step."""
        settings = self.settings
        return self.epoch.lr * factor(settings.schedule, self.state.step, self.steps, settings.warmup)

    def _epoch_rate(self) -> float:
        """The learning rate of the next epoch, before what changes it from step to step."""
        settings = self.settings
        if not isinstance(settings.schedule, Plateau) or self.select is None:
            return settings.lr
        scores = [line["valid"][self.select] for line in self.state.metrics]
        return plateau(settings.schedule, settings.lr, scores, measures.describe(self.select).better)

    def progress(self) -> Progress:
        """How far training has come at the next step."""
        scalar = lambda value: torch.full((), value, device=self.device)
        return Progress(self.state.epoch, scalar(self.state.step / self.steps), scalar(self.rate()))

    def record(self, step: Step, update: Sequence[Tensor], values: Tensor) -> None:
        """Keeps what a step reported, and looks at it where it is time to; looking waits for a GPU.

        Sets `diverged` where something is not finite; names step, samples and cause.

        Args:
            step: The step.
            update: The samples of each of its batches, `b`.
            values: What `step.names` says, `n`.
        """
        if self.diverged is not None:  # what it does in a stack of seeds does no harm to the others
            return
        self.epoch.records.append(StepRecord(self.state.step, torch.cat(list(update)), values))
        self.state.step += 1
        last = self.state.step % self.steps_each == 0
        if last or len(self.epoch.records) >= (1 if self.device.type == "cpu" else _LOOK):
            try:
                self._look(step)
            except DivergedError as error:
                self._stop(error)

    def _stop(self, error: DivergedError) -> None:
        """Ends the seed for good."""
        self.diverged = error
        self.folder.say(str(error))
        if self.label:  # one of several: the others go on
            self.meter.say(f"{self.label}diverged")

    def _look(self, step: Step) -> None:
        records, epoch = self.epoch.records, self.epoch
        for record, row in zip(records, torch.stack([record.values for record in records]).tolist(), strict=True):
            values = dict(zip(step.names, row, strict=True))
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            overflowed = step.scaler.is_enabled() and step.scaler.get_scale() >= 1
            if bad and overflowed and set(bad) <= {"gradient", *step.norms}:
                values |= dict.fromkeys(bad, 0.0)  # fp16 overflowed; the scaler left the step out and scales less
                bad = []
            if bad:
                raise self._explain(record, bad)
            for name, value in values.items():
                epoch.sums[name] = epoch.sums.get(name, 0.0) + value
        epoch.seen += len(records)
        epoch.records = []

    def _explain(self, record: StepRecord, bad: list[str]) -> DivergedError:
        ids = [str(self.train.ids[i]) for i in record.index.tolist()]
        features = self.train.batch(record.index).features
        holes = [
            f"{m} of {ids[i]}"
            for m, stream in features.items()
            for i in (~stream.zeroed().x.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        ]
        parts = [name for name in bad if name not in ("total", "gradient")]
        if holes:
            cause = f"features that are not finite: {', '.join(holes[:5])}{', ...' if len(holes) > 5 else ''}"
        elif parts:
            cause = f"the loss {', '.join(parts)}"
        elif "total" in bad:
            cause = "the sum of the losses (each of them is finite; look at their weights)"
        else:
            cause = "the gradient (the losses are finite)"
        advice = "repair the data, or say in the recipe how to fill the gaps" if holes else (
            "try a smaller train.lr, a longer train.warmup, or gradient clipping (train.clip)"
            + ("" if self.settings.precision == "fp32" else ", or train.precision fp32")
        )  # fmt: skip
        return DivergedError(
            f"training diverged: seed {self.number}, epoch {self.epoch.number}, step {record.number + 1}: "
            f"not finite: {cause}\n  samples of the batch: {', '.join(ids)}\n  {advice}"
        )

    def end(self, step: Step, moments: Moments) -> None:
        """Validates the epoch, writes its checkpoint and its line of metrics; sets `diverged` where that cannot be.

        Args:
            step: What has moved the weights; at rest.
            moments: This seed's.

        Raises:
            WriteError: The checkpoint cannot be written.
        """
        try:
            line = self._measure(step)
        except DivergedError as error:
            self._stop(error)
            return
        state, settings = self.state, self.settings
        state.epoch += 1
        better, value = True, None
        if self.select is not None:
            value, old = line["valid"][self.select], state.best.get("value")
            measure = measures.describe(self.select)
            better = not state.best or measure.improves(value, math.nan if old is None else old)
        if better:
            value = None if value is None or math.isnan(value) else value
            state.best = {"epoch": state.epoch, "measure": self.select, "value": value}
        state.waited = 0 if better else state.waited + 1
        patience = settings.patience
        state.finished = state.epoch >= settings.epochs or (patience is not None and state.waited >= patience)
        state.scaler = step.scaler.state_dict()
        state.metrics.append(line)
        self.checkpoints.save(state, self.model, self.learning, moments)
        self.folder.add_metrics(line)
        self._log_epoch(line, better)

    def _measure(self, step: Step) -> dict[str, Any]:
        """The line for `metrics.jsonl` of an epoch whose steps are done."""
        loss = {name: total / len(self.epoch.updates) for name, total in self.epoch.sums.items()}
        gradient = loss.pop("gradient")
        figures = {name: loss.pop(name) for name in (*self.learning.figures, *step.norms)}
        scores = {} if self.select is None else self._validate(self.select)
        seconds = round(time.perf_counter() - self.epoch.started, 3)
        return {
            "seed": self.number, "epoch": self.epoch.number, "step": self.state.step, "lr": step.lr, "loss": loss,
            "gradient": gradient, "figures": figures, "valid": scores, "seconds": seconds,
        }  # fmt: skip

    def _validate(self, select: str) -> dict[str, float]:
        """The task's measures, and the one that chooses, on the clean validation split."""
        task, valid = self.built.context.task, self.valid
        assert valid is not None and valid.label is not None
        prediction = predict_split(self.model, valid, self.built.recipe.evaluate.batch_size)
        names = measures.measures_of(task)
        try:
            return measures.measure(task, prediction, valid.label, names if select in names else [*names, select])
        except DivergedError as error:
            where = f"seed {self.number}, after epoch {self.epoch.number}, on the validation split"
            raise DivergedError(f"training diverged: {where}: {error}") from error

    def _log_epoch(self, line: dict[str, Any], better: bool) -> None:
        epochs = self.settings.epochs
        text = f"{self.label}epoch {line['epoch']}/{epochs}  loss {line['loss']['total']:.4g}"
        if self.select is not None:
            text += f"  valid {self.select} {line['valid'][self.select]:.4g}{' (best)' if better else ''}"
        self.folder.say(f"{text}  {duration(line['seconds'])}")
        self.meter.say(text, plain_only=True, timed=True)
        if self.state.finished:
            self.log(summary(self.state, epochs))
            for key, objective in self.learning.named_objectives():
                own = {name: line["figures"][f"{key}.{name}"] for name in objective.figures}
                if remark := objective.remark(own):
                    self.log(f"{key}: {remark}")


def steps_of_epoch(samples: int, settings: TrainSettings) -> int:
    """How many updates of the weights an epoch of so many samples has."""
    return math.ceil(math.ceil(samples / settings.batch_size) / settings.accumulate)


@torch.inference_mode()
def predict_split(model: nn.Module, split: Split, batch_size: int) -> Tensor:
    """The model's predictions for a whole clean split, `n c`, on the split's device."""
    model.eval()
    index = torch.arange(len(split), device=next(iter(split.features.values())).x.device)
    return torch.cat([model(split.batch(part).features).prediction for part in index.split(batch_size)])


def summary(state: State, epochs: int) -> str:
    """What a finished seed has come to, in a line."""
    early = "" if state.epoch >= epochs else f", stopped after epoch {state.epoch}: no better for {state.waited} epochs"
    return f"best epoch {state.best['epoch']}/{epochs}{best_value(state)}{early}"


def best_value(state: State) -> str:
    """The value that the best epoch was chosen for, as a note; nothing where there is none."""
    value = state.best.get("value")
    return "" if value is None else f", valid {state.best['measure']} {value:.4g}"
