"""Trains every seed of a recipe: in turn, as processes, or stacked, and keeps all of it in one run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import torch

from mmrobust import files
from mmrobust.errors import DivergedError, InterruptedRun, UsageError, WriteError
from mmrobust.model.assemble import Built, build
from mmrobust.recipe.optimization import Plateau
from mmrobust.supervisor import ChildError, Interrupt, interruptible
from mmrobust.training.checkpoint import Checkpoints, State
from mmrobust.training.data_record import DataRecord
from mmrobust.training.device import choose_device, deterministic
from mmrobust.training.folder import RunFolder, environment
from mmrobust.training.job import TrainingJob, takes
from mmrobust.training.loop import fit
from mmrobust.training.processes import fit_in_processes, only_here, share
from mmrobust.training.progress import Meter
from mmrobust.training.seed import Seed, best_value, steps_of_epoch, summary
from mmrobust.training.step import autocast, first_line
from mmrobust.training.trained import keep_record, open_data

if TYPE_CHECKING:
    from mmrobust.recipe import Recipe

__all__ = ["Run", "train", "train_seeds", "unstackable"]

#: What `env.json` and the machine must agree on for a resumed run to end with the same bits.
_SAME = ("mmrobust", "torch", "plugins", "processor", "threads", "gemm", "gpu")
_SLOTS = {"generic": "generic_extractor", "specific": "specific_extractor"}


@dataclass
class Run:
    """What came of training a recipe.

    Attributes:
        folder: Where it is kept.
        recipe: What was trained.
        states: Where each seed ended.
        diverged: Why a seed has no state.
    """

    folder: RunFolder
    recipe: Recipe
    states: dict[int, State] = field(default_factory=dict)
    diverged: dict[int, DivergedError] = field(default_factory=dict)

    def check(self) -> Run:
        """The run, if every seed was trained.

        Raises:
            DivergedError: Some seeds diverged; its cause is the error of the first of them, from where it arose.
        """
        if self.diverged:
            errors = list(self.diverged.values())
            done = f"; finished: seed {', '.join(map(str, self.states))}" if self.states else ""
            text = "\n".join(map(str, errors)) + f"\n  the run is kept in {self.folder.path}{done}"
            raise DivergedError(text) from errors[0]
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        seeds = {
            str(seed): {"best": state.best, "epochs": state.epoch, "steps": state.step}
            for seed, state in self.states.items()
        }
        return {
            "run": str(self.folder.path),
            "name": self.recipe.name,
            "seeds": seeds,
            "diverged": {str(seed): str(error) for seed, error in self.diverged.items()},
        }

    def __str__(self) -> str:
        epochs = self.recipe.train.epochs
        lines = [f"trained: {self.folder.path}"]
        for seed in sorted({*self.states, *self.diverged}):
            state = self.states.get(seed)
            outcome = f"best epoch {state.best['epoch']}/{epochs}{best_value(state)}" if state else "diverged"
            lines.append(f"  seed {seed}: {outcome}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


@takes(TrainingJob)
def train(job: TrainingJob) -> Run:
    """Trains every seed of a recipe: on a CPU as one process a core, on a GPU together as one stacked model.

    Raises:
        RecipeError: The recipe is wrong.
        DataError: The data cannot be read.
        DivergedError: Some seeds met a loss that is not finite; the others are trained and kept.
        InterruptedRun: Ctrl-C; the message says how to go on.
        WriteError: The disk is full, or the like; the message says how to go on.
    """
    return train_seeds(job).check()


def train_seeds(job: TrainingJob, verb: str = "train") -> Run:
    """As `train`, but seeds that diverged are in the result and not raised, unless all have.

    Args:
        job: What is to be trained.
        verb: The verb of the command line that goes on with it, for messages.
    """
    if job.jobs is not None and job.jobs < 1:
        raise UsageError(f"--jobs {job.jobs}: at least one seed has to be trained at a time")
    folder, loaded = _open(job)
    dataset, notes = (None, []) if folder is None else open_data(folder, changed=job.changed_data)
    built = build(loaded, dataset=dataset, seed=loaded.train.seeds[0])
    device = choose_device(loaded)
    plan = _plan(built, device, job.jobs, folder)
    if folder is None:  # nothing is left behind by a recipe or data that cannot be used
        others = {"data.json": DataRecord.of(loaded, built.dataset).to_text()}
        folder = RunFolder.create(loaded, job.runs, out=job.out, threads=plan.threads, others=others)
    else:
        keep_record(folder, loaded, built.dataset, notes)
    run = Run(folder, loaded)
    go_on = f"go on with: mmrobust {verb} --resume {shlex.quote(str(folder.path))}"
    try:
        with folder.locked() as lock:
            _train(run, built, plan, lock, job)
    except InterruptedRun as error:
        raise InterruptedRun(f"{error}; {go_on}") from error
    except (WriteError, ChildError) as error:
        error.add(f"every finished epoch is saved; {go_on}")
        raise
    if not run.states:
        run.check()
    return run


def _open(job: TrainingJob) -> tuple[RunFolder | None, Recipe]:
    """The run to go on with, if it is one, and the recipe."""
    if job.resume is None:
        if job.recipe is None:
            raise UsageError("name a recipe, or a run to go on with: --resume RUN")
        return None, job.load()
    if job.recipe is not None or job.overrides or job.seeds is not None or job.out is not None:
        raise UsageError("a resumed run has its recipe, seeds and folder already: give --resume RUN alone")
    folder = RunFolder.open(job.resume, job.runs)
    return folder, folder.load_recipe()


# How the seeds are trained -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """How several seeds are trained.

    Attributes:
        jobs: How many at a time, each in a process of its own.
        threads: Of each.
        together: As one stacked model instead.
        notes: What the user should know of it.
    """

    jobs: int
    threads: int
    together: bool = False
    notes: tuple[str, ...] = ()


def _plan(built: Built, device: torch.device, jobs: int | None, folder: RunFolder | None) -> _Plan:
    settings, notes = built.recipe.train, []
    count = len(settings.seeds)
    threads = torch.get_num_threads()
    if count > 1 and (settings.together is True or (settings.together == "auto" and device.type == "cuda")):
        if jobs is not None:
            notes.append(f"--jobs {jobs} trains the seeds in processes, not together")
        elif reason := unstackable(built):
            notes.append(f"the seeds are not trained together: {reason}")
        else:
            return _Plan(1, threads, together=True)
    if jobs is None and device.type != "cpu":
        jobs = 1
    jobs, threads = share(count, threads, jobs, None if folder is None else folder.read_env().get("threads"))
    if jobs > 1 and (names := only_here(built.recipe)):
        notes.append(
            f"the seeds are trained one after the other: a process of its own would not know {', '.join(names)}, "
            f"registered in this session only"
        )
        jobs, threads = 1, torch.get_num_threads()
    return _Plan(jobs, threads, notes=tuple(notes))


def unstackable(built: Built) -> str | None:
    """Why the seeds of a recipe cannot be trained as one stacked model; None where they can."""
    if not built.fast:
        return "nothing is made faster (MMROBUST_ACCEL=off)"
    from mmrobust.accel.stacked import unvmappable

    if built.recipe.train.precision == "fp16":
        return "fp16 scales the loss of each seed on its own (bf16 needs no scaling)"
    if isinstance(built.recipe.train.schedule, Plateau):
        return "train.schedule 'plateau' lowers the learning rate of each seed on its own"
    for slot, part in built.model.parts.items():
        slot = _SLOTS.get(slot, slot)
        if culprit := unvmappable(part):
            return f"{slot} '{getattr(built.recipe.model, slot).use}' cannot be stacked ({culprit})"
    for key, part in built.learning.named_objectives():
        if culprit := unvmappable(part):
            return f"objective '{key}' cannot be stacked ({culprit})"
    return None


# Training them -----------------------------------------------------------------------------------------------------


def _train(run: Run, built: Built, plan: _Plan, lock: int | None, job: TrainingJob) -> None:
    recipe, folder = run.recipe, run.folder
    seeds, resume = recipe.train.seeds, job.resume is not None
    size = steps_of_epoch(len(built.dataset.splits["train"]), recipe.train) * recipe.train.epochs
    files.sweep(folder.path)
    with (
        Meter(recipe.name, size * len(seeds), quiet=job.quiet) as meter,
        interruptible(meter.say) as interrupt,
    ):

        def log(text: str) -> None:
            folder.say(text)
            meter.say(text)

        meter.say(f"{'resuming' if resume else 'training'} in {folder.path}")
        if resume:
            if changed := _changes(folder, plan.threads):
                log(f"not quite what the run began on, so its last bits may differ: {changed}")
            for seed, state in _survey(folder, seeds).items():
                if state.finished:
                    run.states[seed] = state
                    Checkpoints(folder.seed(seed), recipe.train.keep).prune(state)
                    log(f"{f'seed {seed}: ' if len(seeds) > 1 else ''}{summary(state, recipe.train.epochs)}")
                    meter.skip(size)
        for note in plan.notes:
            log(note)
        left = [seed for seed in seeds if seed not in run.states]
        if plan.jobs > 1 and len(left) > 1:
            outcomes = fit_in_processes(
                folder, left, jobs=plan.jobs, threads=plan.threads, lock=lock, log=log, resume=resume, meter=meter,
                interrupt=interrupt,
            )  # fmt: skip
        else:
            with _threads(plan.threads):
                outcomes = fit_here(
                    built, folder, left, together=plan.together, log=log, resume=resume, meter=meter,
                    interrupt=interrupt,
                )  # fmt: skip
        every = {**run.states, **outcomes}
        for seed in seeds:
            outcome = every[seed]
            if isinstance(outcome, State):
                run.states[seed] = outcome
            else:
                run.diverged[seed] = outcome
        run.states = {seed: run.states[seed] for seed in seeds if seed in run.states}
        if interrupt.requested:
            raise InterruptedRun("interrupted after the last epoch; the training is finished and saved")


def fit_here(
    built: Built,
    folder: RunFolder,
    seeds: Sequence[int],
    *,
    together: bool,
    log: Callable[[str], None],
    resume: bool,
    meter: Meter,
    interrupt: Interrupt,
) -> dict[int, State | DivergedError]:
    """Trains seeds in this process: stacked, or one after the other.

    Args:
        built: The recipe, built for its first seed; changed in place.
        folder: The run.
        seeds: Those that are not finished.
        together: Train them as one stacked model, where that works.
        log: Gets a line on what the user should know.
        resume: Go on from the newest unharmed checkpoints.
        meter: Shows the progress of all.
        interrupt: Looked at after each step.

    Returns:
        Where each seed ended, or why it diverged.
    """
    recipe, device = built.recipe, choose_device(built.recipe)

    def begin(number: int, beside: Seed | None = None) -> Seed:
        own = built if number == recipe.train.seeds[0] else build(recipe, dataset=built.dataset, seed=number)
        label = f"seed {number}: " if len(recipe.train.seeds) > 1 else ""
        seed = Seed(own, folder, number, device, meter=meter, label=label, beside=beside)
        if resume:
            seed.resume()
        return seed

    every: list[Seed] = []
    if together and len(seeds) > 1:
        for number in seeds:
            every.append(begin(number, every[0] if every else None))
        if why := _refusal(every):
            log(f"the seeds are trained one after the other, as they cannot be stacked ({why})")
            for seed in every:
                fit([seed], meter, interrupt)
        else:
            log(f"seeds {', '.join(map(str, seeds))} are trained together, as one stacked model{_dropout(built)}")
            fit(every, meter, interrupt)
        return {seed.number: seed.diverged or seed.state for seed in every}
    outcomes: dict[int, State | DivergedError] = {}
    for number in seeds:  # built one after the other, too: they need memory
        seed = begin(number)
        fit([seed], meter, interrupt)
        outcomes[number] = seed.diverged or seed.state
    return outcomes


def _refusal(seeds: Sequence[Seed]) -> str | None:
    """Why these seeds cannot be stacked, tried on a few samples; nothing is changed by it."""
    from mmrobust.accel.stacked import refusal

    first = seeds[0]
    index = torch.arange(min(len(first.train), 4), device=first.device)
    for seed in seeds:
        seed.begin()
        seed.trained.train()
    views = [seed.draw(index) for seed in seeds]
    with deterministic(first.device, 0, lenient=True), autocast(first.settings.precision, first.device):
        error = refusal([seed.trained for seed in seeds], views, first.progress())
    return None if error is None else first_line(error)


def _dropout(built: Built) -> str:
    parts: list[Any] = [*built.model.modules(), *built.learning.modules()]
    if any(isinstance(part, torch.nn.modules.dropout._DropoutNd) and part.p > 0 for part in parts):
        return "; dropout has the same distribution as in a seed alone, not the same bits"
    return ""


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads as a seed is trained with: a resumed one has what it had before."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _survey(folder: RunFolder, seeds: Sequence[int]) -> dict[int, State]:
    """Where each seed stands; `metrics.jsonl` is made to say the same, whatever a crash has left of it."""
    newest = {seed: Checkpoints(folder.seed(seed)).newest() for seed in seeds}
    states = {seed: checkpoint.state for seed, checkpoint in newest.items() if checkpoint is not None}
    others = [line for line in folder.read_metrics() if line.get("seed") not in seeds]
    folder.set_metrics([*others, *(line for state in states.values() for line in state.metrics)])
    return states


def _changes(folder: RunFolder, threads: int) -> str:
    then, now = folder.read_env(), environment(threads)
    return ", ".join(
        f"{key} {then[key]} then, {now[key]} now" for key in _SAME if key in then and then[key] != now[key]
    )
