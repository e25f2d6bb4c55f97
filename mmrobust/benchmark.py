"""How fast a recipe is on this machine: building, a step, feeding, a sweep, attention backends, seeds in processes.

What is compared takes turns in rounds, so that whatever else the machine does hits all alike; every time is a median.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmrobust import recipe as recipes
from mmrobust.accel.linear import explain_gemm, linear
from mmrobust.errors import InterruptedRun, MmrobustError, UsageError
from mmrobust.model.assemble import Built, build, make_noise, open_data
from mmrobust.nn.attention import BACKENDS, explain, use_attention, watch
from mmrobust.robustness.sweep import Grid, restrict, sweep
from mmrobust.supervisor import Child, Ended, Link, Supervisor
from mmrobust.training import Meter, RunFolder, Seed, choose_device
from mmrobust.training.device import slow_precision
from mmrobust.training.loop import take
from mmrobust.training.processes import only_here
from mmrobust.training.progress import duration

if TYPE_CHECKING:
    from mmrobust.recipe import Overrides, Recipe, RecipeLike

__all__ = ["Bench", "Steps", "bench", "take_turns"]

_MOST = 200  # rounds of one measurement
_SAMPLES = 64  # of a split, in the sweep that is tried
_WARM = 40  # steps before steps are counted, at most
_CHILD = "mmrobust.benchmark:measure_steps"
_WAIT = 300.0  # seconds for a process to start and open its data

Run = Callable[[], object]


@dataclass(frozen=True)
class Bench:
    """What was measured; shows itself as a table. All times are seconds.

    Attributes:
        recipe: Its name.
        device: Where it runs.
        threads: Of this process.
        gemm_gflops: Rate of one large matrix product in fp32, as linear layers have it, measured between the steps.
        gemm: Which library multiplies in linear layers, and why; empty but for training in fp32 on a CPU.
        open_data: Opening the data.
        build: Building model and objectives from it.
        step: One training step: feeding, noise, losses, backward pass, optimizer.
        step_low: First quartile of the step.
        step_high: Third quartile of the step.
        rounds: How many steps were measured.
        batch_size: Samples of a step.
        feeding: Share of the step that fetches samples and makes their noisy views.
        epoch: An epoch's steps, estimated.
        training: All epochs of all seeds, one after the other, estimated; validation left out.
        sweep: The whole sweep of one seed, estimated from `sweep_samples`; None where there is no such split.
        sweep_samples: How many samples of the split were tried.
        passes: Passes over the split that the whole sweep amounts to.
        attention: Which backend runs, and why not another one.
        backends: The step with each other backend that can run, over the step as it is: more than 1 is slower.
        left_out: Why the others were not tried.
        seeds: Seed-steps a second of one process for each core over those of one process with all threads; None
            where it was not measured.
        processes: How many processes `seeds` is of.
        notes: What else should be known.
    """

    recipe: str
    device: str
    threads: int
    gemm_gflops: float
    gemm: str
    open_data: float
    build: float
    step: float
    step_low: float
    step_high: float
    rounds: int
    batch_size: int
    feeding: float
    epoch: float
    training: float
    sweep: float | None
    sweep_samples: int
    passes: int
    attention: tuple[str, ...]
    backends: Mapping[str, float]
    left_out: Mapping[str, str]
    seeds: float | None
    processes: int
    notes: tuple[str, ...] = ()

    @property
    def samples_per_second(self) -> float:
        """Samples of training a second."""
        return self.batch_size / self.step

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "samples_per_second": self.samples_per_second}

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.device == "cpu" else ""
        step = f"{_short(self.step)} ({_short(self.step_low)} to {_short(self.step_high)}, {self.rounds} rounds)"
        rows = [
            ("opening the data", _short(self.open_data)),
            ("building", _short(self.build)),
            ("training step", f"{step}, {self.batch_size} samples: {self.samples_per_second:,.0f} samples/s"),
            ("feeding and noise", f"{self.feeding:.1%} of a step"),
            ("an epoch", f"{duration(self.epoch)} without validation"),
            ("the training", f"{duration(self.training)}, seeds one after the other"),
        ]
        if self.sweep is not None:
            text = f"{duration(self.sweep)} a seed ({self.passes} passes; from {self.sweep_samples} samples)"
            rows.append(("the sweep", text))
        rows += [("attention" if i == 0 else "", line) for i, line in enumerate(self.attention)]
        rows += [(f"  with {name}", f"{ratio:.2f} times the step") for name, ratio in self.backends.items()]
        rows += [("linear layers", self.gemm)] if self.gemm else []
        if self.seeds is not None:
            text = f"{self.seeds:.2f} times the seed-steps a second of one process with {self.threads} threads"
            rows.append((f"{self.processes} seeds at a time", text))
        rows += [("note", note) for note in self.notes]
        width = max(len(name) for name, _ in rows)
        head = (
            f"{self.recipe} on {self.device}{threads}; a large matrix product runs at {self.gemm_gflops:,.0f} GFLOP/s"
        )
        return "\n".join([head, "", *(f"{name.ljust(width)}  {text}".rstrip() for name, text in rows)])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def bench(
    recipe: RecipeLike,
    overrides: Overrides = (),
    *,
    seconds: float = 5.0,
    processes: bool = True,
    quiet: bool = False,
) -> Bench:
    """Measures how fast a recipe is on this machine; nothing is kept.

    Args:
        recipe: A loaded recipe, a path, or the bare name of a shipped one.
        overrides: Changes of it, `a.b.c=value` or `~a.b.c`.
        seconds: How long each thing is measured, about; at least three rounds are made of everything.
        processes: Whether to compare seeds in processes of their own, on a CPU.
        quiet: Show no progress.

    Raises:
        RecipeError: The recipe is wrong.
        DataError: The data cannot be read.
        UsageError: `seconds` is not more than 0.
        InterruptedRun: Ctrl-C.
    """
    if not seconds > 0:
        raise UsageError(f"things are measured for more than 0 seconds, not {seconds:g}")
    loaded = recipes.as_recipe(recipe, overrides)
    try:
        with Meter(f"bench {loaded.name}", 5, quiet=quiet) as meter, tempfile.TemporaryDirectory() as folder:
            return _bench(loaded, seconds, processes, meter, Path(folder))
    except KeyboardInterrupt as error:
        raise InterruptedRun("interrupted; nothing was kept") from error


def _bench(recipe: Recipe, seconds: float, processes: bool, meter: Meter, folder: Path) -> Bench:
    device, notes = choose_device(recipe), []

    def stage(number: int, text: str) -> None:
        meter.update(number, label=text)
        meter.say(text, plain_only=True)

    stage(0, "opening the data and building")
    started = time.perf_counter()
    dataset = open_data(recipe)
    opened = time.perf_counter()
    built = build(recipe, dataset=dataset)
    finished = time.perf_counter()

    stage(1, "training steps")
    if slow := slow_precision(recipe.train.precision, device):
        notes.append(slow)
    steps = Steps(built, folder, device, notes.append)
    gemm = _Gemm(device)
    with watch() as cases:
        steps.step()
    steps.warm_up(seconds / 2)
    times = take_turns({"step": steps.step, "feeding": steps.feeding, "gemm": gemm}, seconds, device)
    low, step, high = statistics.quantiles(times["step"], n=4)

    stage(2, "attention backends")
    usable, left_out = _backends(list(cases))
    if usable and recipe.train.graphs and device.type == "cuda":
        notes.append("attention backends were not compared: a captured step keeps the one that it was captured with")
        usable = []
    backends = _compare(steps, usable, seconds, device) if usable else {}

    stage(3, "a sweep")
    whole, samples, passes = _sweep(built, device)

    seeds, workers = None, 0
    if processes and device.type == "cpu" and torch.get_num_threads() > 1:
        if here := only_here(recipe):
            notes.append(f"seeds in processes were not measured: {', '.join(here)} is registered in this session alone")
        else:
            stage(4, "seeds in processes")
            workers = torch.get_num_threads()
            seeds = _processes(recipe, workers, seconds, folder, steps, device)
    meter.update(5)
    train = recipe.train
    return Bench(
        recipe=recipe.name,
        device=str(device),
        threads=torch.get_num_threads(),
        gemm_gflops=gemm.flops / statistics.median(times["gemm"]) / 1e9,
        gemm=explain_gemm(device.type, train.precision),
        open_data=opened - started,
        build=finished - opened,
        step=step,
        step_low=low,
        step_high=high,
        rounds=len(times["step"]),
        batch_size=sum(map(len, steps.updates[0])),
        feeding=_ratio(times["feeding"], times["step"]),
        epoch=step * steps.seed.steps_each,
        training=step * steps.seed.steps * len(train.seeds),
        sweep=whole,
        sweep_samples=samples,
        passes=passes,
        attention=tuple(explain(recipe.model.attention, cases)),
        backends=backends,
        left_out=left_out,
        seeds=seeds,
        processes=workers,
        notes=tuple(notes),
    )


class Steps:
    """Training steps of a built recipe, one after the other, and the feeding of a step alone.

    Args:
        built: The recipe, built for its first seed.
        folder: An empty folder.
        device: Where to train.
        log: Gets a line on what the user should know.
        batches: The samples of each step, a batch, again and again; None for those of the first epoch.
    """

    def __init__(
        self,
        built: Built,
        folder: Path,
        device: torch.device,
        log: Callable[[str], None] = lambda text: None,
        batches: Sequence[Tensor] | None = None,
    ) -> None:
        self.seed = Seed(built, RunFolder(folder), built.recipe.train.seeds[0], device)
        self.mover = take([self.seed], log)
        epoch = self.seed.begin()
        self.updates = epoch.updates if batches is None else [[batch] for batch in batches]
        self.mover.trained.train()

    def step(self) -> None:
        """One step, with its feeding and noise."""
        state = self.seed.state
        # Schedules end; a step costs the same wherever in the training it is.
        state.step = (state.step + 1) % self.seed.steps
        self.mover.set_rate(self.seed.rate())
        update = self.updates[state.step % len(self.updates)]
        self.mover([self.seed.draw(index) for index in update], self.seed.progress())

    def warm_up(self, seconds: float) -> None:
        """Some steps that are not counted: the first ones meet kernels that are not made yet (docs/speed.md)."""
        begun = time.perf_counter()
        for _ in range(_WARM):
            if time.perf_counter() - begun > seconds:
                return
            self.step()

    def feeding(self) -> None:
        """The part of a step that fetches samples and makes their noisy views."""
        for index in self.updates[0]:
            self.seed.draw(index)


class _Gemm:
    """One large product of matrices."""

    def __init__(self, device: torch.device) -> None:
        size = 1024 if device.type == "cpu" else 8192
        self.left, self.right = torch.randn(2, size, size, device=device)
        self.flops = 2 * size**3

    def __call__(self) -> None:
        with torch.no_grad():
            linear(self.left, self.right)


def take_turns(runs: Mapping[str, Run], seconds: float, device: torch.device) -> dict[str, list[float]]:
    """Times each of some things in rounds, in which all take their turn, after one round that is not counted.

    Args:
        runs: What to time, by name.
        seconds: How long to go on, about; at least three rounds are made.
        device: What has to have finished before a time is read.
    """
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    begun, rounds = time.perf_counter(), 0
    while rounds < 3 or (rounds < _MOST and time.perf_counter() - begun < seconds):
        for name, run in runs.items():
            wait()
            started = time.perf_counter()
            run()
            wait()
            times[name].append(time.perf_counter() - started)
        rounds += 1
    return times


def _ratio(some: Sequence[float], others: Sequence[float]) -> float:
    """The median over the rounds of one thing's time over another's."""
    return statistics.median(a / b for a, b in zip(some, others, strict=True))


def _backends(cases: Sequence[Any]) -> tuple[list[str], dict[str, str]]:
    """The backends that can run what the step computes, and why the others are left out."""
    usable, left_out = [], {}
    for name, backend in BACKENDS.items() if cases else ():
        why = next((why for case in cases if (why := backend.why_not(case))), None)
        if why is None and name == "flex":
            why = "compiles for each shape, tens of seconds; ask for it with model.attention=flex"
        if why is None:
            usable.append(name)
        else:
            left_out[name] = why
    return usable, left_out


def _compare(steps: Steps, backends: Sequence[str], seconds: float, device: torch.device) -> dict[str, float]:
    def under(name: str) -> Run:
        def run() -> None:
            with use_attention(name):
                steps.step()

        return run

    times = take_turns({"as it is": steps.step, **{name: under(name) for name in backends}}, seconds, device)
    return {name: _ratio(times[name], times["as it is"]) for name in backends}


def _sweep(built: Built, device: torch.device) -> tuple[float | None, int, int]:
    """Seconds of the recipe's whole sweep, from one draw of it on some samples; how many; passes of the whole."""
    settings = built.recipe.evaluate
    split = built.dataset.splits.get(settings.split)
    if split is None or not len(split):
        return None, 0, 0
    noises = {
        str(i): make_noise(built.recipe, ("evaluate", "noise", str(i)), part, built.context)
        for i, part in enumerate(settings.noise)
    }
    grid = Grid(noises, tuple(settings.rates), settings.draws)
    tried = replace(grid, draws=min(2, grid.draws))
    samples = min(len(split), _SAMPLES)
    index = torch.arange(samples)
    batch = split.batch(index)
    some = restrict(
        replace(split, features=batch.features, label=None, ids=split.ids[:samples]), built.context.modalities
    )

    def run() -> None:
        sweep(built.model, some, tried, batch_size=settings.batch_size, device=device)

    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    return seconds * grid.cells / tried.cells * len(split) / samples, samples, grid.cells


def _processes(recipe: Recipe, workers: int, seconds: float, folder: Path, steps: Steps, device: torch.device) -> float:
    """Seed-steps a second of `workers` processes of one thread each over those of this process with all threads."""
    file = folder / "resolved.yaml"
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    with Supervisor() as supervisor:
        for _ in range(workers):
            supervisor.start(_CHILD, str(file), seconds, name="a process that measures seeds", threads=1)
        ready = [_next(supervisor) for _ in range(workers)]
        alone = statistics.median(take_turns({"step": steps.step}, seconds / 2, device)["step"])
        for child, _ in ready:
            child.send("go")
        together = [float(_next(supervisor)[1]) for _ in range(workers)]
        for child, _ in ready:
            child.finish()
        while supervisor.children:  # which still take time while they end
            supervisor.receive(timeout=1.0)
        again = statistics.median(take_turns({"step": steps.step}, seconds / 2, device)["step"])
    return sum(1 / median for median in together) * (alone + again) / 2


def _next(supervisor: Supervisor) -> tuple[Child, Any]:
    """The next message of a child."""
    received = supervisor.receive(timeout=_WAIT)
    if received is None:
        raise MmrobustError(f"a process that measures seeds has not answered for {_WAIT:.0f} s")
    if isinstance(received[1], Ended):
        raise received[1].error or MmrobustError("a process that measures seeds ended")
    return received


def measure_steps(link: Link, recipe: str, seconds: float) -> None:
    """What a process of `_processes` does: says that it is ready, waits for a word, and sends the median of a step.

    Args:
        link: To the process that measures.
        recipe: The resolved recipe.
        seconds: How long to measure.
    """
    torch.set_num_threads(1)
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(build(recipes.load(recipe)), Path(folder), device)
        steps.warm_up(seconds / 2)
        link.send("ready")
        for _ in link:
            link.send(statistics.median(take_turns({"step": steps.step}, seconds, device)["step"]))


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
