"""`mmrobust plugins`: what is installed, and what became of it; nothing of it is imported to say so."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrobust.cli import check, trust
from mmrobust.cli.arguments import Kind, Name, kinds

if TYPE_CHECKING:
    from mmrobust.recipe.document import Node
    from mmrobust.registry.spec import ComponentSpec


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    family = typer.Typer(help="List, show, check and write components.", no_args_is_help=True, rich_markup_mode=None)
    family.command("list")(list_)
    family.command()(show)
    family.command()(new)
    check.register(family)
    trust.register(family)
    app.add_typer(family, name="plugins")


def list_(
    kind: Annotated[str | None, typer.Argument(help="Only this kind.", autocompletion=kinds)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every component, who brought it and whether it can be used, and every plugin that could not be loaded.

    Examples:

      mmrobust plugins list

      mmrobust plugins list fusion --json
    """
    from mmrobust.cli.text import table
    from mmrobust.errors import UsageError, nearest
    from mmrobust.registry import KINDS, catalogue

    if kind is not None and kind not in KINDS:
        raise UsageError(f"there is no kind of component '{kind}'{nearest(kind, KINDS)}")
    registered = catalogue()
    specs = [(spec, *registered.state(spec)) for spec in registered.all(kind)]
    plugins = [
        p for p in registered.plugins if kind is None or p.state == "quarantined" or any(k == kind for k, _ in p.offers)
    ]
    if as_json:
        rows = [
            {
                "kind": spec.kind,
                "name": spec.name,
                "distribution": spec.distribution,
                "version": spec.version,
                "summary": spec.summary,
                "state": state,
                "cause": cause,
                "target": spec.target,
            }
            for spec, state, cause in specs
        ]
        typer.echo(json.dumps({"components": rows, "plugins": [vars(p) for p in plugins]}, indent=2))
        return
    lines = [[s.kind, s.name, s.distribution, s.version, state, s.summary] for s, state, _ in specs]
    typer.echo(table(["kind", "name", "distribution", "version", "state", "summary"], lines))
    notes = [
        cause if state == "broken" else f"{s.kind} '{s.name}' is {state}: {cause}" for s, state, cause in specs if cause
    ]
    notes += [f"{p} is turned off" for p in plugins if p.state == "off"]
    notes += [f"{p} is quarantined: {p.cause}" for p in plugins if p.state == "quarantined"]
    notes += [f"{p} {warning}" for p in plugins for warning in p.warnings]
    if notes:
        typer.echo("\n" + "\n".join(notes))


def show(
    kind: Kind,
    name: Name,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show one component: what it does, its options, its contract, its source, and which shipped recipes use it.

    Examples:

      mmrobust plugins show fusion cross_attention

      mmrobust plugins show objective task --json
    """
    from mmrobust.cli.text import paint, table

    facts = describe(kind, name)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(
        paint(f"{facts['kind']} {facts['name']}", "bold") + f", {facts['distribution']} {facts['version']}".rstrip()
    )
    typer.echo("\n" + (facts["doc"] or facts["summary"]))
    if facts["options"]:
        rows = [[o["name"], o["type"], o["default_text"], o["doc"]] for o in facts["options"]]
        typer.echo("\n" + table(["option", "type", "default", "what it does"], rows))
    else:
        typer.echo("\nIt has no options.")
    typer.echo(f"\nContract: {facts['contract']}")
    typer.echo(f"Source:   {facts['source']}")
    typer.echo(f"Recipes:  {', '.join(facts['recipes']) or 'no shipped one uses it'}")


def describe(kind: str, name: str) -> dict[str, Any]:
    """What is known of a component without importing it.

    Raises:
        PluginError: There is none, or it breaks the rules.
    """
    from mmrobust.registry import catalogue
    from mmrobust.registry.forms import spell
    from mmrobust.registry.options import UNKNOWN, describe

    spec = catalogue().find(kind, name)
    described = describe(spec)

    def default(option: Any) -> str:
        return "(required)" if option.required else "?" if option.default is UNKNOWN else _bare(option.default)

    def _bare(value: Any) -> str:
        return value if isinstance(value, str) and value else spell(value)

    return {
        "kind": spec.kind,
        "name": spec.name,
        "distribution": spec.distribution,
        "version": spec.version,
        "summary": spec.summary,
        "target": spec.target,
        "doc": _prose(described.doc),
        "options": [
            {
                "name": o.name,
                "type": o.form.written(),
                "required": o.required,
                "default": None if o.default is UNKNOWN else o.default,
                "default_text": default(o),
                "doc": o.doc,
            }
            for o in described.options.values()
        ],
        "contract": _contract(kind),
        "source": f"{described.file}:{described.line}" if described.file else spec.target,
        "recipes": _used_in(spec),
    }


def _prose(doc: str) -> str:
    """A docstring up to its first section."""
    kept: list[str] = []
    for line in doc.splitlines():
        if line.strip() in ("Args:", "Attributes:", "Raises:", "Options:", "Returns:"):
            break
        kept.append(line)
    return "\n".join(kept).strip()


def _contract(kind: str) -> str:
    """What the contracts say that a component of this kind does, with its shapes."""
    import ast

    from mmrobust.registry import source
    from mmrobust.registry.spec import KINDS

    located = source.find_class("mmrobust.contracts", KINDS[kind])
    if located is None:
        return f"mmrobust.contracts.{KINDS[kind]}"
    module, definition = located
    above = [module.classes[name] for base in definition.bases if (name := ast.unparse(base)) in module.classes]
    for cls in (definition, *above):
        for node in cls.body:
            if isinstance(node, ast.FunctionDef) and node.name in ("forward", "__call__"):
                doc = (ast.get_docstring(node) or "").splitlines()
                if doc:
                    return f"mmrobust.contracts.{KINDS[kind]}; {node.name}: {doc[0]}"
    return f"mmrobust.contracts.{KINDS[kind]}"


#: The kinds that stand at one place of a recipe, and where.
_PLACES = {
    "dataset": ("data",),
    **{kind: ("model", kind) for kind in ("encoder", "generic_extractor", "specific_extractor", "fusion", "head")},
}


def _used_in(spec: ComponentSpec) -> list[str]:
    """The shipped recipes that use it by name; what extends them is left out, and need not be read."""
    from mmrobust.errors import MmrobustError
    from mmrobust.recipe import compose
    from mmrobust.recipe.checker import Checker, check
    from mmrobust.registry import catalogue

    using = []
    for recipe, path in compose.shipped().items():
        checker = Checker()
        try:
            if not re.search(rf"\b{re.escape(spec.name)}\b", path.read_text(encoding="utf-8")):
                continue
            root = compose.extended(path, compose.read(path)[1])
            part: Node | None = root
            for key in _PLACES.get(spec.kind, ("nowhere",)):
                part = part.get(key) if part is not None else None
            name = None if part is None else compose.named(part)
            if name is None or catalogue().find(spec.kind, name) != spec:
                check(root, path.stem, checker)  # it may be an option of another component
                if (spec.kind, spec.name, spec.distribution) not in checker.used:
                    continue
        except MmrobustError:
            continue
        using.append(recipe)
    return using


def new(
    name: Annotated[str, typer.Argument(help="The component's name, e.g. gated.")],
    kind: Annotated[str, typer.Option("--kind", "-k", help="Its kind.", autocompletion=kinds)],
    to: Annotated[str, typer.Option("--to", help="Folder of the new distribution; mmrobust-NAME by default.")] = "",
) -> None:
    """Write a working distribution with one component, its recipe and its tests, to be edited.

    Examples:

      mmrobust plugins new gated --kind fusion

      mmrobust plugins new salt --kind noise --to noises/salt
    """
    from mmrobust.cli.scaffold import commands, write

    folder = write(name, kind, to)
    typer.echo(f"written: {folder}\n\nnext:  cd {folder}")
    for command in commands(folder):
        typer.echo(f"       {command}")
