"""Child processes: how all of mmrobust starts them, listens to them, and stops them.

Seeds of a training, variants of a study and the processes of a benchmark are children of `Supervisor`, each of which
runs one function with a `Link` to its parent:

    def work(link: Link, factor: int) -> None:          # in mmrobust.somewhere
        for number in link:                             # until the parent calls `finish`
            link.send(number * factor)

    with Supervisor() as supervisor:
        child = supervisor.start("mmrobust.somewhere:work", 3, name="the process that multiplies")
        child.send(14)
        child.finish()
        while supervisor.children:
            if message := supervisor.receive(timeout=0.1):
                child, value = message                  # (child, 42), then (child, Ended(...))

`Process` is the lower half of it: an isolated Python process with a deadline and no protocol, for what reads files of
strangers.

Isolation: a child is `python -I`. It knows the folders that this process imports from, but not the current folder and
not the user's site-packages, unless mmrobust itself lies there or `PYTHONPATH` names them.

Messages: values of JSON, one a line; to the child on its standard input, from it on a copy of its standard output. What
else it prints goes to its `output`.

Stopping: the parent alone acts on ctrl-C and TERM. Children are in sessions of their own and ignore TERM, which
schedulers send to all. `Child.stop` ends a child at once that is still importing. One that is at work gets a ctrl-C
(SIGINT), so that it stops where `interruptible` lets it, and is gone after a minute in any case. The same happens where
the parent is killed: the end of the standard input is the word to stop.

Errors: a `MmrobustError` of the child arrives with its class, its text, and its traceback as its cause. A child that
ends in any other way arrives as a `ChildError` with the last lines of its output.

This file belongs to the light half: it imports the standard library and `mmrobust.errors`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mmrobust import errors
from mmrobust.errors import InterruptedRun, MmrobustError

__all__ = [
    "Child",
    "ChildError",
    "Ended",
    "Interrupt",
    "Link",
    "Process",
    "Supervisor",
    "interruptible",
    "pack_error",
    "unpack_error",
]

_LAST_LINES = 12  # of the output of a child that died
_GRACE = 60.0  # seconds in which a child that was asked to stop has to do so
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_BOOTSTRAP = (
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); sys.path[:] = {path!r}; "
    "from mmrobust.supervisor import _run_child; sys.exit(_run_child())"
)


class ChildError(MmrobustError):
    """A child process ended in another way than by returning or by raising a `MmrobustError`."""


class ChildTraceback(Exception):
    """The traceback of an error in a child process, as text; it is the cause of the same error in the parent."""

    def __str__(self) -> str:
        return f"\n\nin a child process:\n{self.args[0].rstrip()}"


# Stopping --------------------------------------------------------------------------------------------------------


class Interrupt:
    """Whether the user has asked to stop; work looks at it between its steps, so that no write is cut short."""

    requested = False


@contextmanager
def interruptible(say: Callable[[str], None]) -> Iterator[Interrupt]:
    """Makes the first ctrl-C a request to stop, and the second one a `KeyboardInterrupt`.

    The handlers are set even where ctrl-C was ignored before, as in a script's background: TERM has to work there.

    Args:
        say: Gets a line for the user at the first ctrl-C.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield interrupt
        return
    before = signal.getsignal(signal.SIGINT)

    def request(*_: object) -> None:
        interrupt.requested = True
        signal.signal(signal.SIGINT, before if callable(before) else signal.default_int_handler)
        say("stopping after this step; press ctrl-C again to stop at once")

    signal.signal(signal.SIGINT, request)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


# Errors that cross from one process to another ---------------------------------------------------------------------


def pack_error(error: MmrobustError) -> dict[str, Any]:
    """An error as a value of JSON: the names of its classes, its text and its traceback."""
    return {
        "types": [cls.__name__ for cls in type(error).__mro__],
        "text": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }


def unpack_error(packed: Mapping[str, Any]) -> MmrobustError:
    """The error again: of the nearest class that `mmrobust.errors` has, with its traceback as its cause."""
    known = (getattr(errors, name, None) for name in packed["types"])
    cls = next((cls for cls in known if isinstance(cls, type) and issubclass(cls, MmrobustError)), MmrobustError)
    error = cls.__new__(cls)  # its constructor may take something else than a text
    Exception.__init__(error, packed["text"])
    error.__cause__ = ChildTraceback(packed["traceback"])
    return error


# The parent's side -------------------------------------------------------------------------------------------------


def import_path() -> list[str]:
    """The folders from which a child imports: this process's own, less those into which strangers may put files.

    The current folder, the folder of the script that was started and the user's site-packages are left out, unless
    Python or mmrobust is installed there or `PYTHONPATH` names them.
    """
    named = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    installed = [str(Path(__file__).parents[1]), *sysconfig.get_paths().values()]
    script = getattr(sys.modules.get("__main__"), "__file__", None) or os.path.join(os.curdir, "script")
    left_out = {os.path.realpath(p) for p in (os.curdir, os.path.dirname(script), site.getusersitepackages())}
    left_out -= {os.path.realpath(p) for p in (*named, *installed)}
    return [os.path.abspath(p) for p in sys.path if p and os.path.realpath(p) not in left_out]


class Process:
    """An isolated Python process with a deadline; it is killed at the end of the `with` block.

    Args:
        arguments: What follows `python -I`: `["-S", "script.py", ...]`, `["-c", code, ...]`.
        stdin: A file or `subprocess.PIPE`, as for `subprocess.Popen`.
        stderr: Where its errors go.
        env: Changes of the environment.
        deadline: Seconds after which it is killed; None for never.
        hold: File descriptors that it inherits, such as a lock.

    Attributes:
        stdout: What it writes, as bytes.
        late: Whether it was killed at its deadline.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdin: IO[Any] | int = subprocess.DEVNULL,
        stderr: IO[Any] | int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        deadline: float | None = None,
        hold: Sequence[int] = (),
    ) -> None:
        self.late = False
        self.process = subprocess.Popen(
            [sys.executable, "-I", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            pass_fds=tuple(hold),
        )
        assert self.process.stdout is not None
        self.stdout: IO[bytes] = self.process.stdout
        self._timer = None if deadline is None else threading.Timer(deadline, self._kill_late)
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _kill_late(self) -> None:
        self.late = True
        self.process.kill()

    def kill(self) -> None:
        """Ends it at once, and waits until it has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@dataclass(frozen=True)
class Ended:
    """The last that is received of a child.

    Attributes:
        code: Its exit code; minus the signal's number where a signal ended it.
        error: What it raised, or that it died; None where it returned, or stopped when it was asked to.
    """

    code: int
    error: MmrobustError | None = None


class Child:
    """A child of a `Supervisor`; see the top of this file.

    Attributes:
        name: What messages call it.
        ready: Whether it has imported all that it needs and is at work.
        output: The lines that it has printed, once it has ended; empty ones are left out.
    """

    def __init__(self, process: Process, output: IO[bytes], name: str) -> None:
        self.name = name
        self.ready = self.stopping = False
        self.error: MmrobustError | None = None
        self.output: list[str] = []
        self._process, self._file = process, output

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.process.pid

    def send(self, value: Any) -> None:
        """Sends a value of JSON, which the child gets from its `Link`; one that has died gets nothing."""
        self._write({"value": value})

    def finish(self) -> None:
        """Says that nothing more will be sent: the child's loop over its `Link` ends."""
        self._write({"finish": True})

    def stop(self) -> None:
        """Asks the child to stop soon; one that is still importing ends at once."""
        if self.stopping:
            return
        self.stopping = True
        if not self.ready:
            self._process.process.kill()
        stdin = self._process.process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):
            stdin.close()

    def _write(self, message: dict[str, Any]) -> None:
        stdin = self._process.process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has died, or was stopped: its end says so
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()

    def _kill(self) -> None:
        self._process.kill()
        self._file.close()

    def _ended(self) -> Ended:
        code = self._process.process.wait()
        self._file.seek(0)
        text = self._file.read().decode("utf-8", "replace")
        self.output = [line for line in text.splitlines() if line.strip()]
        self._kill()  # it has ended: this closes its pipes
        if self.error is None and code not in (0, InterruptedRun.exit_code) and not self.stopping:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            last = "".join(f"\n    {line}" for line in self.output[-_LAST_LINES:])
            self.error = ChildError(f"{self.name} {how}{last}")
        return Ended(code, self.error)


class Supervisor:
    """Children that run at the same time; those that are left at the end of the `with` block are killed.

    Attributes:
        children: Those that have not ended yet.
    """

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._inbox: queue.Queue[tuple[Child, dict[str, Any] | None]] = queue.Queue()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child._kill()
        self.children.clear()

    def start(
        self,
        function: str,
        *arguments: Any,
        name: str,
        threads: int | None = None,
        env: Mapping[str, str] | None = None,
        hold: Sequence[int | None] = (),
        output: str | os.PathLike[str] | None = None,
    ) -> Child:
        """Starts a child.

        Args:
            function: `module:function`; called with a `Link` and the arguments.
            *arguments: Values of JSON.
            name: What messages call it: `the process that trained seed 3`.
            threads: How many it calculates with; None for as many as its libraries think right.
            env: Changes of its environment.
            hold: File descriptors that it inherits, such as a lock; None stands for none.
            output: A file to which all is added that it prints; None for one that is gone with it.
        """
        file: IO[bytes] = tempfile.TemporaryFile() if output is None else open(output, "a+b")  # noqa: SIM115
        count = {} if threads is None else dict.fromkeys(_THREADS, str(threads))
        process = Process(
            ["-c", _BOOTSTRAP.format(path=import_path()), function, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stderr=file,
            env={**count, **(env or {})},
            hold=[handle for handle in hold if handle is not None],
        )
        child = Child(process, file, name)
        self.children.append(child)
        threading.Thread(target=self._listen, args=(child,), daemon=True).start()
        return child

    def receive(self, timeout: float) -> tuple[Child, Any] | None:
        """The next that a child has sent, or its end as `Ended`; None where there is nothing in `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                child, message = self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if child not in self.children:  # killed in the meantime
                continue
            if message is None:
                ended = child._ended()
                self.children.remove(child)
                return child, ended
            if "error" in message:
                child.error = unpack_error(message["error"])
            else:
                return child, message["value"]

    def stop(self) -> None:
        """Asks every child to stop; they end when they have, see `receive`."""
        for child in self.children:
            child.stop()

    def _listen(self, child: Child) -> None:
        with contextlib.suppress(OSError, ValueError):  # it was killed
            for line in child._process.stdout:
                with contextlib.suppress(ValueError):  # the last line of one that died in the middle of it
                    message = json.loads(line)
                    child.ready = child.ready or "ready" in message
                    if "ready" not in message:
                        self._inbox.put((child, message))
        self._inbox.put((child, None))


# The child's side --------------------------------------------------------------------------------------------------


class Link:
    """What connects a child with its parent: iterating over it gives what the parent sends."""

    def __init__(self, channel: IO[str]) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._inbox: queue.Queue[dict[str, Any]] = queue.Queue()
        self._working = False
        threading.Thread(target=self._listen, daemon=True).start()

    def __iter__(self) -> Iterator[Any]:
        while "value" in (message := self._inbox.get()):
            yield message["value"]

    def send(self, value: Any) -> None:
        """Sends a value of JSON to the parent."""
        self._post({"value": value})

    def _post(self, message: dict[str, Any]) -> None:
        with self._lock, contextlib.suppress(OSError):  # the parent is gone: the end of the input will say so
            print(json.dumps(message), file=self._channel, flush=True)

    def _listen(self) -> None:
        """Takes what the parent sends; the end of it is the word to stop, and comes from a parent that died as well."""
        with contextlib.suppress(OSError, ValueError):
            for line in sys.stdin:
                self._inbox.put(json.loads(line))
        self._inbox.put({"finish": True})
        if not self._working:  # nothing is begun that could be saved
            os._exit(InterruptedRun.exit_code)
        if hasattr(signal, "pthread_kill"):  # wakes the main thread from whatever it waits for
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            signal.raise_signal(signal.SIGINT)
        time.sleep(_GRACE)
        os._exit(InterruptedRun.exit_code)


def _run_child() -> int:
    """What a child process does; returns its exit code."""
    target, arguments = sys.argv[1], json.loads(sys.argv[2])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may have been started where ctrl-C is ignored
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what others print must not be taken for a message
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    link = Link(channel)
    module, _, function = target.partition(":")
    work = getattr(importlib.import_module(module), function)
    link._working = True
    link._post({"ready": True})
    try:
        work(link, *arguments)
    except KeyboardInterrupt:  # `InterruptedRun` is one
        return InterruptedRun.exit_code
    except MmrobustError as error:
        link._post({"error": pack_error(error)})
        return error.exit_code
    return 0
