"""Progress with the time left: a live line on a terminal, plain lines elsewhere, silence on request."""

import io

import pytest

from mmrobust.training.progress import Meter, duration


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1:00"), (187, "3:07"), (3753, "1:02:33")],
)
def test_durations_read_as_people_write_them(seconds, text):
    assert duration(seconds) == text


def test_plain_lines_where_it_is_no_terminal():
    stream = io.StringIO()
    with Meter("normtr", 10, stream=stream) as meter:
        for i in range(10):
            meter.update(i + 1, "loss 1")
        meter.say("epoch 1/1")
        meter.say("also on the live line", plain_only=True)
    assert stream.getvalue() == "epoch 1/1\nalso on the live line\n"


def test_a_live_line_on_a_terminal_that_leaves_nothing_behind():
    stream = Terminal()
    with Meter("normtr", 10, stream=stream) as meter:
        meter.update(10, "loss 1", "epoch 1/1")
        meter.say("done")
        meter.say("also on the live line", plain_only=True)
    drawn, _, rest = stream.getvalue().partition("done\n")
    assert "epoch 1/1 \x1b[36m" in drawn and "100%" in drawn and "0.0 s left  loss 1" in drawn
    assert drawn.endswith("\r\x1b[K") and rest == "\r\x1b[K"


def test_no_color_is_honoured_and_a_narrow_terminal_gets_one_line(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "50")
    stream = Terminal()
    Meter("a long name of a recipe", 10, stream=stream).update(10, "loss 1.2345, and more to say")
    assert "\x1b[3" not in stream.getvalue()
    assert len(stream.getvalue().removeprefix("\r\x1b[K")) <= 50


def test_a_dumb_terminal_gets_plain_lines_and_quiet_gets_nothing(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    Meter("x", 1, stream=stream).update(1)
    assert stream.getvalue() == ""
    quiet = Meter("x", 1, stream=stream, quiet=True)
    quiet.update(1)
    quiet.say("text")
    assert stream.getvalue() == ""


def test_the_clock_can_start_later_and_lines_can_hold_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    meter = Meter("x", 100, stream=stream)
    now[0] = 60.0
    meter.start()
    now[0] = 70.0
    meter.update(20)
    meter.say("epoch 1/5", plain_only=True, timed=True)
    meter.update(100)
    meter.say("epoch 5/5", plain_only=True, timed=True)
    assert stream.getvalue() == "epoch 1/5  40 s left\nepoch 5/5\n"


def test_work_done_before_does_not_count_for_the_speed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    meter = Meter("x", 100, stream=io.StringIO())
    assert meter.left == "?"
    meter.skip(50)
    now[0] = 10.0
    meter.update(60)
    assert meter.left == "40 s"
