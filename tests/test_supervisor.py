"""Promise: children of all kinds are started isolated, are heard, stop when they are asked to, and never outlive us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mmrobust import errors
from mmrobust.errors import DivergedError, OptionError
from mmrobust.supervisor import (
    ChildError,
    Ended,
    Process,
    Supervisor,
    import_path,
    interruptible,
    pack_error,
    unpack_error,
)

WORK = """
import os, signal, sys, time
from mmrobust.errors import DivergedError
from mmrobust.supervisor import interruptible

def multiply(link, factor):
    print("this is no message")
    for number in link:
        link.send(number * factor)

def diverge(link):
    raise DivergedError("the loss is gone")

def break_down(link):
    raise ZeroDivisionError("a part is broken")

def die(link):
    os.kill(os.getpid(), signal.SIGKILL)

def wait(link):
    link.send(os.getpid())
    time.sleep(600)

def stop_after_its_step(link):
    with interruptible(lambda text: None) as interrupt:
        link.send("at work")
        while not interrupt.requested:
            time.sleep(0.01)
    link.send("stopped after its step")

def look(link):
    link.send([sys.path, sys.flags.isolated, os.environ["OMP_NUM_THREADS"], os.environ.get("MINE")])
"""


@pytest.fixture
def work(tmp_path, monkeypatch) -> str:
    """A module that children can import."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "children_work.py").write_text(WORK)
    (folder / "children_slow.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.syspath_prepend(str(folder))
    return "children_work"


def everything(supervisor: Supervisor, seconds: float = 60) -> list[Any]:
    """What the children send until all have ended."""
    received, deadline = [], time.monotonic() + seconds
    while supervisor.children:
        assert time.monotonic() < deadline, received
        if message := supervisor.receive(0.1):
            received.append(message[1])
    return received


def test_values_go_both_ways_and_what_is_printed_is_no_message(work):
    with Supervisor() as supervisor:
        children = [supervisor.start(f"{work}:multiply", factor, name=str(factor)) for factor in (2, 3)]
        for child in children:
            child.send(7)
            child.send(8)
            child.finish()
        assert sorted(map(str, everything(supervisor))) == sorted(map(str, [14, 16, 21, 24, Ended(0), Ended(0)]))
        assert [child.output for child in children] == [["this is no message"]] * 2


def test_an_error_arrives_with_its_class_its_text_and_where_it_arose(work):
    with Supervisor() as supervisor:
        supervisor.start(f"{work}:diverge", name="it")
        (ended,) = everything(supervisor)
    assert ended.code == 4 and type(ended.error) is DivergedError and str(ended.error) == "the loss is gone"
    assert "in diverge" in str(ended.error.__cause__) and "children_work.py" in str(ended.error.__cause__)


class Mine(DivergedError):
    """An error of a plugin."""


@pytest.mark.parametrize(
    ("error", "arrives"),
    [
        (OptionError("depth", "has to be 1"), OptionError),
        (errors.RecipeError("wrong"), errors.RecipeError),
        (Mine("gone"), DivergedError),
        (ChildError("died"), errors.MmrobustError),
    ],
)
def test_every_class_of_error_crosses(error, arrives):
    again = unpack_error(pack_error(error))
    assert type(again) is arrives and str(again) == str(error) and again.exit_code == arrives.exit_code


@pytest.mark.parametrize(
    ("function", "code", "says"),
    [
        ("break_down", 1, r"it ended with exit code 1\n(    .*\n)*    ZeroDivisionError: a part is broken$"),
        ("die", -9, r"it was ended by signal 9$"),
        ("none_such", 1, r"it ended with exit code 1\n(    .*\n)*    AttributeError: .*none_such"),
    ],
)
def test_a_child_that_dies_is_an_error_with_its_last_lines(work, function, code, says):
    with Supervisor() as supervisor:
        supervisor.start(f"{work}:{function}", name="it")
        (ended,) = everything(supervisor)
    assert ended.code == code
    with pytest.raises(ChildError, match=says):
        raise ended.error


def test_a_child_at_work_stops_after_its_step_or_in_its_waiting(work):
    with Supervisor() as supervisor:
        child = supervisor.start(f"{work}:stop_after_its_step", name="it")
        assert supervisor.receive(60) == (child, "at work")
        supervisor.start(f"{work}:wait", name="another")
        supervisor.receive(60)
        supervisor.stop()
        begun = time.monotonic()
        assert set(map(str, everything(supervisor))) == {"stopped after its step", str(Ended(0)), str(Ended(130))}
        assert time.monotonic() - begun < 20


def test_a_child_that_still_imports_ends_at_once(work):
    with Supervisor() as supervisor:
        supervisor.start("children_slow:anything", name="it")
        time.sleep(0.5)
        begun = time.monotonic()
        supervisor.stop()
        (ended,) = everything(supervisor)
        assert ended.error is None and time.monotonic() - begun < 5


PARENT = """
import sys
from mmrobust.supervisor import Supervisor
with Supervisor() as supervisor:
    child = supervisor.start(sys.argv[1], name="it")
    if sys.argv[1].endswith("wait"):
        supervisor.receive(60)
    print(child.pid, flush=True)
    supervisor.receive(600)
"""


@pytest.mark.parametrize("function", ["children_work:wait", "children_slow:anything"])
def test_no_child_outlives_a_parent_that_is_killed(work, tmp_path, function):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "modules"), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, function], stdout=subprocess.PIPE, text=True, env=env
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.5)  # it is at work, or imports
        parent.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_child_leaves_term_to_its_parent(work):
    with Supervisor() as supervisor:
        child = supervisor.start(f"{work}:multiply", 5, name="it")
        child.send(1)
        assert supervisor.receive(60) == (child, 5)
        os.kill(child.pid, signal.SIGTERM)
        child.send(2)
        assert supervisor.receive(60) == (child, 10)
        child.finish()
        assert everything(supervisor) == [Ended(0)]


def test_what_is_left_is_killed_at_the_end_of_the_block(work):
    with Supervisor() as supervisor:
        child = supervisor.start(f"{work}:wait", name="it")
        supervisor.receive(60)
    assert child._process.process.returncode == -signal.SIGKILL and not supervisor.children


def test_children_are_isolated_from_the_current_folder(work, tmp_path, monkeypatch):
    here = tmp_path / "downloaded"
    here.mkdir()
    (here / "tempfile.py").write_text("print('a stranger has run'); raise SystemExit(77)")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", ["", str(here), *sys.path])
    with Supervisor() as supervisor:
        child = supervisor.start(f"{work}:look", name="it", threads=3, env={"MINE": "yes"})
        (path, isolated, threads, mine), ended = everything(supervisor)
    assert ended == Ended(0) and child.output == [] and isolated
    assert (threads, mine) == ("3", "yes")
    assert "" not in path and str(here) not in path and str(tmp_path / "modules") in path


def test_a_folder_that_pythonpath_names_is_trusted_wherever_it_is(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert str(tmp_path) not in import_path()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert import_path()[0] == str(tmp_path)
    with Supervisor() as supervisor:
        supervisor.start(f"{work}:look", name="it", threads=1)
        assert str(tmp_path) in everything(supervisor)[0][0]


def test_a_process_is_killed_at_its_deadline():
    with Process(["-c", "import time; print('begun', flush=True); time.sleep(600)"], deadline=1.0) as process:
        assert process.stdout.read() == b"begun\n"
        process.process.wait()
        assert process.late
    with Process(["-c", "print(1)"], deadline=60) as process:
        assert process.stdout.read() == b"1\n" and not process.late


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_the_first_ctrl_c_is_a_request_and_the_second_stops(before):
    kept = signal.signal(signal.SIGINT, before)
    said: list[str] = []
    try:
        with interruptible(said.append) as interrupt:
            assert not interrupt.requested
            signal.raise_signal(signal.SIGINT)
            assert interrupt.requested and said == ["stopping after this step; press ctrl-C again to stop at once"]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, kept)
