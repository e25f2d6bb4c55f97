"""The variants' processes: started, watched, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import IO, Any

from mmrobust import files, pipeline
from mmrobust.errors import DamagedError, InterruptedRun, MmrobustError
from mmrobust.reports import report
from mmrobust.robustness import evaluate
from mmrobust.studies.folder import Study
from mmrobust.training import Meter, RunFolder, finished_seeds

__all__ = ["child", "evaluation", "run_cells", "threads_of"]

_EPOCH = 100  # units of progress
_CELL = 0.06  # what one pass over the test split takes, as a share of an epoch; for the time left only
_TOLD = 4  # lines of an error


def threads_of(cores: int, jobs: int) -> int:
    """Threads of each process; what the user asked for goes first."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else max(1, cores // jobs)


@dataclass
class _Child:
    """A variant's process; it stops when its standard input ends, even where this process is killed."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()


def run_cells(made: Study, jobs: int, threads: int, lock: int | None, quiet: bool) -> None:
    """Runs what is not finished yet.

    Where a variant's process fails and some of its seeds are trained, a second one evaluates and reports those.

    Args:
        made: The study.
        jobs: How many variants at a time.
        threads: Of each.
        lock: The study's lock, held by the processes too.
        quiet: Show no progress.

    Raises:
        InterruptedRun: Ctrl-C; the message says how to go on.
        WriteError: The disk is full, or the like.
    """
    variants = made.told["variants"]
    waiting: deque[str] = deque()
    for name, found in variants.items():
        there = _complete(made.run(name))
        found.update(state="finished" if there else "waiting", error=None, missing=[])
        if not there:
            waiting.append(name)
    made.told.update(tables=[], ranks={})
    made.save()
    progress = {name: _Progress(made.run(name)) for name in variants}
    running: dict[str, _Child] = {}
    rescued: dict[str, str] = {}  # what first went wrong with a variant of which some seeds are trained
    with Meter(made.told["name"], sum(one.total for one in progress.values()), quiet=quiet) as meter:
        meter.skip(sum(one.done(name not in waiting) for name, one in progress.items()))
        if waiting:
            at_once = f"{min(jobs, len(waiting))} at a time" if min(jobs, len(waiting)) > 1 else "one after the other"
            meter.say(f"{len(waiting)} of {len(variants)} variants to run, {at_once}, in {made.path}")
        told = time.monotonic()
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    name = waiting.popleft()
                    variants[name]["state"] = "running"
                    running[name] = _start(made.run(name), threads, lock, name in rescued)
                    made.save()
                time.sleep(0.1)
                done = sum(one.done(variants[name]["state"] == "finished") for name, one in progress.items())
                lost = sum(one.total for name, one in progress.items() if variants[name]["state"] == "failed")
                meter.total = max(1, sum(one.total for one in progress.values()) - lost)
                gone = sum(one.done(False) for name, one in progress.items() if variants[name]["state"] == "failed")
                meter.update(done - gone, note=", ".join(running))
                if time.monotonic() - told > 30:
                    told = time.monotonic()
                    share = meter.done / meter.total
                    meter.say(f"{share:4.0%}  {meter.left} left  {', '.join(running)}", plain_only=True)
                for name in [name for name, child in running.items() if child.process.poll() is not None]:
                    child = running.pop(name)
                    child.stop()
                    child.output.close()
                    error = _ended(made.run(name), child.process.returncode, name)
                    if error and name not in rescued and _rest(made.run(name)):
                        rescued[name] = error
                        waiting.appendleft(name)
                        meter.say(f"failed {name}: {error.splitlines()[0]}; evaluating the seeds that are trained")
                        continue
                    there = evaluation(made.run(name)) is not None
                    variants[name].update(state="finished" if there else "failed", error=rescued.get(name) or error)
                    count = sum(found["state"] in ("finished", "failed") for found in variants.values())
                    state, error = variants[name]["state"], variants[name]["error"]
                    why = f": {error.splitlines()[0]}" if error else ""
                    meter.say(f"{state} {name}{why} ({count}/{len(variants)})")
                    made.save()
        except KeyboardInterrupt as error:
            meter.say("stopping the variants after their step; press ctrl-C again to stop at once")
            _stop(running)
            for name in running:
                variants[name]["state"] = "interrupted"
            made.save()
            raise InterruptedRun(f"interrupted; every finished epoch is saved; go on with: {made.go_on}") from error
        finally:
            _stop(running)


def _start(run: RunFolder, threads: int, lock: int | None, rest: bool) -> _Child:
    """Starts the process of a variant. It imports what this one would, and is stopped by this one alone."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        "from mmrobust.studies.cells import child; sys.exit(child(*sys.argv[1:]))"
    )
    count = str(threads)
    env = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count)}
    with files.explained(run.path):
        output = open(run.path / "output.txt", "ab" if rest else "wb")  # noqa: SIM115 (closed when the process ends)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path), *(["rest"] if rest else [])],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,
        pass_fds=() if lock is None else (lock,),
    )
    return _Child(process, output)


def _stop(running: dict[str, _Child]) -> None:
    """Lets the processes finish their step and save; a second ctrl-C stops them at once."""
    try:
        for child in running.values():
            child.stop()
        for child in running.values():
            child.process.wait()
    except KeyboardInterrupt:
        for child in running.values():
            child.process.kill()
            child.process.wait()
    finally:
        for child in running.values():
            child.output.close()


def child(path: str, what: str = "all") -> int:
    """One variant, in a process of its own; returns the exit code.

    Args:
        path: Its run's folder.
        what: `all`, or `rest` to evaluate and report the seeds that are trained.
    """
    # The study alone says when to stop: a scheduler's TERM goes to every process at once, and where the study is in the
    # background of a script, this process was started deaf to the interrupt that `_follow` raises.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_follow, daemon=True).start()
    try:
        if what == "all":
            pipeline.run(resume=path, quiet=True)
        else:
            evaluate(path, quiet=True)
            report(path)
    except MmrobustError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return InterruptedRun.exit_code
    return 0


def _follow() -> None:
    """Stops this process when the study closes its standard input, or is gone."""
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 4096):
            pass
    signal.raise_signal(signal.SIGINT)
    time.sleep(60)
    os._exit(InterruptedRun.exit_code)


def _ended(run: RunFolder, code: int, name: str) -> str | None:
    """What went wrong with a variant whose process ended; None where nothing did."""
    if not code and evaluation(run) is not None:
        return None
    said = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    text = (run.path / "output.txt").read_text(encoding="utf-8", errors="replace") if run.path.is_dir() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith("error:")]
    lines = lines[starts[-1] :][:_TOLD] if starts else lines[-_TOLD:]
    return "\n".join([*lines, f"({said}; more in variants/{name}/output.txt)"])


def _rest(run: RunFolder) -> bool:
    """Whether some seeds are trained that no evaluation knows of."""
    with contextlib.suppress(OSError, ValueError, MmrobustError):
        return bool(set(finished_seeds(run)) - set((evaluation(run) or {"seeds": []})["seeds"]))
    return False


def _complete(run: RunFolder) -> bool:
    """Whether a variant is evaluated with all its seeds."""
    told = evaluation(run)
    return told is not None and set(told["seeds"]) >= set(run.load_recipe().train.seeds)


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
