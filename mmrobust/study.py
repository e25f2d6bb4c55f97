"""Studies: the variants of a recipe, each run whole, some at a time, and what sets them apart.

    runs/<recipe's name>/<time>-<id>/
      recipe.yaml       the study as it was written
      study.json        what is compared, how far it has come, and every number of the tables
      report.html       the tables and figures of all variants
      tables/*.csv      the tables; figures/*.svg
      variants/<variant>/     a complete run (see `mmrobust.training.folder`) and output.txt, what its process said

`study.json` holds:

    format        1
    mmrobust      version that made it
    name, summary
    command       what was typed
    reference     the variant that the others are compared with: the first
    seeds         that all variants should have, where they agree, or null
    variants      {name: {
        changes     what the recipe says of it
        state       waiting | running | finished | failed | interrupted
        error       last lines of what went wrong, or null
        missing     seeds that were not trained to their end
        parameters  numbers that the model holds (weights and buffers), or null
    }}
    tables        [{                                        empty before the end
        where       "clean", or the name of a noise, of which the AUILC is given
        compared    how many differences were tested together (Holm, 1979)
        notes       why some could not be compared
        rows        {variant: {measure: {mean, std, n, limit, difference, low, high, p, p_holm, significant}}}
    }]

`difference` is variant - reference over the seeds that all have, `low` and `high` the ends of its 95 % interval, `p`
that of `mmrobust.robustness.significance`, `p_holm` the same after Holm's correction over the table, `significant` true
where that is under 0.05. Undefined values are null.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import shlex
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from html import escape
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import safetensors

import mmrobust
from mmrobust import files, pipeline
from mmrobust import recipe as recipes
from mmrobust.errors import CellsFailedError, InterruptedRun, MmrobustError, RecipeError, UsageError, nearest
from mmrobust.measures import describe
from mmrobust.report import report
from mmrobust.report.study import report_study, table_name
from mmrobust.robustness.significance import Difference, Resampled, holm, paired, resample
from mmrobust.robustness.sweep import CLEAN
from mmrobust.training import Checkpoints, Meter, RunFolder
from mmrobust.training.folder import to_json

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None

if TYPE_CHECKING:
    from mmrobust.recipe import Recipe

__all__ = ["Study", "run_study", "study"]

FORMAT = 1
_EPOCH = 100  # units of progress
_CELL = 0.06  # what one pass over the test split takes, as a share of an epoch; for the time left only
_LOCK_WAIT = 30.0  # seconds that the children of a killed study may take to end
_TOLD = 4  # lines of an error


@dataclass
class Study:
    """A study, or as much of it as is done.

    Attributes:
        path: Its folder.
        told: What stands in `study.json`.
    """

    path: Path
    told: dict[str, Any]

    file = property(lambda self: self.path / "study.json")
    report = property(lambda self: self.path / "report.html")

    def run(self, variant: str) -> RunFolder:
        """The run of one variant."""
        return RunFolder(self.path / "variants" / variant)

    @property
    def failed(self) -> dict[str, str]:
        """What each failed cell said, by its name."""
        cells = {}
        for name, found in self.told["variants"].items():
            if found["state"] == "failed":
                cells[name] = found["error"] or "it left no word"
            elif found["missing"]:
                cells[f"{name}, seed {', '.join(map(str, found['missing']))}"] = found["error"] or "not trained"
        return cells

    def check(self) -> Study:
        """The study, if every cell is there.

        Raises:
            CellsFailedError: Some are not.
        """
        if not self.failed:
            return self
        lines = [f"{len(self.failed)} of {len(self.told['variants'])} variants failed"]
        if len(self.failed) < len(self.told["variants"]):
            lines[0] += f"; the others are in {self.report}"
        for name, error in self.failed.items():
            lines += [f"  {name}:", *(f"    {line}" for line in error.splitlines())]
        lines.append(f"  when the cause is gone, go on with: {self.go_on}")
        raise CellsFailedError("\n".join(lines))

    @property
    def go_on(self) -> str:
        """The command that takes it up again."""
        return f"mmrobust study --resume {shlex.quote(str(self.path))}"

    def save(self) -> None:
        """Writes `study.json`."""
        files.write_atomic(self.file, to_json(self.told, indent=1) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"study": str(self.path), "report": str(self.report), **self.told}

    def __str__(self) -> str:
        lines = [f"study: {self.path}"]
        for table in self.told["tables"]:
            names = list(next(iter(table["rows"].values()), {}))[:4]
            rows = [["clean" if table["where"] == CLEAN else f"AUILC {table['where']}"]]
            rows[0] += [describe(name).title for name in names]
            for variant, scores in table["rows"].items():
                rows.append([variant, *(_cell(name, scores.get(name)) for name in names)])
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]
        if self.told["tables"]:
            lines += ["", f"* differs from {self.told['reference']}, Holm's correction over the table, p < 0.05"]
        return "\n".join([*lines, f"report: {self.report}"])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def _cell(name: str, score: dict[str, Any] | None) -> str:
    if score is None:
        return "-"
    show = describe(name).show
    spread = "" if score["std"] is None else f" ± {show(score['std'])}"
    return f"{show(score['mean'])}{spread}{' *' if score['significant'] else ''}"


def study(
    recipe: Recipe | str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    runs: str | os.PathLike[str] = "runs",
    seeds: int | Sequence[int] | None = None,
    resume: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    quiet: bool = False,
) -> Study:
    """Trains, evaluates and reports every variant of a recipe, some at a time, and compares them in one report.

    Each variant runs in a process of its own, which knows installed plugins and those that the recipe names, but
    nothing that was registered in this session only.

    Args:
        recipe: A loaded recipe with `variants`, a path, or the bare name of a shipped one; None with `resume`.
        overrides: Changes of it before its variants' own, `a.b.c=value` or `~a.b.c`.
        runs: The folder of all runs.
        seeds: Instead of the recipe's: a number n for 1 to n, or the seeds themselves.
        resume: A study to go on with: its folder, or its name for the latest. Finished variants are left as they are.
        jobs: How many variants run at a time; one for each core where None. Threads are divided among them.
        quiet: Show no progress.

    Raises:
        RecipeError: The recipe is wrong, or has no variants.
        UsageError: There is no such study to go on with.
        CellsFailedError: Some variants failed; the others are finished and reported.
        InterruptedRun: Ctrl-C; the message says how to go on.
        WriteError: The disk is full, or the like.
    """
    return run_study(recipe, overrides, runs=runs, seeds=seeds, resume=resume, jobs=jobs, quiet=quiet).check()


def run_study(
    recipe: Recipe | str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    runs: str | os.PathLike[str] = "runs",
    seeds: int | Sequence[int] | None = None,
    resume: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    quiet: bool = False,
) -> Study:
    """As `study`, but failed variants are told in the result instead of raised.

    Args:
        recipe: See `study`.
        overrides: See `study`.
        runs: See `study`.
        seeds: See `study`.
        resume: See `study`.
        jobs: See `study`.
        quiet: See `study`.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs {jobs}: at least one variant has to run at a time")
    cores = _cores()
    if resume is not None:
        if recipe is not None or overrides or seeds is not None:
            raise UsageError("a resumed study has its recipe and seeds already: give --resume STUDY alone")
        made = _open(resume, runs)
        jobs = min(jobs or cores, len(made.told["variants"]))
    elif recipe is None:
        raise UsageError("name a recipe with variants, or a study to go on with: --resume STUDY")
    else:
        loaded = _load(recipe, overrides, seeds)
        jobs = min(jobs or cores, len(loaded.variants))
        made = _create(loaded, runs, _threads(cores, jobs))
    with _locked(made.path, quiet) as lock:
        _run(made, jobs, _threads(cores, jobs), lock, quiet)
        try:
            _conclude(made, quiet)
        except KeyboardInterrupt as error:
            raise InterruptedRun(
                f"interrupted in the comparison; every variant is finished; go on with: {made.go_on}"
            ) from error
    return made


def _load(recipe: Recipe | str | Path, overrides: Sequence[str], seeds: int | Sequence[int] | None) -> Recipe:
    if isinstance(recipe, (str, Path)):
        more = [] if seeds is None else [f"train.seeds={seeds if isinstance(seeds, int) else list(seeds)}"]
        recipe = recipes.load(recipe, [*overrides, *more])
    elif overrides or seeds is not None:
        raise UsageError("overrides are for a recipe given by its path or name; load a loaded one anew with them")
    if not recipe.variants:
        raise RecipeError(
            f"recipe '{recipe.name}' has no variants, and a study compares variants; add a section 'variants', or "
            f"run it alone: mmrobust run"
        )
    folded: dict[str, str] = {}
    for name in recipe.variants:  # each is a folder, and some file systems know no case
        if folded.setdefault(name.lower(), name) != name:
            raise RecipeError(f"variants '{folded[name.lower()]}' and '{name}' differ in case only; rename one")
    return recipe


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _threads(cores: int, jobs: int) -> int:
    """Threads of each process; what the user asked for goes first."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else max(1, cores // jobs)


# The folder ------------------------------------------------------------------------------------------------------


def _create(recipe: Recipe, runs: str | os.PathLike[str], threads: int) -> Study:
    """Makes the folder of a study with that of every variant; it appears whole or not at all."""
    started = f"{datetime.now():%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
    path = Path(runs) / recipe.name / started
    variants = {name: recipe.variant(name) for name in recipe.variants}
    seeds = {tuple(variant.train.seeds) for variant in variants.values()}
    told: dict[str, Any] = {
        "format": FORMAT,
        "mmrobust": mmrobust.__version__,
        "name": recipe.name,
        "summary": recipe.summary,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "reference": recipe.variants[0],
        "seeds": list(seeds.pop()) if len(seeds) == 1 else None,
        "variants": {
            name: {"changes": recipe.changes(name), "state": "waiting", "error": None, "missing": [], "parameters": None}
            for name in variants
        },
        "tables": [],
    }
    with files.staged(path) as part:
        (part / "recipe.yaml").write_text(recipe.source, encoding="utf-8")
        (part / "variants").mkdir()
        for name, variant in variants.items():
            own = f"{recipe.name}.{name}"
            summary = f"Variant {name} of the study {recipe.name}"
            resolved = {**variant.resolved, "name": own, "summary": summary}
            whole = replace(variant, name=own, summary=summary, resolved=resolved)
            run = RunFolder.create(whole, out=part / "variants" / name)
            env = {**run.read_env(), "threads": threads}  # its process's, not this one's
            run.env.write_text(to_json(env, indent=2) + "\n", encoding="utf-8")
        (part / "study.json").write_text(to_json(told, indent=1) + "\n", encoding="utf-8")
    return Study(path, told)


def _open(ref: str | os.PathLike[str], runs: str | os.PathLike[str]) -> Study:
    """A study by its folder, or the latest of a folder or name."""
    for folder in (Path(ref), Path(runs) / Path(ref)):
        found = [folder] if (folder / "study.json").is_file() else [p.parent for p in folder.glob("*/study.json")]
        found = [p for p in found if not p.name.startswith(".")]
        if found:
            path = max(found, key=lambda p: p.name)
            break
    else:
        there = Path(runs)
        names = {p.parents[1].name for p in there.glob("*/*/study.json")} if there.is_dir() else set()
        raise UsageError(f"there is no study '{os.fspath(ref)}'{nearest(str(ref), names) or f' in {there}'}")
    try:
        told = json.loads((path / "study.json").read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise MmrobustError(f"{path / 'study.json'} has format {told['format']}; this version reads {FORMAT}")
        if told["reference"] not in told["variants"] or not all(
            recipes.NAME.fullmatch(name) and {"state", "error", "missing", "parameters"} <= found.keys()
            for name, found in told["variants"].items()
        ):
            raise ValueError
        return Study(path, told)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MmrobustError(f"{path / 'study.json'} is damaged; start the study anew") from error


@contextlib.contextmanager
def _locked(path: Path, quiet: bool) -> Iterator[int | None]:
    """One process at a time in a study. Children hold the lock with it, so that none outlives it unnoticed."""
    if fcntl is None:
        yield None
        return
    with files.explained(path / ".lock"):
        handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        begin = time.monotonic()
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - begin > _LOCK_WAIT:
                    raise MmrobustError(
                        f"another process is running the study in {path}; wait for it, or stop it"
                    ) from None
                if not quiet and begin:
                    print("waiting for another process to leave the study", file=sys.stderr, flush=True)
                    quiet = True
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield handle
    finally:
        os.close(handle)


# Running ---------------------------------------------------------------------------------------------------------


@dataclass
class _Child:
    """A variant's process; it stops when its standard input ends, even where this process is killed."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()


def _run(made: Study, jobs: int, threads: int, lock: int | None, quiet: bool) -> None:
    """Runs what is not finished yet."""
    variants = made.told["variants"]
    waiting: deque[str] = deque()
    for name, found in variants.items():
        if _evaluation(made.run(name)) is not None:
            found.update(state="finished")
        else:
            found.update(state="waiting", error=None, missing=[])
            waiting.append(name)
    made.told["tables"] = []
    made.save()
    progress = {name: _Progress(made.run(name)) for name in variants}
    running: dict[str, _Child] = {}
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
                    running[name] = _start(made.run(name), threads, lock)
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
                    _ended(made, name, child.process.returncode)
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


def _start(run: RunFolder, threads: int, lock: int | None) -> _Child:
    """Starts the process of a variant. It imports what this one would, and hears of ctrl-C from this one alone."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from mmrobust.study import _child; sys.exit(_child(sys.argv[1]))"
    count = str(threads)
    env = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count)}
    with files.explained(run.path):
        output = open(run.path / "output.txt", "wb")  # noqa: SIM115 (closed when the process ends)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)],
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


def _child(path: str) -> int:
    """One variant, in a process of its own; returns the exit code."""
    threading.Thread(target=_follow, daemon=True).start()
    try:
        pipeline.run(resume=path, quiet=True)
    except MmrobustError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return InterruptedRun.exit_code
    return 0


def _follow() -> None:
    """Stops this process when the study closes its standard input, or is gone."""
    import signal

    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 4096):
            pass
    signal.raise_signal(signal.SIGINT)
    time.sleep(60)
    os._exit(InterruptedRun.exit_code)


def _ended(made: Study, name: str, code: int) -> None:
    """Notes how a variant's process ended."""
    found, run = made.told["variants"][name], made.run(name)
    finished = _evaluation(run) is not None
    error = None
    if code or not finished:
        said = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        text = (run.path / "output.txt").read_text(encoding="utf-8", errors="replace") if run.path.is_dir() else ""
        lines = [line for line in text.splitlines() if line.strip()]
        starts = [i for i, line in enumerate(lines) if line.startswith("error:")]
        lines = lines[starts[-1] :][:_TOLD] if starts else lines[-_TOLD:]
        error = "\n".join([*lines, f"({said}; more in variants/{name}/output.txt)"])
    found.update(state="finished" if finished else "failed", error=error)


def _evaluation(run: RunFolder) -> dict[str, Any] | None:
    """What a finished variant's `evaluation.json` holds."""
    try:
        told = json.loads(run.evaluation.read_text(encoding="utf-8"))
        return told if isinstance(told, dict) and told.get("seeds") else None
    except (OSError, ValueError):
        return None


class _Progress:
    """How far a variant has come, in hundredths of an epoch, from what its process has written."""

    def __init__(self, run: RunFolder) -> None:
        recipe = recipes.load(run.resolved)
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


# Comparing -------------------------------------------------------------------------------------------------------


def _conclude(made: Study, quiet: bool) -> None:
    """The tables and the report, of what is finished."""
    variants = made.told["variants"]
    evaluations = {name: told for name in variants if (told := _evaluation(made.run(name))) is not None}
    for name, told in evaluations.items():
        run = made.run(name)
        wanted = recipes.load(run.resolved).train.seeds
        variants[name].update(
            state="finished",
            missing=[seed for seed in wanted if seed not in told["seeds"]],
            parameters=_parameters(run, told),
        )
        if not run.report.is_file():
            report(run)
    if evaluations:
        with Meter("compare", len(evaluations), quiet=quiet) as meter:
            made.told["tables"] = _tables(made, evaluations, meter)
    made.save()
    if evaluations:
        _write_tables(made)
        report_study(made.path)


def _parameters(run: RunFolder, told: dict[str, Any]) -> int | None:
    """Numbers in the first seed's best checkpoint, without reading them."""
    try:
        first = told["checkpoints"][0]
        path = Checkpoints(run.seed(first["seed"])).path(first["epoch"]) / "model.safetensors"
        with safetensors.safe_open(path, framework="pt") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    except (OSError, KeyError, IndexError, TypeError, safetensors.SafetensorError):
        return None


def _tables(made: Study, evaluations: dict[str, dict[str, Any]], meter: Meter) -> list[dict[str, Any]]:
    reference = made.told["reference"]
    measures = next(iter(evaluations.values()))["measures"]
    known: dict[str, Resampled] = {}
    if reference in evaluations and len(evaluations) > 1:
        for name, told in evaluations.items():
            meter.update(meter.done, label=f"compare {name}")
            if all(measure in told["measures"] for measure in measures):
                known[name] = resample(made.run(name), measures)
            meter.update(meter.done + 1)
    places = [CLEAN, *dict.fromkeys(noise for told in evaluations.values() for noise in told["noises"])]
    tables = []
    for where in places:
        rows: dict[str, dict[str, dict[str, Any]]] = {}
        for name, told in evaluations.items():
            found = told["clean"] if where == CLEAN else (told["noises"].get(where) or {}).get("auilc") or {}
            limit = told["limit"] if where == CLEAN else (told["noises"].get(where) or {}).get("limit")
            limit = (limit or {}) if where == CLEAN else (limit or {}).get("auilc", {})
            rows[name] = {
                m: {**{key: found[m][key] for key in ("mean", "std", "n")}, "limit": limit.get(m), **_untested()}
                for m in measures
                if m in found
            }
        notes = _test(where, reference, rows, known) if reference in known else []
        if reference not in evaluations:
            notes.append(f"The reference, {reference}, is not finished, so nothing is compared with it.")
        count = sum(score["p"] is not None for row in rows.values() for score in row.values())
        tables.append({"where": where, "compared": count, "notes": notes, "rows": rows})
    return tables


def _untested() -> dict[str, Any]:
    return {**dict.fromkeys(("difference", "low", "high", "p", "p_holm")), "significant": False}


def _test(
    where: str, reference: str, rows: dict[str, dict[str, dict[str, Any]]], known: dict[str, Resampled]
) -> list[str]:
    """Fills in the differences of one table; returns what could not be compared, and why."""
    first, notes = known[reference], []
    others = []
    for name in rows:
        if name == reference:
            continue
        if name not in known:
            notes.append(f"{name} is not compared: it has other measures than {reference}.")
        elif known[name].met != first.met:
            notes.append(f"{name} is not compared: it was tested on other samples than {reference}.")
        elif known[name].noises.get(where) != first.noises.get(where):
            notes.append(f"{name} is not compared: it met another noise, other rates or other draws than {reference}.")
        elif where in first.values and where in known[name].values:
            others.append(name)
    tested: list[tuple[dict[str, Any], Difference]] = []
    for measure in rows[reference]:
        found = paired(
            first.values[where][measure], [known[name].values[where][measure] for name in others], first.size
        ) if where in first.values else []  # fmt: skip
        tested += [(rows[name][measure], one) for name, one in zip(others, found, strict=True)]
    nan = float("nan")
    corrected = holm([nan if one.p is None else one.p for _, one in tested])
    for (score, one), p in zip(tested, corrected, strict=True):
        score.update(
            difference=one.value, low=one.low, high=one.high, p=one.p, p_holm=None if one.p is None else p,
            significant=one.p is not None and p < 0.05,
        )  # fmt: skip
    return notes


def _write_tables(made: Study) -> None:
    """The tables as CSV, one line for each variant and measure."""
    columns = ("mean", "std", "n", "limit", "difference", "low", "high", "p", "p_holm", "significant")
    folder = made.path / "tables"
    with files.explained(folder):
        folder.mkdir(exist_ok=True)
    for table in made.told["tables"]:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["variant", "parameters", "measure", *columns])
        for name, row in table["rows"].items():
            size = made.told["variants"][name]["parameters"]
            for measure, score in row.items():
                writer.writerow([name, size, measure, *(_plain(score[key]) for key in columns)])
        files.write_atomic(folder / f"{table_name(table['where'])}.csv", text.getvalue())


def _plain(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
