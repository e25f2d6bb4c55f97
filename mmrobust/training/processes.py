"""Seeds as processes: on a CPU several of few threads are faster than one of many.

This process starts the workers, hands each a seed at a time, shows what they tell, and is the only one that hears of
ctrl-C and TERM. A worker takes seeds from its standard input, a line each, and stops after its step when that input
ends, even where this process was killed. What it tells goes through its standard output, a JSON object a line:

    {"done": 12, "skipped": 0, "note": "loss 0.3", "label": "seed 2: epoch 1/30"}     how far its seed has come
    {"say": "...", "plain_only": false, "timed": false}                               see `Meter.say`
    {"state": {...}} | {"diverged": "..."} | {"error": [class, text]}                 how its seed ended

Everything else that a worker prints goes to `log.txt`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mmrobust import errors, registry
from mmrobust.errors import DivergedError, InterruptedRun, MmrobustError
from mmrobust.model.assemble import build
from mmrobust.training.checkpoint import State
from mmrobust.training.folder import RunFolder, to_json
from mmrobust.training.loop import Interrupt, fit
from mmrobust.training.progress import Meter
from mmrobust.training.trained import open_data

if TYPE_CHECKING:
    from mmrobust.recipe import Recipe

__all__ = ["ChildError", "fit_in_processes", "only_here", "share"]

_LAST = 12  # lines of what a worker said before it died
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ChildError(MmrobustError):
    """A worker ended without a word."""


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
    said = set(_words(recipe.resolved))
    return sorted(
        f"{spec.kind} '{spec.name}'"
        for spec in catalogue.all()
        if spec.distribution not in brought and said & {spec.name, spec.qualified}
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


# This process ----------------------------------------------------------------------------------------------------


@dataclass
class _Worker:
    """A process that trains one seed after the other, and what it has told of the one it is at."""

    process: subprocess.Popen[str]
    output: IO[bytes]
    seed: int | None = None
    done: int = 0
    skipped: int = 0
    label: str = ""
    note: str = ""

    def take(self, seed: int) -> None:
        self.seed, self.done, self.skipped, self.label, self.note = seed, 0, 0, f"seed {seed}", ""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it died; its end will be met in its output
            self.process.stdin.write(f"{seed}\n")
            self.process.stdin.flush()

    def stop(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()


@dataclass
class _Work:
    """What is to be done and what came of it."""

    folder: RunFolder
    waiting: deque[int]
    meter: Meter
    tell: Callable[[str], None]
    diverged: Callable[[int, str], None]
    states: dict[int, State] = field(default_factory=dict)
    failed: MmrobustError | None = None
    running: list[_Worker] = field(default_factory=list)

    def heard(self, worker: _Worker, message: dict[str, Any]) -> None:
        """Acts on what a worker told."""
        if "done" in message:
            self.count(worker, message["done"], message["skipped"])
            worker.label, worker.note = message["label"], message["note"]
        elif "say" in message:
            self.meter.say(message["say"], plain_only=message["plain_only"], timed=message["timed"])
        elif "error" in message:
            kind, text = message["error"]
            cls = getattr(errors, kind, MmrobustError)
            if cls is not InterruptedRun:
                self.failed = self.failed or cls(text)
        else:
            assert worker.seed is not None
            if "diverged" in message:
                self.diverged(worker.seed, message["diverged"])
            else:
                self.states[worker.seed] = State(**message["state"])
            self.next(worker)

    def count(self, worker: _Worker, done: int, skipped: int) -> None:
        """Moves the progress of all on by that of one."""
        self.meter.skip(skipped - worker.skipped)
        worked = (done - skipped) - (worker.done - worker.skipped)
        worker.done, worker.skipped = done, skipped
        labels = [one.label for one in self.running if one.seed is not None]
        notes = [one.note for one in self.running if one.seed is not None and one.note]
        self.meter.update(self.meter.done + worked, ", ".join(notes), ", ".join(labels))

    def next(self, worker: _Worker) -> None:
        """Hands a worker its next seed, or lets it end."""
        worker.seed = None
        if self.waiting and self.failed is None:
            worker.take(self.waiting.popleft())
        else:
            worker.stop()

    def ended(self, worker: _Worker) -> None:
        """A worker's output has ended, and so has it."""
        code = worker.process.wait()
        worker.stop()
        said = _said(worker.output)
        for line in said:
            self.folder.say(f"a process said: {line}")
        self.running.remove(worker)
        if worker.seed is not None and code not in (0, InterruptedRun.exit_code) and self.failed is None:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            last = "".join(f"\n    {line}" for line in said[-_LAST:])
            self.failed = ChildError(f"the process that trained seed {worker.seed} {how}{last}")


def fit_in_processes(
    folder: RunFolder,
    seeds: Sequence[int],
    *,
    jobs: int,
    threads: int,
    lock: int | None,
    diverged: Callable[[int, str], None],
    tell: Callable[[str], None],
    resume: bool,
    meter: Meter,
    interrupt: Interrupt,
) -> dict[int, State]:
    """Trains seeds, some at a time, each as `fit` does it alone with as many threads.

    Args:
        folder: The run.
        seeds: Those that are not finished.
        jobs: How many at a time.
        threads: Of each.
        lock: The run's lock, which the processes hold as well.
        diverged: Told of each seed that diverged, and why.
        tell: Told what the user should know.
        resume: Go on from the newest unharmed checkpoints.
        meter: Shows the progress of all.
        interrupt: Looked at all the time.

    Returns:
        Where each seed ended that did not diverge.

    Raises:
        InterruptedRun: `interrupt` was requested.
        MmrobustError: What a process raised; the others have stopped after their step.
        ChildError: A process ended without a word.
    """
    jobs = min(jobs, len(seeds))
    tell(f"{len(seeds)} seeds to train, {jobs} at a time, each in a process of {threads} thread{'s'[: threads > 1]}")
    work = _Work(folder, deque(seeds), meter, tell, diverged)
    heard: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
    try:
        for _ in range(jobs):
            worker = _start(folder, threads, lock, resume, meter.live)
            work.running.append(worker)
            threading.Thread(target=_listen, args=(worker, heard), daemon=True).start()
            work.next(worker)
        stopping = started = False
        while work.running:
            with contextlib.suppress(queue.Empty):
                worker, message = heard.get(timeout=0.1)
                if not started:  # they had to import and to read first
                    started = True
                    meter.start()
                if message is None:
                    work.ended(worker)
                else:
                    work.heard(worker, message)
            if not stopping and (interrupt.requested or work.failed):
                stopping = True
                for worker in work.running:
                    worker.stop()
    finally:  # a second ctrl-C, or an error here
        for worker in work.running:
            worker.process.kill()
            worker.process.wait()
            worker.output.close()
    if work.failed is not None:
        raise work.failed
    if interrupt.requested and len(work.states) < len(seeds):
        left = [seed for seed in seeds if seed not in work.states]
        raise InterruptedRun(f"interrupted in seed {', '.join(map(str, left))}; every finished epoch is saved")
    return work.states


def _start(folder: RunFolder, threads: int, lock: int | None, resume: bool, live: bool) -> _Worker:
    """Starts a worker. It imports what this process would, and knows the plugin files that this one has loaded."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from mmrobust.training.processes import _main; sys.exit(_main())"
    env = {**os.environ, **dict.fromkeys(_THREADS, str(threads))}
    if plugins := registry.loaded_files():
        env["MMROBUST_PLUGIN_FILES"] = plugins
    output = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the worker ends)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path), str(int(resume)), str(int(live))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=output,
        env=env,
        text=True,
        encoding="utf-8",
        start_new_session=True,
        pass_fds=() if lock is None else (lock,),
    )
    return _Worker(process, output)


def _listen(worker: _Worker, heard: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
    assert worker.process.stdout is not None
    for line in worker.process.stdout:
        with contextlib.suppress(json.JSONDecodeError):  # the last line of one that was killed
            heard.put((worker, json.loads(line)))
    heard.put((worker, None))


def _said(output: IO[bytes]) -> list[str]:
    """The lines that a worker left."""
    output.seek(0)
    text = output.read().decode("utf-8", "replace")
    output.close()
    return [line for line in text.splitlines() if line.strip()]


# A worker --------------------------------------------------------------------------------------------------------


class _Channel(Meter):
    """Shows nothing itself, but sends what it is told."""

    def __init__(self, stream: IO[str], live: bool) -> None:
        super().__init__("", 1, quiet=True)
        self.live = live
        self._channel, self._sent = stream, 0.0

    def update(self, done: int, note: str | None = None, label: str | None = None) -> None:
        super().update(done, note, label)
        if time.monotonic() - self._sent >= 0.1:
            self.send_progress()

    def skip(self, count: int) -> None:
        super().skip(count)
        self.send_progress()

    def say(self, text: str, *, plain_only: bool = False, timed: bool = False) -> None:
        self.send_progress()
        self.send({"say": text, "plain_only": plain_only, "timed": timed})

    def send_progress(self) -> None:
        self._sent = time.monotonic()
        self.send({"done": self.done, "skipped": self._first, "note": self._note, "label": self.label})

    def send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # nobody is there any more; the end of standard input will tell
            print(to_json(message), file=self._channel, flush=True)


def _main() -> int:
    """A worker; returns the exit code."""
    folder, resume, live = RunFolder(Path(sys.argv[1])), sys.argv[2] == "1", sys.argv[3] == "1"
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what others print must not be taken for a message
    signal.signal(signal.SIGTERM, lambda *_: None)  # schedulers send it to all processes; the first tells the others
    interrupt = Interrupt()
    seeds: queue.Queue[int | None] = queue.Queue()
    threading.Thread(target=_follow, args=(seeds, interrupt), daemon=True).start()
    meter = _Channel(channel, live)
    try:
        recipe = folder.load_recipe()
        dataset, _ = open_data(folder, changed=True)  # the first process has looked at its files
        for seed in iter(seeds.get, None):
            meter.done = meter._first = 0
            meter._note, meter.label = "", f"seed {seed}"
            built = build(recipe, dataset=dataset, seed=seed)
            try:
                state = fit(
                    built, folder, seed, resume=resume, meter=meter, interrupt=interrupt, label=f"seed {seed}: "
                )
            except DivergedError as error:
                total = -(-len(dataset.splits["train"]) // recipe.train.batch_size) * recipe.train.epochs
                meter.skip(total - meter.done)
                meter.send({"diverged": str(error)})
            else:
                meter.send({"state": asdict(state)})
    except (MmrobustError, InterruptedRun) as error:
        meter.send({"error": [type(error).__name__, str(error)]})
        return error.exit_code
    return 0


def _follow(seeds: queue.Queue[int | None], interrupt: Interrupt) -> None:
    """Takes the seeds to train; the end of them is also the word to stop."""
    with contextlib.suppress(OSError, ValueError):
        for line in sys.stdin:
            seeds.put(int(line))
    interrupt.requested = True
    seeds.put(None)
