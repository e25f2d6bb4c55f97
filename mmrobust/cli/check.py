"""`mmrobust plugins check`: the conformance kit on one component."""

from __future__ import annotations

import json
import shutil
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrobust.cli.arguments import Kind, Name

if TYPE_CHECKING:
    from mmrobust.contracts import Part
    from mmrobust.testing import Result


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
    from mmrobust.testing import Subject, checks_for, run_check
    from mmrobust.testing.running import check_expected

    others = {}
    for text in beside or []:
        slot, _, use = text.partition("=")
        others[_slot(slot, text)] = _part(slot, use, [])
    subject = Subject(kind, part.use, options=part.options, beside=others)
    chosen = [c for c in checks_for(kind) if only is None or c.__name__ in _known(only, kind)]
    check_expected(subject)
    if not as_json:
        spec = subject.spec
        typer.echo(f"{kind} {spec.name}, {spec.distribution} {spec.version}".rstrip() + "\n")
    results = []
    for one in chosen:
        results.append(run_check(subject, one))
        if not as_json:
            _show(results[-1])
    failed = sum(result.state == "failed" for result in results)
    if as_json:
        fields = ("check", "state", "what", "matters", "expected", "came", "reason", "seconds")
        rows = [{field: getattr(result, field) for field in fields} for result in results]
        typer.echo(json.dumps({"kind": kind, "name": name, "failed": failed, "checks": rows}, indent=2))
    else:
        counts = {
            state: sum(r.state == state for r in results) for state in ("passed", "failed", "expected", "skipped")
        }
        words = {"expected": "expected to fail", "skipped": "with nothing to say"}
        said = ", ".join(f"{count} {words.get(state, state)}" for state, count in counts.items() if count)
        typer.echo(f"\n{len(results)} checks in {sum(r.seconds for r in results):.1f} s: {said}")
    if failed:
        raise typer.Exit(1)


def _part(kind: str, name: str, options: list[str]) -> Part[Any]:
    """The component with its options, read and checked as in a recipe.

    Raises:
        RecipeError: An option is wrong; all problems are told.
        UsageError: There is no such kind.
    """
    from mmrobust.errors import RecipeError, UsageError, nearest
    from mmrobust.recipe.check import Checker
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


def _slot(slot: str, text: str) -> str:
    from mmrobust.errors import UsageError, nearest

    slots = ("encoder", "generic_extractor", "specific_extractor", "fusion", "head")
    if slot not in slots or "=" not in text:
        raise UsageError(f"--beside looks like fusion=NAME, not '{text}'{nearest(slot, slots)}")
    return slot


def _known(only: list[str], kind: str) -> set[str]:
    """Names of checks, which may be given without `check_`.

    Raises:
        UsageError: There is no such check.
    """
    from mmrobust.errors import UsageError, nearest
    from mmrobust.testing import checks_for

    names = [check.__name__ for check in checks_for(kind)]
    chosen = {name if name.startswith("check_") else f"check_{name}" for name in only}
    for name in chosen:
        if name not in names:
            raise UsageError(f"a {kind} has no check '{name}'{nearest(name, names)}")
    return chosen


def _show(result: Result) -> None:
    from mmrobust.cli.text import paint

    word, colour = {
        "passed": ("ok", "dim"),
        "failed": ("FAILED", "red"),
        "expected": ("expected", "yellow"),
        "skipped": ("skipped", "dim"),
    }[result.state]
    label = paint(f"  {word:<9}", colour)
    typer.echo(f"{label}{result.check}")
    lines = {"": result.reason}
    if result.state == "failed":
        lines = {"must hold": result.what, "expected": result.expected, "came": result.came, "matters": result.matters}
        if result.expected == result.what:
            del lines["expected"]
    width = max(60, min(shutil.get_terminal_size().columns, 120))
    for key, text in lines.items():
        if text:
            indent = " " * (24 if key else 13)
            start = f"{'':13}{key + ':':<11}" if key else indent
            typer.echo(textwrap.fill(text, width, initial_indent=start, subsequent_indent=indent))
