"""The training loop: one seed, from its first epoch to its best checkpoint.

Everything random in an epoch (the order of samples, the noises, dropout) comes from the recipe's seed and the number
of the epoch, and a checkpoint is written after each. A training that was killed therefore goes on from its last
checkpoint and ends with the same bits as one that was not: on a CPU with the same versions and number of threads; on a
GPU as far as its kernels are deterministic, which is asked of them.
"""

from __future__ import annotations

import math
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmrobust import measures
from mmrobust.accel.allocator import keep_freed_memory
from mmrobust.accel.processor import processor
from mmrobust.contracts import Context, Progress, Split, Stream
from mmrobust.contracts.randomness import derive, generator
from mmrobust.errors import DataError, DivergedError, InterruptedRun, MmrobustError, Problem, RecipeError
from mmrobust.training.checkpoint import Checkpoints, State, restore
from mmrobust.training.folder import RunFolder
from mmrobust.training.progress import Meter, duration
from mmrobust.training.schedule import factor
from mmrobust.training.step import Learner, Trained

if TYPE_CHECKING:
    from mmrobust.model.assemble import Built
    from mmrobust.recipe import Recipe

__all__ = ["Interrupt", "choose_device", "fit", "interruptible", "predict_split", "resident"]

#: What an x86 processor must have for a number format to be faster than fp32, as Linux names it.
_NATIVE = {"bf16": {"avx512_bf16", "amx_bf16"}, "fp16": {"avx512_fp16", "amx_fp16"}}
_LOOK = 50  # steps on a GPU between two looks at the losses; each look waits for it


def choose_device(recipe: Recipe) -> torch.device:
    """The device that the recipe's `train.device` means here; `auto` is a GPU where there is one.

    Raises:
        RecipeError: There is no such device.
    """
    name = recipe.train.device
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # streams, graphs and waiting are of the current one
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cause = str(error).splitlines()[0]
        message = f"there is no device '{name}' here ({cause}); use auto, cpu or cuda"
        raise RecipeError(Problem(message, recipe.where("train", "device"))) from error
    return device


def slow_precision(precision: str, device: torch.device) -> str | None:
    """Says so where a number format is known to be emulated, many times slower than fp32; None otherwise."""
    if device.type != "cpu" or precision not in _NATIVE or platform.machine() not in ("x86_64", "AMD64"):
        return None
    flags = processor().get("flags")
    if flags is None or _NATIVE[precision] & set(flags.split()):
        return None
    return f"this processor only imitates {precision}: train.precision=fp32 will be many times faster"


def resident(split: Split, context: Context, device: torch.device) -> Split:
    """The split on the device, with the modalities that the model reads and no others, padding zero."""

    def tidy(stream: Stream) -> Stream:
        clean = not ((stream.x != 0).any(-1) & ~stream.mask).any()
        return stream if clean else stream.zeroed()  # a copy, of what may be gigabytes

    return replace(split, features={m: tidy(split.features[m]) for m in context.modalities}).to(device)


@torch.inference_mode()
def predict_split(model: nn.Module, split: Split, batch_size: int) -> Tensor:
    """The model's predictions for a whole clean split, `n c`, on the split's device."""
    model.eval()
    index = torch.arange(len(split), device=next(iter(split.features.values())).x.device)
    return torch.cat([model(split.batch(part).features).prediction for part in index.split(batch_size)])


class Interrupt:
    """Whether ctrl-C was pressed; looked at between steps, so that no write is cut short."""

    requested = False


@contextmanager
def interruptible(say: Callable[[str], None]) -> Iterator[Interrupt]:
    """Makes the first ctrl-C a request and leaves the second one what it was.

    Args:
        say: Told what happens.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield interrupt
        return
    before = signal.getsignal(signal.SIGINT)

    def request(*_: object) -> None:
        interrupt.requested = True
        signal.signal(signal.SIGINT, before)
        say("stopping after this step; press ctrl-C again to stop at once")

    signal.signal(signal.SIGINT, request)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def own_randomness(device: torch.device, seed: int, lenient: bool = False) -> Iterator[None]:
    """Seeds what dropout draws from, and asks for deterministic kernels; afterwards all is as it was.

    Args:
        device: Where the step runs.
        seed: Of what dropout draws.
        lenient: Let kernels run that have no deterministic form. Torch's fused attention takes its faster form then,
            which is not deterministic either.
    """
    devices = [device] if device.type == "cuda" else []
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
            torch.use_deterministic_algorithms(True, warn_only=lenient)
            memory.fill_uninitialized_memory = False  # a kernel for almost every tensor
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            memory.fill_uninitialized_memory = filled


@dataclass
class Told:
    """What one step told, until it is looked at.

    Attributes:
        number: Of the step, from 0.
        index: The samples, `b`.
        values: What `Learner.names` says, `n`, on the device.
    """

    number: int
    index: Tensor
    values: Tensor


@dataclass
class Epoch:
    """What one seed draws and is told in one epoch.

    Attributes:
        number: From 1.
        batches: The samples of each step.
        noise: Source of its noises.
        pending: Steps that nobody has looked at.
        seen: How many were looked at.
        sums: What those told, added up, by name.
    """

    number: int
    batches: tuple[Tensor, ...]
    noise: torch.Generator
    pending: list[Told] = field(default_factory=list)
    seen: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def loss(self) -> float | None:
        """The mean loss of the steps that were looked at."""
        return self.sums["total"] / self.seen if self.seen else None


class Trainer:
    """The parts of one seed's training, each step in a method of its own.

    Args:
        built: What is trained; its model and objectives are moved to the device and changed.
        folder: Where the run is kept.
        seed: The seed of the order, the noises and dropout.
        device: Where to train.
        tell: Told what the user should know.
        beside: Another seed of the same run, whose data on the device serves this one too.
    """

    def __init__(
        self,
        built: Built,
        folder: RunFolder,
        seed: int,
        device: torch.device,
        tell: Callable[[str], None],
        beside: Trainer | None = None,
    ) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        self.built, self.folder, self.seed, self.device, self.tell = built, folder, seed, device, tell
        self.settings = settings = built.recipe.train
        self.model, self.learning = built.model.to(device), built.learning.to(device)
        splits = built.dataset.splits
        self.train = resident(splits["train"], built.context, device) if beside is None else beside.train
        self.select = selection(built)
        self.valid = None
        if self.select is not None:
            self.valid = resident(splits["valid"], built.context, device) if beside is None else beside.valid
        self.steps_each = math.ceil(len(self.train) / settings.batch_size)
        self.steps = self.steps_each * settings.epochs
        self.learner = Learner(Trained(self.model, self.learning), settings, device, tell)
        self.checkpoints = Checkpoints(folder.seed(seed), settings.keep, tell)
        self.state = State(seed)

    def resume(self) -> None:
        """Goes to the newest checkpoint that is unharmed, or stays at the beginning where there is none."""
        checkpoint = self.checkpoints.newest()
        if checkpoint is not None:
            restore(checkpoint, self.model, self.learning, self.learner.optimizer)
            self.checkpoints.prune(checkpoint.state)
            self.state = checkpoint.state
            if self.state.scaler:
                self.learner.scaler.load_state_dict(self.state.scaler)

    def epoch(self, watch: Callable[[int, float | None], None]) -> dict[str, Any]:
        """Trains one epoch and measures it; the line for `metrics.jsonl`.

        Raises:
            DivergedError: A loss or gradient is not finite.
        """
        epoch, state = self.begin(), self.state
        with own_randomness(self.device, derive(self.seed, "dropout", epoch.number), self.learner.lenient):
            for index in epoch.batches:
                epoch.pending.append(self.step(state.step, index, epoch.noise))
                state.step += 1
                self.look(epoch)
                watch(state.step, epoch.loss)
        return self.end(epoch)

    def begin(self) -> Epoch:
        """The next epoch: its order and noise come from the seed and its number."""
        number = self.state.epoch + 1
        order = torch.randperm(len(self.train), generator=generator(self.seed, "order", number)).to(self.device)
        self.model.train()
        self.learning.train()
        # Batches of nearly one size: no tiny last one, of which some objectives could make no statistics.
        noise = generator(self.seed, "noise", number, device=self.device)
        return Epoch(number, order.tensor_split(self.steps_each), noise)

    def end(self, epoch: Epoch) -> dict[str, Any]:
        """The line for `metrics.jsonl` of an epoch whose steps are done."""
        loss = {name: total / len(epoch.batches) for name, total in epoch.sums.items()}
        gradient = loss.pop("gradient")
        scores = {} if self.select is None else self.validate(self.select)
        seconds = round(time.perf_counter() - epoch.started, 3)
        return {
            "seed": self.seed, "epoch": epoch.number, "step": self.state.step, "lr": self.learner.lr, "loss": loss,
            "gradient": gradient, "valid": scores, "seconds": seconds,
        }  # fmt: skip

    def validate(self, select: str) -> dict[str, float]:
        """The task's measures, and the one that chooses, on the clean validation split."""
        task, valid = self.built.context.task, self.valid
        assert valid is not None and valid.label is not None
        prediction = predict_split(self.model, valid, self.built.recipe.evaluate.batch_size)
        names = measures.measures_of(task)
        try:
            return measures.measure(task, prediction, valid.label, names if select in names else [*names, select])
        except DivergedError as error:
            where = f"seed {self.seed}, after epoch {self.state.epoch + 1}, on the validation split"
            raise DivergedError(f"training diverged: {where}: {error}") from error

    def step(self, number: int, index: Tensor, noise: torch.Generator) -> Told:
        """One step of the optimizer on the samples at `index`, `b`; nothing in it waits for a GPU."""
        self.learner.set_rate(self.rate(number))
        views = self.learning.draw(self.train.batch(index), noise)
        return Told(number, index, self.learner(views, self.progress(number)))

    def rate(self, number: int) -> float:
        """The learning rate of a step, from 0."""
        return self.settings.lr * factor(self.settings.schedule, number, self.steps, self.settings.warmup)

    def progress(self, number: int) -> Progress:
        """How far training has come at a step."""
        return Progress(self.state.epoch, torch.full((), number / self.steps, device=self.device))

    def look(self, epoch: Epoch) -> None:
        """Adds up what the pending steps told, where it is time to look; looking waits for a GPU.

        Raises:
            DivergedError: Something is not finite; names step, samples and cause.
        """
        steps = epoch.pending
        last = self.state.step % self.steps_each == 0
        if not last and len(steps) < (1 if self.device.type == "cpu" else _LOOK):
            return
        scaler = self.learner.scaler
        for step, row in zip(steps, torch.stack([step.values for step in steps]).tolist(), strict=True):
            told = dict(zip(self.learner.names, row, strict=True))
            bad = [name for name, value in told.items() if not math.isfinite(value)]
            if bad == ["gradient"] and scaler.is_enabled() and scaler.get_scale() >= 1:
                bad, told["gradient"] = [], 0.0  # fp16 overflowed; the scaler left the step out and scales less
            if bad:
                raise self._diverged(epoch.number, step, bad)
            for name, value in told.items():
                epoch.sums[name] = epoch.sums.get(name, 0.0) + value
        epoch.seen += len(steps)
        epoch.pending = []

    def _diverged(self, epoch: int, step: Told, bad: list[str]) -> DivergedError:
        ids = [str(self.train.ids[i]) for i in step.index.tolist()]
        features = self.train.batch(step.index).features
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
            f"training diverged: seed {self.seed}, epoch {epoch}, step {step.number + 1}: not finite: {cause}\n"
            f"  samples of the batch: {', '.join(ids)}\n  {advice}"
        )

    def close_epoch(self, line: dict[str, Any]) -> bool:
        """Moves the state on by one epoch and writes its checkpoint; true where the epoch is the best so far."""
        state, settings = self.state, self.settings
        state.epoch += 1
        if self.select is None:
            better, value = True, None
        else:
            value = line["valid"][self.select]
            old = state.best.get("value")
            measure = measures.describe(self.select)
            better = not state.best or measure.improves(value, math.nan if old is None else old)
        if better:
            value = None if value is None or math.isnan(value) else value
            state.best = {"epoch": state.epoch, "measure": self.select, "value": value}
        state.waited = 0 if better else state.waited + 1
        patience = settings.patience
        state.finished = state.epoch >= settings.epochs or (patience is not None and state.waited >= patience)
        state.scaler = self.learner.scaler.state_dict()
        state.metrics.append(line)
        self.checkpoints.save(state, self.model, self.learning, self.learner.optimizer)
        self.folder.add_metrics(line)
        return better


def fit(
    built: Built,
    folder: RunFolder,
    seed: int,
    *,
    resume: bool = False,
    meter: Meter | None = None,
    interrupt: Interrupt | None = None,
    label: str = "",
) -> State:
    """Trains one seed to its end.

    Args:
        built: Freshly built with this seed; changed in place, and at the last epoch's weights afterwards.
        folder: The run.
        seed: The seed.
        resume: Go on from the newest unharmed checkpoint.
        meter: Shows the progress, in steps; None for none.
        interrupt: Looked at after each step.
        label: What every line about this seed begins with.

    Returns:
        Where it ended; `best["epoch"]` is the chosen checkpoint.

    Raises:
        DivergedError: A loss, a gradient or a prediction is not finite; names epoch, step, samples and cause.
        InterruptedRun: `interrupt` was requested.
        WriteError: A checkpoint cannot be written.
    """
    meter = Meter("", 1, quiet=True) if meter is None else meter

    trainer = Trainer(built, folder, seed, choose_device(built.recipe), telling(folder, meter, label))
    if resume:
        trainer.resume()
    if slow := slow_precision(built.recipe.train.precision, trainer.device):
        trainer.tell(slow)
    state, epochs = trainer.state, built.recipe.train.epochs
    begin = meter.done
    meter.skip(state.step)
    if state.epoch and not state.finished:
        trainer.tell(f"goes on after epoch {state.epoch}")

    def watch(step: int, loss: float | None) -> None:
        note = "" if loss is None else f"loss {loss:.4g}"
        meter.update(begin + step, note, f"{label}epoch {state.epoch + 1}/{epochs}")
        stop_if(interrupt, f"in epoch {state.epoch + 1} of seed {seed}")

    while not state.finished:
        stop_if(interrupt, f"after epoch {state.epoch} of seed {seed}")
        line = trainer.epoch(watch)
        tell_epoch(trainer, line, trainer.close_epoch(line), meter, label)
    trainer.tell(told_best(state, epochs))
    meter.skip(begin + trainer.steps - meter.done)
    return state


def telling(folder: RunFolder, meter: Meter, label: str) -> Callable[[str], None]:
    """What writes a line both to the log and to the user."""

    def tell(text: str) -> None:
        folder.say(f"{label}{text}")
        meter.say(f"{label}{text}")

    return tell


def tell_epoch(trainer: Trainer, line: dict[str, Any], better: bool, meter: Meter, label: str) -> None:
    """Tells what an epoch has brought."""
    text = f"{label}epoch {line['epoch']}/{trainer.settings.epochs}  loss {line['loss']['total']:.4g}"
    if trainer.select is not None:
        text += f"  valid {trainer.select} {line['valid'][trainer.select]:.4g}{' (best)' if better else ''}"
    trainer.folder.say(f"{text}  {duration(line['seconds'])}")
    meter.say(text, plain_only=True, timed=True)


def told_best(state: State, epochs: int) -> str:
    """What a finished seed has come to."""
    early = "" if state.epoch >= epochs else f", stopped after epoch {state.epoch}: no better for {state.waited} epochs"
    return f"best epoch {state.best['epoch']}/{epochs}{best_value(state)}{early}"


def best_value(state: State) -> str:
    """The value that the best epoch was chosen for, as a note; nothing where there is none."""
    value = state.best.get("value")
    return "" if value is None else f", valid {state.best['measure']} {value:.4g}"


def stop_if(interrupt: Interrupt | None, where: str) -> None:
    if interrupt is not None and interrupt.requested:
        raise InterruptedRun(f"interrupted {where}; every finished epoch is saved")


def selection(built: Built) -> str | None:
    """The validation measure that chooses the checkpoint; None where nothing can be validated.

    Raises:
        DataError: Early stopping is asked for, and there is no validation split.
        RecipeError: There is no such measure for this task.
    """
    recipe, valid = built.recipe, built.dataset.splits.get("valid")
    settings = recipe.train
    if not valid or valid.label is None:
        if settings.patience is not None:
            raise DataError("early stopping (train.patience) needs a validation split, and this data has none")
        return None
    if settings.select == "auto":
        return measures.primary(built.context.task)
    try:
        return measures.check(built.context.task, [settings.select])[0]
    except MmrobustError as error:
        raise RecipeError(Problem(str(error), recipe.where("train", "select"))) from error
