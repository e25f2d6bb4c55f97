"""Seeds as processes: on a CPU several of few threads are faster than one of many.

`mmrobust.supervisor` starts the workers and stops them. Each trains one seed after the other that it is handed, and
sends, besides how each has ended, what its progress and lines for the user are, which this process shows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrobust import registry
from mmrobust.errors import DivergedError, InterruptedRun, MmrobustError
from mmrobust.model.assemble import build
from mmrobust.supervisor import Child, Ended, Interrupt, Link, Supervisor, interruptible, pack_error, unpack_error
from mmrobust.training.checkpoint import State
from mmrobust.training.device import choose_device
from mmrobust.training.folder import RunFolder
from mmrobust.training.loop import fit
from mmrobust.training.progress import Meter
from mmrobust.training.seed import Seed
from mmrobust.training.trained import open_data

if TYPE_CHECKING:
    from mmrobust.recipe import Recipe

__all__ = ["fit_in_processes", "known_plugins", "only_here", "share"]


def share(seeds: int, threads: int, jobs: int | None = None, before: Any = None) -> tuple[int, int]:
    """How many seeds are trained at a time, and with how many threads each.

    Together they never have more threads than one process would have had.

    Args:
        seeds: How many there are.
        threads: What one process would use.
        jobs: What the user asks for; None for as many as there are threads.
        before: Threads of a seed in the run that is resumed: the last bits of a result depend on them.
    """
    if isinstance(before, int) and 1 <= before <= threads:
        most = max(1, threads // before)
        if jobs is None or jobs <= most:
            return min(jobs or most, seeds), before
    jobs = min(jobs or threads, seeds)
    return jobs, max(1, threads // jobs)


def only_here(recipe: Recipe) -> list[str]:
    """Components of the recipe that were registered in this session alone, so that no other process knows them."""
    catalogue = registry.catalogue()
    brought = {"mmrobust", *(plugin.distribution for plugin in catalogue.plugins)}
    named = set(_words(recipe.resolved))
    return sorted(
        f"{spec.kind} '{spec.name}'"
        for spec in catalogue.all()
        if spec.distribution not in brought and named & {spec.name, spec.qualified}
    )


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)


def known_plugins() -> dict[str, str]:
    """What has to stand in the environment of a child for it to know the plugin files that this process has loaded."""
    files = registry.loaded_files()
    return {"MMROBUST_PLUGIN_FILES": files} if files else {}


# This process ----------------------------------------------------------------------------------------------------


@dataclass
class _Progress:
    """How far a worker has come with its seed."""

    seed: int
    done: int = 0
    skipped: int = 0
    label: str = ""
    note: str = ""


@dataclass
class _Work:
    """What is to be done and what came of it.

    Attributes:
        waiting: Seeds that no worker has begun.
        running: The seed that each worker is at; None where it has no more to do.
        outcomes: How each seed has ended.
        failed: The first error that is not a seed's own.
    """

    folder: RunFolder
    waiting: deque[int]
    meter: Meter
    running: dict[Child, _Progress | None] = field(default_factory=dict)
    outcomes: dict[int, State | DivergedError] = field(default_factory=dict)
    failed: MmrobustError | None = None

    def next(self, child: Child) -> None:
        """Hands a worker its next seed, or lets it end."""
        self.running[child] = None
        if self.waiting and self.failed is None:
            seed = self.waiting.popleft()
            child.name = f"the process that trained seed {seed}"
            self.running[child] = _Progress(seed, label=f"seed {seed}")
            child.send(seed)
        else:
            child.finish()

    def receive(self, child: Child, message: Any) -> None:
        """Acts on what a worker has sent."""
        if isinstance(message, Ended):
            del self.running[child]
            for line in child.output:
                self.folder.say(f"a process said: {line}")
            self.failed = self.failed or message.error
        elif "done" in message:
            self._show(child, message)
        elif "say" in message:
            self.meter.say(message["say"], plain_only=message["plain_only"], timed=message["timed"])
        else:
            outcome = State(**message["state"]) if "state" in message else unpack_error(message["diverged"])
            assert isinstance(outcome, State | DivergedError)
            self.outcomes[message["seed"]] = outcome
            self.next(child)

    def _show(self, child: Child, message: dict[str, Any]) -> None:
        """Moves the progress of all on by that of one."""
        progress = self.running[child]
        assert progress is not None
        self.meter.skip(message["skipped"] - progress.skipped)
        worked = (message["done"] - message["skipped"]) - (progress.done - progress.skipped)
        progress.done, progress.skipped = message["done"], message["skipped"]
        progress.label, progress.note = message["label"], message["note"]
        others = [one for one in self.running.values() if one is not None]
        notes = ", ".join(one.note for one in others if one.note)
        self.meter.update(self.meter.done + worked, notes, ", ".join(one.label for one in others))


def fit_in_processes(
    folder: RunFolder,
    seeds: Sequence[int],
    *,
    jobs: int,
    threads: int,
    lock: int | None,
    log: Callable[[str], None],
    resume: bool,
    meter: Meter,
    interrupt: Interrupt,
) -> dict[int, State | DivergedError]:
    """Trains seeds, some at a time, each as it is trained alone with as many threads.

    Args:
        folder: The run.
        seeds: Those that are not finished.
        jobs: How many at a time.
        threads: Of each.
        lock: The run's lock, which the processes hold as well.
        log: Gets a line on what the user should know.
        resume: Go on from the newest unharmed checkpoints.
        meter: Shows the progress of all.
        interrupt: Looked at all the time.

    Returns:
        Where each seed ended, or why it diverged.

    Raises:
        InterruptedRun: `interrupt` was requested.
        MmrobustError: What a process raised; the others have stopped after their step.
        ChildError: A process died.
    """
    jobs = min(jobs, len(seeds))
    log(f"{len(seeds)} seeds to train, {jobs} at a time, each in a process of {threads} thread{'s'[: threads > 1]}")
    work = _Work(folder, deque(seeds), meter)
    with Supervisor() as supervisor:
        for _ in range(jobs):
            child = supervisor.start(
                f"{__name__}:train_seeds_of", str(folder.path), resume, meter.live, name="a process that trains seeds",
                threads=threads, env=known_plugins(), hold=[lock],
            )  # fmt: skip
            work.next(child)
        started = False
        while supervisor.children:
            if received := supervisor.receive(timeout=0.1):
                if not started:  # they had to import and to read first
                    started = True
                    meter.start()
                work.receive(*received)
            if interrupt.requested or work.failed:
                supervisor.stop()
    if work.failed is not None:
        raise work.failed
    if left := [seed for seed in seeds if seed not in work.outcomes]:
        raise InterruptedRun(f"interrupted in seed {', '.join(map(str, left))}; every finished epoch is saved")
    return work.outcomes


# A worker --------------------------------------------------------------------------------------------------------


class _SentMeter(Meter):
    """Shows nothing itself, but sends what it would show."""

    def __init__(self, link: Link, live: bool) -> None:
        super().__init__("", 1, quiet=True)
        self.live = live
        self._link, self._sent = link, 0.0

    def update(self, done: int, note: str | None = None, label: str | None = None) -> None:
        super().update(done, note, label)
        if time.monotonic() - self._sent >= 0.1:
            self.send_progress()

    def skip(self, count: int) -> None:
        super().skip(count)
        self.send_progress()

    def say(self, text: str, *, plain_only: bool = False, timed: bool = False) -> None:
        self.send_progress()
        self._link.send({"say": text, "plain_only": plain_only, "timed": timed})

    def send_progress(self) -> None:
        self._sent = time.monotonic()
        self._link.send({"done": self.done, "skipped": self._first, "note": self._note, "label": self.label})


def train_seeds_of(link: Link, path: str, resume: bool, live: bool) -> None:
    """A worker: trains the seeds that it is handed.

    Args:
        link: To the process that hands them out.
        path: The folder of the run.
        resume: Go on from the newest unharmed checkpoints.
        live: Whether the progress is shown on a live line.
    """
    folder = RunFolder(Path(path))
    recipe = folder.load_recipe()
    dataset, _ = open_data(folder, changed=True)  # the first process has looked at its files
    device = choose_device(recipe)
    for number in link:
        built = build(recipe, dataset=dataset, seed=number)
        meter = _SentMeter(link, live)
        meter.label = f"seed {number}"
        with interruptible(lambda text: None) as interrupt:  # from here on there is something to save
            seed = Seed(built, folder, number, device, meter=meter, label=f"seed {number}: ")
            if resume:
                seed.resume()
            fit([seed], meter, interrupt)
        if seed.diverged is None:
            link.send({"seed": number, "state": asdict(seed.state)})
        else:
            link.send({"seed": number, "diverged": pack_error(seed.diverged)})
