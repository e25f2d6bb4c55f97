"""Promise: a terminal shows what is useful, at any width, and nothing of a stranger's control characters."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmrobust.cli import main
from mmrobust.cli.text import Guard, table
from mmrobust.errors import InterruptedRun, printable

NASTY = "\x1b[31m\x07\x9b2J\u202e\u2066\u200f\x85"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_bare_it_prints_its_help_and_so_does_a_bare_family(capsys) -> None:
    for args in ((), ("recipes",), ("plugins",), ("plugins", "trust"), ("data",)):
        code, out, err = run(capsys, *args)
        assert (code, err) == (0, "")
        assert (
            out.startswith(f"Usage: mmrobust {' '.join(args)}".rstrip())
            and "error:" not in out
            and "..." not in out.replace("]...", "")
        )
        assert out == run(capsys, *args, "--help")[1]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_fit_and_nothing_is_cut(width: int, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    wide = run(capsys, "plugins", "show", "noise", "gaussian")[1]
    monkeypatch.setenv("COLUMNS", str(width))
    for line in (["plugins", "list"], ["recipes", "list"], ["plugins", "show", "noise", "gaussian"]):
        out = run(capsys, *line)[1]
        shown = out.partition("OPTION ")[2].partition("\nContract")[0] if line[1] == "show" else out
        assert shown and max(map(len, shown.splitlines())) <= width
        assert "..." not in shown.replace(", ...]", "")
    words = lambda text: sorted(re.findall(r"[a-z]{3,}", text.partition("OPTION ")[2].partition("\nContract")[0]))
    if width > 60:  # where a word is longer than its column it is broken
        assert words(out) == words(wide)


def test_a_table_narrows_its_widest_columns_first() -> None:
    text = table(["a", "b"], [["short", "one two three four five six seven"]], width=20)
    assert text.splitlines() == ["A      B", "short  one two three", "       four five six", "       seven"]


def test_types_read_as_people_write_them(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    out = run(capsys, "plugins", "show", "noise", "gaussian")[1]
    assert re.search(r"^snr +float, \[low, high\] or \{modality: float\} +0\.0 ", out, re.MULTILINE)
    assert re.search(r"^scope +every_modality or one_modality ", out, re.MULTILINE)
    assert re.search(r"^modalities +\[text, \.\.\.\] or null +null ", out, re.MULTILINE)
    facts = json.loads(run(capsys, "plugins", "show", "dataset", "arrays", "--json")[1])
    types = {option["name"]: option["type"] for option in facts["options"]}
    assert types["length"] == "int, {modality: int} or null" and types["path"] == "path"
    assert types["task"] == "auto, regression, classification or multilabel"


@pytest.mark.parametrize(
    ("line", "kind", "code"),
    [
        ("build normtr model.widht=3 --json", "RecipeError", 2),
        ("plugins list fuson --json", "UsageError", 2),
        ("plugins show fusion conct --json", "PluginError", 2),
        ("plugins list --json --nothing", "NoSuchOption", 2),
        ("train studies/depth --json", "UsageError", 2),
        ("evaluate nothing --json", "UsageError", 2),
        ("data info gone.npz --json", "DataError", 3),
    ],
)
def test_errors_of_json_are_json(line: str, kind: str, code: int, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    exit_code, out, err = run(capsys, *line.split())
    error = json.loads(out)["error"]
    assert (exit_code, error["type"], error["exit_code"]) == (code, kind, code)
    assert error["message"].splitlines()[0] in err
    if kind == "RecipeError":
        assert error["problems"][0]["message"] == "model has no key 'widht'; did you mean 'width'?"


def test_a_study_is_named_as_one(capsys) -> None:
    for verb in ("run", "train"):
        code, _, err = run(capsys, verb, "studies/ablation")
        assert code == 2
        assert re.fullmatch(
            r"error: 'ablation' is a study of \d+ variants, not one recipe; train and compare them with: "
            r"mmrobust study studies/ablation\n",
            err,
        )


def test_what_an_interrupted_verb_says_is_printed(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmrobust.recipe import compose

    def interrupted() -> None:
        raise InterruptedRun("interrupted; go on with: mmrobust run --resume x")

    monkeypatch.setattr(compose, "shipped", interrupted)
    assert run(capsys, "recipes", "list") == (130, "", "interrupted; go on with: mmrobust run --resume x\n")


@pytest.fixture
def nasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines that show a stranger's text."""
    monkeypatch.chdir(tmp_path)
    quoted = "".join(f"\\u{ord(c):04x}" for c in NASTY)
    head = 'recipe: 1\nextends: normtr\nsummary: "%s"\n' % (quoted + " \u202e\u2067")
    Path("summary.yaml").write_text(head)
    Path("key.yaml").write_text(head + f'model: {{"{quoted}": 1, fusion: "{quoted}"}}\n')
    Path("path.yaml").write_text(head + f'data: {{use: arrays, path: "{quoted}.npz"}}\n')
    Path("plugin.yaml").write_text(head + f'plugins: ["{quoted}.py"]\nneeds: ["{quoted}"]\n')
    name = f"{NASTY}.yaml"
    Path(name).write_text("recipe: 1\nwrong: 1\n")
    Path("broken.yaml").write_text(f"recipe: 1\nname: [{NASTY}\n")
    arrays = {f"{split}/{key}": np.zeros((4, 2), "float32") for split in ("train", "test") for key in ("a", NASTY)}
    np.savez("data.npz", **arrays, **{f"{split}/label": np.arange(4) for split in ("train", "test")})
    shown = [["recipes", "show", "summary.yaml", *more] for more in ([], ["--source"], ["--json"])]
    checked = [["recipes", "validate", file] for file in ("key.yaml", "path.yaml", "plugin.yaml", "broken.yaml", name)]
    others = [["build", "path.yaml"], ["data", "info", "data.npz"], ["data", "info", f"{NASTY}.npz"], ["run", NASTY]]
    return [*shown, *checked, *others, ["plugins", "show", NASTY, NASTY], [NASTY], ["recipes", "list", "--" + NASTY]]


def test_no_control_character_of_a_stranger_reaches_a_terminal(nasty: list[list[str]], capsys) -> None:
    for line in nasty:
        for more in ([], ["--json"]):
            _, out, err = run(capsys, *line, *more)
            assert not RAW.search(out + err), (line, out, err)
            assert out + err


def test_nor_where_it_is_a_real_one(nasty: list[list[str]]) -> None:
    """On a pseudo-terminal the program's own colours may pass, and nothing else."""
    for line in (nasty[3], nasty[5]):
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": ""}
        command = [sys.executable, "-m", "mmrobust", *line]
        subprocess.run(command, stdout=theirs, stderr=theirs, env=environment, timeout=100)
        os.close(theirs)
        shown = os.read(ours, 65536).decode()
        os.close(ours)
        assert "\x1b[31merror:\x1b[0m" in shown
        assert not RAW.search(shown.replace("\x1b[31merror:\x1b[0m", "").replace("\r\n", "\n")), shown


def test_the_guard_is_a_stream_like_any_other(capsys) -> None:
    guard = Guard(sys.stdout)
    assert guard.write("a\x1b[2J\u202eb\n") == 8
    guard.writelines(["c\td\n"])
    print("e", file=guard, flush=True)
    assert capsys.readouterr().out == "a\\x1b[2J\\u202eb\nc\td\ne\n"
    assert guard.encoding == sys.stdout.encoding
    with pytest.raises(TypeError):
        guard.write(b"x")  # type: ignore[arg-type]
    assert printable("\ud800") == "\\ud800"
