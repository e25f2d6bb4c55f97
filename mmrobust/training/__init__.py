"""Training: the loop, checkpoints, the run folder, progress, several seeds in turn, in processes or together."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmrobust import files
from mmrobust import recipe as recipes
from mmrobust.errors import DivergedError, InterruptedRun, UsageError, WriteError
from mmrobust.model.assemble import Built, build
from mmrobust.training.checkpoint import Checkpoints, State
from mmrobust.training.data_record import DataRecord
from mmrobust.training.folder import RunFolder, environment
from mmrobust.training.loop import (
    Interrupt,
    Trainer,
    best_value,
    choose_device,
    fit,
    interruptible,
    resident,
    selection,
    told_best,
)
from mmrobust.training.processes import ChildError, fit_in_processes, only_here, share
from mmrobust.training.progress import Meter
from mmrobust.training.stacked import fit_together, unstackable
from mmrobust.training.trained import (
    best_seed,
    chosen_seeds,
    finished_seeds,
    keep_record,
    load_trained,
    open_data,
)

if TYPE_CHECKING:
    from mmrobust.recipe import Recipe

__all__ = [
    "Checkpoints",
    "Interrupt",
    "Meter",
    "Run",
    "RunFolder",
    "State",
    "Trainer",
    "best_seed",
    "choose_device",
    "chosen_seeds",
    "finished_seeds",
    "fit",
    "fit_together",
    "load_trained",
    "open_data",
    "resident",
    "train",
    "train_seeds",
]

#: What `env.json` and the machine must agree on for a resumed run to end with the same bits.
_SAME = ("mmrobust", "torch", "plugins", "processor", "threads", "gemm", "gpu")


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
    diverged: dict[int, str] = field(default_factory=dict)

    def check(self) -> Run:
        """The run, if every seed was trained.

        Raises:
            DivergedError: Some seeds diverged.
        """
        if self.diverged:
            done = f"; finished: seed {', '.join(map(str, self.states))}" if self.states else ""
            raise DivergedError("\n".join(self.diverged.values()) + f"\n  the run is kept in {self.folder.path}{done}")
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
            "diverged": {str(seed): text for seed, text in self.diverged.items()},
        }

    def __str__(self) -> str:
        epochs = self.recipe.train.epochs
        lines = [f"trained: {self.folder.path}"]
        for seed in sorted({*self.states, *self.diverged}):
            state = self.states.get(seed)
            told = f"best epoch {state.best['epoch']}/{epochs}{best_value(state)}" if state else "diverged"
            lines.append(f"  seed {seed}: {told}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def train(
    recipe: Recipe | str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    runs: str | os.PathLike[str] = "runs",
    out: str | os.PathLike[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    resume: RunFolder | str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    changed_data: bool = False,
    quiet: bool = False,
) -> Run:
    """Trains every seed of a recipe: on a CPU as one process a core, on a GPU together as one stacked model.

    Args:
        recipe: A loaded recipe, a path, or the bare name of a shipped one; None with `resume`.
        overrides: Changes of it, `a.b.c=value` or `~a.b.c`.
        runs: The folder of all runs.
        out: The run's own folder, instead of a new one in `runs`.
        seeds: Instead of the recipe's: a number n for 1 to n, or the seeds themselves.
        resume: A run to go on with: its folder, or a recipe's name for its latest. It ends with the bits it would
            have had; seeds that are finished are left as they are.
        jobs: How many seeds are trained at a time, each in a process of its own; as many as this process has threads
            where None (one on a GPU). The threads are divided among them.
        changed_data: Resume although a data file is not the one that the run began on; the run notes it.
        quiet: Show no progress.

    Raises:
        RecipeError: The recipe is wrong.
        DataError: The data cannot be read.
        DivergedError: Some seeds met a loss that is not finite; the others are trained and kept.
        InterruptedRun: Ctrl-C; the message says how to go on.
        WriteError: The disk is full, or the like; the message says how to go on.
    """
    return train_seeds(
        recipe,
        overrides,
        runs=runs,
        out=out,
        seeds=seeds,
        resume=resume,
        jobs=jobs,
        changed_data=changed_data,
        quiet=quiet,
    ).check()


def train_seeds(
    recipe: Recipe | str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    runs: str | os.PathLike[str] = "runs",
    out: str | os.PathLike[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    resume: RunFolder | str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    changed_data: bool = False,
    quiet: bool = False,
    verb: str = "train",
) -> Run:
    """As `train`, but seeds that diverged are told in the result instead of raised, unless all did.

    Args:
        recipe: See `train`.
        overrides: See `train`.
        runs: See `train`.
        out: See `train`.
        seeds: See `train`.
        resume: See `train`.
        jobs: See `train`.
        changed_data: See `train`.
        quiet: See `train`.
        verb: The verb of the command line that goes on with it, for messages.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs {jobs}: at least one seed has to be trained at a time")
    if resume is not None:
        if recipe is not None or overrides or seeds is not None or out is not None:
            raise UsageError("a resumed run has its recipe, seeds and folder already: give --resume RUN alone")
        folder = RunFolder.open(resume, runs)
        loaded = folder.load_recipe()
    elif recipe is None:
        raise UsageError("name a recipe, or a run to go on with: --resume RUN")
    else:
        folder = None
        loaded = _load(recipe, overrides, seeds)

    dataset, notes = (None, []) if folder is None else open_data(folder, changed=changed_data)
    built = build(loaded, dataset=dataset, seed=loaded.train.seeds[0])
    device = choose_device(loaded)
    selection(built)
    plan = _plan(built, device, jobs, folder)
    if folder is None:  # nothing is left behind by a recipe or data that cannot be used
        record = DataRecord.of(loaded, built.dataset)
        others = {"data.json": record.to_text()}
        folder = RunFolder.create(loaded, runs, out=out, threads=plan.threads, others=others)
    else:
        keep_record(folder, loaded, built.dataset, notes)
    run = Run(folder, loaded)
    go_on = f"go on with: mmrobust {verb} --resume {shlex.quote(str(folder.path))}"
    try:
        with folder.locked() as lock:
            _train(run, built, plan, lock, resume is not None, quiet)
    except InterruptedRun as error:
        raise InterruptedRun(f"{error}; {go_on}") from error
    except WriteError as error:
        raise WriteError(f"{error}\n  every finished epoch is saved; {go_on}") from error
    except ChildError as error:
        raise ChildError(f"{error}\n  every finished epoch is saved; {go_on}") from error
    if not run.states:
        run.check()
    return run


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


def _train(run: Run, built: Built, plan: _Plan, lock: int | None, resume: bool, quiet: bool) -> None:
    recipe, folder = run.recipe, run.folder
    seeds = recipe.train.seeds
    epochs = recipe.train.epochs
    size = -(-len(built.dataset.splits["train"]) // recipe.train.batch_size)
    label = lambda seed: f"seed {seed}: " if len(seeds) > 1 else ""
    files.sweep(folder.path)
    with (
        Meter(recipe.name, size * epochs * len(seeds), quiet=quiet) as meter,
        interruptible(meter.say) as interrupt,
    ):

        def tell(text: str) -> None:
            folder.say(text)
            meter.say(text)

        meter.say(f"{'resuming' if resume else 'training'} in {folder.path}")
        if resume:
            if changed := _changes(folder, plan.threads):
                tell(f"not quite what the run began on, so its last bits may differ: {changed}")
            for seed, state in _survey(folder, seeds).items():
                if state.finished:
                    run.states[seed] = state
                    Checkpoints(folder.seed(seed), recipe.train.keep).prune(state)
                    tell(f"{label(seed)}{told_best(state, epochs)}")
                    meter.skip(size * epochs)
        left = [seed for seed in seeds if seed not in run.states]
        for note in plan.notes:
            tell(note)

        def diverged(seed: int, text: str) -> None:
            run.diverged[seed] = text
            folder.say(text)
            if len(seeds) > 1:
                meter.say(f"{label(seed)}diverged")

        how: dict[str, Any] = {"resume": resume, "meter": meter, "interrupt": interrupt}
        if plan.together and len(left) > 1:
            run.states |= fit_together(built, folder, left, diverged=diverged, tell=tell, **how)
        elif plan.jobs > 1 and len(left) > 1:
            run.states |= fit_in_processes(
                folder, left, jobs=plan.jobs, threads=plan.threads, lock=lock, diverged=diverged, tell=tell, **how
            )
        else:
            with _threads(plan.threads):
                for seed in left:
                    own = built if seed == seeds[0] else build(recipe, dataset=built.dataset, seed=seed)
                    begin = meter.done
                    try:
                        run.states[seed] = fit(own, folder, seed, label=label(seed), **how)
                    except DivergedError as error:
                        diverged(seed, str(error))
                        meter.skip(begin + size * epochs - meter.done)
        run.states = {seed: run.states[seed] for seed in seeds if seed in run.states}
        run.diverged = {seed: run.diverged[seed] for seed in seeds if seed in run.diverged}
        if interrupt.requested:
            raise InterruptedRun("interrupted after the last epoch; the training is finished and saved")


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
    found = {seed: Checkpoints(folder.seed(seed)).newest() for seed in seeds}
    states = {seed: checkpoint.state for seed, checkpoint in found.items() if checkpoint is not None}
    others = [line for line in folder.read_metrics() if line.get("seed") not in seeds]
    folder.set_metrics([*others, *(line for state in states.values() for line in state.metrics)])
    return states


def _load(recipe: Recipe | str | Path, overrides: Sequence[str], seeds: int | Sequence[int] | None) -> Recipe:
    more = [] if seeds is None else [f"train.seeds={seeds if isinstance(seeds, int) else list(seeds)}"]
    if isinstance(recipe, (str, Path)):
        return recipes.load(recipe, [*overrides, *more])
    if overrides:
        raise UsageError("overrides are for a recipe given by its path or name; load a loaded one anew with them")
    if seeds is None:
        return recipe
    numbers = tuple(range(1, seeds + 1)) if isinstance(seeds, int) else tuple(seeds)
    resolved = {**recipe.resolved, "train": {**recipe.resolved.get("train", {}), "seeds": list(numbers)}}
    return replace(recipe, train=replace(recipe.train, seeds=numbers), resolved=resolved)


def _changes(folder: RunFolder, threads: int) -> str:
    then, now = folder.read_env(), environment(threads)
    return ", ".join(
        f"{key} {then[key]} then, {now[key]} now" for key in _SAME if key in then and then[key] != now[key]
    )
