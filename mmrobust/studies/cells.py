"""The variants of a study, each run whole in a process of its own."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from typing import Any

from mmrobust import files, pipeline
from mmrobust.errors import DamagedError, InterruptedRun, MmrobustError
from mmrobust.reports import report
from mmrobust.robustness import evaluate
from mmrobust.studies.folder import Study
from mmrobust.supervisor import Child, ChildError, Ended, Link, Supervisor, interruptible
from mmrobust.training import Meter, RunFolder, finished_seeds
from mmrobust.training.processes import known_plugins

__all__ = ["evaluation", "run_cells", "run_variant", "threads_of"]

_EPOCH = 100  # units of progress
_CELL = 0.06  # what one pass over the test split takes, as a share of an epoch; for the time left only
_ERROR_LINES = 4
_OUTPUT = "output.txt"
_NEWS = 30.0  # seconds between two lines on the progress, where there is no live one


def threads_of(cores: int, jobs: int) -> int:
    """Threads of each process; what the user asked for goes first."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else max(1, cores // jobs)


def run_cells(study: Study, jobs: int, threads: int, lock: int | None, quiet: bool) -> None:
    """Runs what is not finished yet.

    Where a variant's process fails and some of its seeds are trained, a second one evaluates and reports those.

    Args:
        study: The study.
        jobs: How many variants at a time.
        threads: Of each.
        lock: The study's lock, held by the processes too.
        quiet: Show no progress.

    Raises:
        InterruptedRun: Ctrl-C; the message says how to go on.
        WriteError: The disk is full, or the like.
    """
    cells = _Cells(study, threads, lock)
    with (
        Meter(study.record["name"], cells.total, quiet=quiet) as meter,
        interruptible(meter.say) as interrupt,
        Supervisor() as supervisor,
    ):
        meter.skip(cells.done)
        if count := len(cells.waiting):
            at_once = f"{min(jobs, count)} at a time" if min(jobs, count) > 1 else "one after the other"
            meter.say(f"{count} of {len(cells.variants)} variants to run, {at_once}, in {study.path}")
        news = time.monotonic()
        try:
            while supervisor.children or (cells.waiting and not interrupt.requested):
                while cells.waiting and len(supervisor.children) < jobs and not interrupt.requested:
                    cells.start(supervisor)
                received = supervisor.receive(timeout=0.1)
                names = ", ".join(child.name for child in supervisor.children)
                meter.total = max(1, cells.total)
                meter.update(cells.done, note=names)
                if time.monotonic() - news > _NEWS:
                    news = time.monotonic()
                    meter.say(f"{meter.done / meter.total:4.0%}  {meter.left} left  {names}", plain_only=True)
                if received and isinstance(received[1], Ended):
                    cells.end(*received, meter)
                if interrupt.requested:
                    supervisor.stop()
        except KeyboardInterrupt:  # a second ctrl-C: the block's end kills what is left
            interrupt.requested = True
        if interrupt.requested:
            cells.interrupt()
            raise InterruptedRun(f"interrupted; every finished epoch is saved; go on with: {study.go_on}")


class _Cells:
    """Which variants are waiting, running and done.

    Attributes:
        variants: What `study.json` says of each.
        waiting: Those that have to be run.
        rescued: What first went wrong with a variant of which some seeds are trained.
    """

    def __init__(self, study: Study, threads: int, lock: int | None) -> None:
        self.study, self.threads, self.lock = study, threads, lock
        self.variants: dict[str, dict[str, Any]] = study.record["variants"]
        self.waiting: deque[str] = deque()
        self.rescued: dict[str, str] = {}
        for name, variant in self.variants.items():
            complete = _complete(study.run(name))
            variant.update(state="finished" if complete else "waiting", error=None, missing=[])
            if not complete:
                self.waiting.append(name)
        study.record.update(tables=[], ranks={})
        study.save()
        self.progress = {name: _Progress(study.run(name)) for name in self.variants}

    @property
    def total(self) -> int:
        """Units of work of all variants that did not fail."""
        return sum(one.total for name, one in self.progress.items() if self.variants[name]["state"] != "failed")

    @property
    def done(self) -> int:
        """How many of them are done."""
        states = {name: variant["state"] for name, variant in self.variants.items()}
        return sum(
            one.done(states[name] == "finished") for name, one in self.progress.items() if states[name] != "failed"
        )

    def start(self, supervisor: Supervisor) -> None:
        """Starts the process of the next variant."""
        name = self.waiting.popleft()
        run = self.study.run(name)
        rest = name in self.rescued
        with files.explained(run.path):
            if not rest:
                (run.path / _OUTPUT).unlink(missing_ok=True)
            supervisor.start(
                f"{__name__}:run_variant", str(run.path), rest, name=name, threads=self.threads, env=known_plugins(),
                hold=[self.lock], output=run.path / _OUTPUT,
            )  # fmt: skip
        self.variants[name]["state"] = "running"
        self.study.save()

    def end(self, child: Child, ended: Ended, meter: Meter) -> None:
        """Looks at what the process of a variant has left."""
        name, variant = child.name, self.variants[child.name]
        run = self.study.run(name)
        if child.stopping and _complete(run) is False:
            return
        error = _error(run, child, ended)
        if error and name not in self.rescued and _rest(run):
            self.rescued[name] = error
            self.waiting.appendleft(name)
            meter.say(f"failed {name}: {error.splitlines()[0]}; evaluating the seeds that are trained")
            return
        finished = evaluation(run) is not None
        error = self.rescued.get(name) or error
        variant.update(state="finished" if finished else "failed", error=error)
        count = sum(one["state"] in ("finished", "failed") for one in self.variants.values())
        why = f": {error.splitlines()[0]}" if error else ""
        meter.say(f"{variant['state']} {name}{why} ({count}/{len(self.variants)})")
        self.study.save()

    def interrupt(self) -> None:
        """Notes which variants were running."""
        for variant in self.variants.values():
            if variant["state"] == "running":
                variant["state"] = "interrupted"
        self.study.save()


def run_variant(link: Link, path: str, rest: bool) -> None:
    """What the process of a variant does.

    Args:
        link: To the process of the study.
        path: The folder of the variant's run.
        rest: Train nothing: evaluate and report the seeds that are trained.
    """
    try:
        if rest:
            evaluate(path, quiet=True)
            report(path)
        else:
            pipeline.run(resume=path, quiet=True)
    except MmrobustError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # for who reads the variant's output
        raise


def _error(run: RunFolder, child: Child, ended: Ended) -> str | None:
    """What went wrong with a variant whose process ended; None where nothing did."""
    if not ended.code and evaluation(run) is not None:
        return None
    code = ended.code
    how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    if ended.error is None or isinstance(ended.error, ChildError):
        lines = child.output[-_ERROR_LINES:]
    else:
        lines = f"error: {ended.error}".splitlines()[:_ERROR_LINES]
    return "\n".join([*lines, f"({how}; more in variants/{run.path.name}/{_OUTPUT})"])


def _rest(run: RunFolder) -> bool:
    """Whether some seeds are trained that no evaluation knows of."""
    with contextlib.suppress(OSError, ValueError, MmrobustError):
        return bool(set(finished_seeds(run)) - set((evaluation(run) or {"seeds": []})["seeds"]))
    return False


def _complete(run: RunFolder) -> bool:
    """Whether a variant is evaluated with all its seeds."""
    values = evaluation(run)
    return values is not None and set(values["seeds"]) >= set(run.load_recipe().train.seeds)


def evaluation(run: RunFolder) -> dict[str, Any] | None:
    """What a finished variant's `evaluation.json` holds; None where it is damaged, too: it is then written again."""
    try:
        values = run.read_evaluation()
    except DamagedError:
        return None
    return values if values is not None and values.get("seeds") else None


class _Progress:
    """How far a variant has come, in hundredths of an epoch, from what its process has written."""

    def __init__(self, run: RunFolder) -> None:
        recipe = run.load_recipe()
        settings, self.seeds, self.run = recipe.evaluate, recipe.train.seeds, run
        cells = 1 + len(settings.noise) * sum(rate > 0 for rate in settings.rates) * settings.draws
        self.evaluation = round(_EPOCH * _CELL * cells)
        self.total = len(self.seeds) * (recipe.train.epochs * _EPOCH + self.evaluation)

    def done(self, finished: bool) -> int:
        if finished:
            return self.total
        epochs = evaluated = 0
        with contextlib.suppress(OSError):
            epochs = self.run.metrics.read_bytes().count(b"\n")
            evaluated = self.run.log.read_bytes().count(b"  evaluated seed ")
        return min(epochs * _EPOCH + evaluated * self.evaluation, self.total)
