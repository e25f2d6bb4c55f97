"""`mmrobust plugins check`: the conformance kit on one component."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrobust.cli.arguments import Kind, Name

if TYPE_CHECKING:
    from mmrobust.contracts import Part
    from mmrobust.testing import Check, Result, Subject


def register(family: typer.Typer) -> None:
    """Adds the verb."""
    family.command()(check)


def check(
    kind: Kind,
    name: Name,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[OPTION=VALUE]...", help="Options, written as in a recipe.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="CHECK", help="Run this check alone; may be repeated.")
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--beside", metavar="SLOT=NAME", help="For an objective that reads notes: the component that writes them."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a component holds what every component of its kind has to; each failure says why it matters.

    Examples:

      mmrobust plugins check fusion cross_attention depth=1 position=token

      mmrobust plugins check objective noise_adversary discriminator=mlp --json
    """
    part = _part(kind, name, options or [])
    others = dict(_beside(text) for text in beside or [])
    from mmrobust.testing import Subject, run_check
    from mmrobust.testing.running import refuse_unknown

    subject = Subject(kind, part.use, options=part.options, beside=others)
    chosen = _chosen(kind, only)
    refuse_unknown(subject)
    if as_json:
        results = [run_check(subject, one) for one in chosen]
        typer.echo(json.dumps(_as_dict(subject, results), indent=2))
    else:
        results = _run_and_show(subject, chosen)
    if any(result.state == "failed" for result in results):
        raise typer.Exit(1)


def _part(kind: str, name: str, options: list[str]) -> Part[Any]:
    """The component with its options, read and checked as in a recipe.

    Raises:
        RecipeError: An option is wrong; all problems are listed.
        UsageError: There is no such kind.
    """
    from mmrobust.errors import RecipeError, UsageError, nearest
    from mmrobust.recipe.checker import Checker
    from mmrobust.recipe.compose import COMMAND_LINE, override
    from mmrobust.recipe.document import node_of
    from mmrobust.registry import KINDS, Part

    if kind not in KINDS:
        raise UsageError(f"there is no kind of component '{kind}'{nearest(kind, KINDS)}")
    node = node_of({"use": name}, COMMAND_LINE)
    for text in options:
        node = override(node, text)
    checker = Checker()
    try:
        part, _ = checker.part(kind, node, kind)
    except Exception:
        if checker.problems:
            raise RecipeError(checker.problems) from None
        raise
    return Part(part.use, {key: value for key, value in part.options.items() if key in node.value})


def _beside(text: str) -> tuple[str, Part[Any]]:
    """A slot and the component in it, from `SLOT=NAME`.

    Raises:
        UsageError: There is no such slot.
    """
    from mmrobust.errors import UsageError, nearest

    slots = ("encoder", "generic_extractor", "specific_extractor", "fusion", "head")
    slot, equals, name = text.partition("=")
    if slot not in slots or not equals:
        raise UsageError(f"--beside looks like fusion=NAME, not '{text}'{nearest(slot, slots)}")
    return slot, _part(slot, name, [])


def _chosen(kind: str, only: list[str] | None) -> list[Check]:
    """The checks of these names, which may be given without `check_`; all without names.

    Raises:
        UsageError: There is no such check.
    """
    from mmrobust.errors import UsageError, nearest
    from mmrobust.testing import checks_for

    checks = {check.name: check for check in checks_for(kind)}
    names = [f"check_{name.removeprefix('check_')}" for name in only or []]
    for name in names:
        if name not in checks:
            raise UsageError(f"a {kind} has no check '{name}'{nearest(name, checks)}")
    return [check for name, check in checks.items() if not names or name in names]


def _as_dict(subject: Subject, results: list[Result]) -> dict[str, Any]:
    rows = [
        {
            "check": r.check.name,
            "promise": r.check.promise,
            "state": r.state,
            "what": r.check.what,
            "matters": r.check.matters,
            "expected": r.expected,
            "came": r.came,
            "reason": r.reason,
            "seconds": r.seconds,
        }
        for r in results
    ]
    failed = sum(r.state == "failed" for r in results)
    return {"kind": subject.kind, "name": subject.name, "failed": failed, "checks": rows}


def _run_and_show(subject: Subject, checks: list[Check]) -> list[Result]:
    """Runs the checks and prints a line for each; then those that could not run, in one line, and failures last."""
    from mmrobust.testing import run_check

    spec = subject.spec
    typer.echo(f"{subject.kind} {spec.name}, {spec.distribution} {spec.version}".rstrip() + "\n")
    results = []
    for check in checks:
        results.append(run_check(subject, check))
        if results[-1].state not in ("failed", "blocked"):
            _show(results[-1])
    blocked = Counter(result.reason for result in results if result.state == "blocked")
    for reason, count in blocked.items():
        _line("not run", f"{count} checks: {reason}" if count > 1 else f"1 check: {reason}")
    for result in results:
        if result.state == "failed":
            _show(result)
    words = {"expected": "expected to fail", "skipped": "with nothing to say", "blocked": "not run"}
    counts = Counter(result.state for result in results)
    summary = ", ".join(
        f"{counts[state]} {words.get(state, state)}"
        for state in ("passed", "expected", "skipped", "blocked", "failed")
        if counts[state]
    )
    total = "1 check" if len(results) == 1 else f"{len(results)} checks"
    typer.echo(f"\n{total} in {sum(r.seconds for r in results):.1f} s: {summary}")
    return results


def _show(result: Result) -> None:
    """Prints one result: a line, and what there is to say under it."""
    _line({"passed": "ok", "failed": "FAILED"}.get(result.state, result.state), result.check.name)
    lines = {"": result.reason}
    if result.state == "failed":
        lines = {
            "must hold": result.check.what,
            "expected": result.expected if result.expected != result.check.what else "",
            "came": result.came,
            "matters": result.check.matters,
        }
    width = max(60, min(shutil.get_terminal_size().columns, 120))
    for key, text in lines.items():
        if text:
            indent = " " * (24 if key else 13)
            start = f"{'':13}{key + ':':<11}" if key else indent
            typer.echo(textwrap.fill(text, width, initial_indent=start, subsequent_indent=indent))


def _line(word: str, text: str) -> None:
    from mmrobust.cli.text import paint

    colour = {"FAILED": "red", "expected": "yellow", "not run": "yellow"}.get(word, "dim")
    typer.echo(f"{paint(f'  {word:<9}', colour)}{text}")
