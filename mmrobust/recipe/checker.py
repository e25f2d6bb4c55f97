"""Validation: turns a tree into settings and plain data, and collects everything that is wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from mmrobust import registry
from mmrobust.errors import PluginError, Position, Problem, UntrustedError, nearest
from mmrobust.recipe.compose import at_home, shipped_folder
from mmrobust.recipe.document import Node, node_of
from mmrobust.recipe.optimization import OPTIMIZERS
from mmrobust.recipe.settings import EvaluateSettings, ModelSettings, TrainSettings, View, Weighted
from mmrobust.registry import forms
from mmrobust.registry.forms import Form, spell, with_article
from mmrobust.registry.options import UNKNOWN
from mmrobust.registry.spec import Part

S = TypeVar("S")

SECTIONS = (
    *("recipe", "name", "summary", "extends", "plugins", "needs"),
    *("data", "model", "learning", "train", "evaluate", "variants", "paper"),
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,100}[A-Za-z0-9])?")
VIEW = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ELLIPSIS = "..."
_MOST = 10_000  # values that an ellipsis may stand for
_LONGEST = 255  # bytes of a file's name
_LONGEST_NAME = 200  # letters of a recipe's or a variant's, whose folders get something before and after it


class _Wrong(Exception):
    """A value that is wrong, which has been reported."""


class Checker:
    """Checks one tree.

    Attributes:
        problems: Everything that is wrong.
        used: `(kind, name, distribution)` of every component that was met.
        absent: Distributions that the recipe needs and that cannot be used; a component that is missing is then theirs.
        catalogue: The components; also those that an untrusted file would bring, as far as its source says.
    """

    def __init__(self, catalogue: registry.Catalogue | None = None) -> None:
        self.catalogue = registry.catalogue() if catalogue is None else catalogue
        self.problems: list[Problem] = []
        self.used: set[tuple[str, str, str]] = set()
        self.absent: set[str] = set()

    def report(self, where: Position, message: str, untrusted: str = "") -> _Wrong:
        """Notes a problem."""
        self.problems.append(Problem(message, where, untrusted))
        return _Wrong()

    # Sections

    def keys(self, node: Node, known: Iterable[str], label: str) -> dict[str, Node]:
        """The entries of a mapping, those with unknown keys left out."""
        known = list(known)
        if not isinstance(node.value, dict):
            raise self.report(node.where, f"{label} has to be a mapping of {', '.join(known[:6])}, ..., not {node}")
        for key, inner in node.value.items():
            if key not in known:
                self.report(inner.key, f"{label} has no key '{key}'{nearest(key, known)}")
        return {key: inner for key, inner in node.value.items() if key in known}

    def section(self, cls: type[S], node: Node, label: str) -> tuple[S | None, dict[str, Any]]:
        """A settings dataclass and its plain data, every field filled in."""
        fields = {f.metadata.get("key", f.name): f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        values: dict[str, Any] = {}
        plain: dict[str, Any] = {}
        try:
            given = self.keys(node, fields, label)
        except _Wrong:
            return None, {}
        for key, f in fields.items():
            here = given.get(key)
            if here is None:
                if f.default is dataclasses.MISSING:
                    self.report(node.key, f"{label} needs '{key}': {forms.parse(str(f.type))}")
                    continue
                here = node_of(unparted(f.default, f.metadata), node.key)
            try:
                value, plain[key] = self.setting(str(f.type), f.metadata, here, f"{label}.{key}")
                values[f.name] = value
            except _Wrong:
                pass
        complete = len(values) == len(fields)
        return (cls(**values) if complete else None), plain

    def setting(self, annotation: str, rules: Mapping[str, Any], node: Node, label: str) -> tuple[Any, Any]:
        """A setting with its range."""
        if "choices" in rules:
            return self.choice(rules["choices"], node, label)
        if "short" in rules:
            return self.short(rules["short"], node, label)
        if rules.get("count") and isinstance(node.value, int) and not isinstance(node.value, bool):
            if not 1 <= node.value <= _MOST:
                raise self.report(node.where, f"{label}: {node} is no number of seeds; n stands for the seeds 1 to n")
            node = node_of(list(range(1, node.value + 1)), node.where)
        value, plain = self.value(forms.parse(annotation), node, label)
        nodes = node.value if isinstance(node.value, list) else [node]
        numbers = value if isinstance(value, tuple | list) else [value]
        for i, number in enumerate(numbers):
            if isinstance(number, int | float) and not isinstance(number, bool):
                at = nodes[min(i, len(nodes) - 1)].where
                self.range(number, rules, at, label)
        if isinstance(value, tuple | list) and not value:
            raise self.report(node.where, f"{label} is empty")
        if rules.get("count") and len(set(numbers)) < len(numbers):
            raise self.report(node.where, f"{label}: a seed is there twice")
        if rules.get("rising") and any(b <= a for a, b in itertools.pairwise(numbers)):
            raise self.report(node.where, f"{label} have to rise")
        return value, plain

    def choice(self, choices: Mapping[str, type[Any]], node: Node, label: str) -> tuple[Any, dict[str, Any] | str]:
        """One of several classes of settings: its name, or a mapping of `use` and its options."""
        use = used(node, choices)
        cls = choices.get(use.value) if isinstance(use.value, str) else None
        if cls is None:
            raise self.wrong(Form("literal", values=tuple(choices)), use, label, choices)
        options = {k: inner for k, inner in node.value.items() if k != "use"} if isinstance(node.value, dict) else {}
        known = {f.name for f in dataclasses.fields(cls)}
        before = len(self.problems)
        for key, inner in options.items():
            if key not in known:
                none = "; it has no options" if not known else nearest(key, known)
                self.report(inner.key, f"{label} '{use.value}' has no option '{key}'{none}")
        if len(self.problems) > before:
            raise _Wrong
        try:
            value, plain = self.section(cls, Node(options, use.where, use.key), label)
        except ValueError as error:  # two options that do not go together
            raise self.report(use.where, f"{label}: {error}") from None
        if value is None:
            raise _Wrong
        return value, {"use": use.value, **plain} if plain else use.value

    def short(self, cls: type[Any], node: Node, label: str) -> tuple[Any, Any]:
        """A mapping of settings, or its number alone, or null: what `train.clip` takes."""
        if node.value is None:
            return None, None
        number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
        if not number and not isinstance(node.value, dict):
            what = f"a number or null, or a mapping of {', '.join(f.name for f in dataclasses.fields(cls))}"
            raise self.report(node.where, f"{label} has to be {what}, not {node}")
        value, plain = self.section(cls, node.replaced({"at": node}) if number else node, label)
        if value is None:
            raise _Wrong
        return value, plain["at"] if plain["by"] == "norm" else plain

    def range(self, number: float, rules: Mapping[str, Any], at: Position, label: str) -> None:
        """Reports a number that is out of range."""
        low, high, above, below = (rules.get(k) for k in ("low", "high", "above", "below"))
        wrong = (
            (low is not None and number < low)
            or (high is not None and number > high)
            or (above is not None and number <= above)
            or (below is not None and number >= below)
        )
        if wrong:
            if low is not None and high is not None:
                allowed = f"between {low} and {high}"
            else:
                allowed = f"at least {low}" if low is not None else f"greater than {above}"
                allowed += "" if below is None else f" and less than {below}"
            raise self.report(at, f"{label} has to be {allowed}, not {brief(number)}")

    # Values

    def value(self, form: Form, node: Node, label: str) -> tuple[Any, Any]:
        """What a node means where `form` is expected.

        Returns:
            The value for Python (tuples, paths, parts), and the same as plain data for the resolved recipe.
        """
        value = node.value
        match form.kind:
            case "any":
                return node.plain, node.plain
            case "none" if value is None:
                return None, None
            case "bool" if isinstance(value, bool):
                return value, value
            case "int" if isinstance(value, int) and not isinstance(value, bool):
                return value, value
            case "int" if isinstance(value, float) and value.is_integer():
                return int(value), int(value)
            case "float" if isinstance(value, int | float) and not isinstance(value, bool):
                if not finite(value):
                    raise self.report(node.where, f"{label} has to be a finite number, not {node}")
                return float(value), value
            case "str" if isinstance(value, str):
                return value, value
            case "path" if isinstance(value, str) and value:
                return self.path(value, node, label)
            case "str" | "path" if node.text:
                return self.value(form, as_text(node), label)
            case "literal":
                for choice in form.values:
                    if choice == value and type(choice) is type(value):
                        return value, value
                raise self.wrong(form, node, label, [c for c in form.values if isinstance(c, str)])
            case "list" if isinstance(value, list):
                return self.sequence(form, node, label)
            case "tuple" if isinstance(value, list) and len(value) == len(form.items):
                pairs = self.each([(f, n, label) for f, n in zip(form.items, value, strict=True)])
                return tuple(p for p, _ in pairs), [p for _, p in pairs]
            case "dict" if isinstance(value, dict):
                pairs = self.each([(form.items[0], n, f"{label}.{k}") for k, n in value.items()])
                return (
                    {k: v for k, (v, _) in zip(value, pairs, strict=True)},
                    {k: p for k, (_, p) in zip(value, pairs, strict=True)},
                )
            case "slot" if isinstance(value, str | dict):
                return self.part(form.slot, node, label)
            case "union":
                return self.union(form, node, label)
        raise self.wrong(form, node, label)

    def path(self, text: str, node: Node, label: str) -> tuple[Path, str]:
        """A path, absolute."""
        if "\0" in text or any(len(piece.encode(errors="replace")) > _LONGEST for piece in text.split("/")):
            raise self.report(node.where, f"{label} cannot be a path: a name in it is too long or has a null byte")
        path = located(text, node.where)
        return path, str(path)

    def each(self, items: list[tuple[Form, Node, str]]) -> list[tuple[Any, Any]]:
        """Several values; all are checked before one that is wrong stops it."""
        values, failed = [], None
        for form, node, label in items:
            try:
                values.append(self.value(form, node, label))
            except _Wrong as wrong:
                failed = wrong
        if failed is not None:
            raise failed
        return values

    def sequence(self, form: Form, node: Node, label: str) -> tuple[Any, Any]:
        """A list, its ellipsis spelled out."""
        item = form.items[0]
        numeric = [f.kind for f in (item.items if item.kind == "union" else (item,)) if f.kind in ("int", "float")]
        nodes = node.value
        if numeric and any(n.value == ELLIPSIS for n in nodes):
            nodes = self.ellipsis(nodes, label)
        pairs = self.each([(item, n, label) for n in nodes])
        values = [v for v, _ in pairs]
        return (tuple(values) if form.frozen else values), [p for _, p in pairs]

    def ellipsis(self, nodes: list[Node], label: str) -> list[Node]:
        """`[0, 0.1, ..., 1.0]` spelled out, in decimal steps."""
        at = next(i for i, n in enumerate(nodes) if n.value == ELLIPSIS)
        where = nodes[at].where
        near = [n.value for n in (*nodes[max(0, at - 2) : at], *nodes[at + 1 : at + 2])]
        if len(near) < 3 or not all(isinstance(v, int | float) and not isinstance(v, bool) and finite(v) for v in near):
            raise self.report(
                where, f"{label}: '...' needs two numbers before it and one after, as in [0, 0.1, ..., 1.0]"
            )
        first, second, last = (Decimal(str(v)) for v in near)
        step = second - first
        count = (last - second) / step if step else Decimal(-1)
        if count < 1 or count != count.to_integral_value():
            raise self.report(where, f"{label}: steps of {step} from {first} do not lead to {last}")
        if count > _MOST:
            raise self.report(where, f"{label}: '...' would stand for more than {_MOST} numbers")
        whole = all(isinstance(v, int) for v in near)
        between = [second + step * i for i in range(1, int(count))]
        filled = [Node(int(v) if whole else float(v), where, where) for v in between]
        rest = nodes[at + 1 :]
        if any(n.value == ELLIPSIS for n in rest):
            raise self.report(where, f"{label}: one '...' in a list is enough")
        return [*nodes[:at], *filled, *rest]

    def union(self, form: Form, node: Node, label: str) -> tuple[Any, Any]:
        """The first alternative that fits; if only one has the value's shape, its own errors are reported."""
        shaped = [f for f in form.items if _shaped(f, node.value)]
        if not shaped and node.text:  # a word of the command line that looks like a number
            node = as_text(node)
            shaped = [f for f in form.items if _shaped(f, node.value)]
        if len(shaped) == 1 and not (isinstance(node.value, str) and shaped[0].kind == "literal"):
            return self.value(shaped[0], node, label)
        for candidate in shaped:
            trial = Checker(self.catalogue)
            try:
                return trial.value(candidate, node, label)
            except _Wrong:
                continue
        slots = [f for f in shaped if f.kind in ("slot", "dict")]
        if len(slots) == 1:
            return self.value(slots[0], node, label)
        choices = [c for f in form.items if f.kind == "literal" for c in f.values if isinstance(c, str)]
        raise self.wrong(form, node, label, choices)

    def wrong(self, form: Form, node: Node, label: str, choices: Iterable[str] = ()) -> _Wrong:
        """A value of another type."""
        close = nearest(node.value, choices) if isinstance(node.value, str) else ""
        hint = close if "did you mean" in close else ""
        kinds = {f.kind for f in (form.items if form.kind == "union" else (form,))}
        if "bool" in kinds and str(node.value).lower() in ("yes", "no", "on", "off"):
            yes = str(node.value).lower() in ("yes", "on")
            hint = f"; write {spell(yes)}"
        elif "str" in kinds and isinstance(node.value, bool | int | float):
            hint = f"; write '{spell(node.value)}' in quotes"
        elif "none" in kinds and node.value == "None":
            hint = "; write null"
        elif kinds & {"list", "tuple"} and node.text and "," in node.text:
            hint = f"; write [{node.text}]"
        return self.report(node.where, f"{label} has to be {form}, not {node}{hint}")

    # Components

    def part(
        self, kind: str, node: Node, label: str, reserved: Mapping[str, Node] | None = None
    ) -> tuple[Part[Any], dict[str, Any] | str]:
        """A component: its name is looked up, and its options are checked and filled in.

        Args:
            kind: The slot's kind.
            node: A bare name, or a mapping with `use`.
            label: The slot, for messages.
            reserved: Entries of the mapping that are no options (already checked).
        """
        if isinstance(node.value, str):
            use, given = node, {}
        elif isinstance(node.value, dict):
            use, given = (
                node.get("use"),
                {k: n for k, n in node.value.items() if k != "use" and k not in (reserved or {})},
            )
        else:
            raise self.report(
                node.where, f"{label} has to be {with_article(kind)}: a name, or a mapping with 'use', not {node}"
            )
        if use is None:
            raise self.report(node.key, f"{label} does not say which {kind} it is; write 'use: name'")
        if not isinstance(use.value, str):
            raise self.report(use.where, f"'use' has to be the name of {with_article(kind)}, not {use}")
        try:
            spec = self.catalogue.find(kind, use.value)
            options = registry.options_of(spec)
        except PluginError as error:
            if self.absent and use.value.rpartition("/")[2] not in {s.name for s in self.catalogue.all(kind)}:
                raise _Wrong from None
            raise self.report(use.where, str(error)) from None
        self.used.add((kind, spec.name, spec.distribution))
        who = f"{kind} '{use.value}'"
        values: dict[str, Any] = {}
        plain: dict[str, Any] = {}
        before = len(self.problems)
        for name, inner in given.items():
            if name not in options:
                none = "; it has no options" if not options else nearest(name, options)
                self.report(inner.key, f"{who} has no option '{name}'{none}")
        for name, option in options.items():
            inner = given.get(name)
            if inner is None:
                if option.required:
                    doc = f" ({option.doc.rstrip('.')})" if option.doc else ""
                    self.report(use.where, f"{who} needs the option '{name}'{doc}: write {label}.{name}")
                    continue
                if option.default is UNKNOWN:
                    continue
                inner = node_of(option.default, use.where)
            with contextlib.suppress(_Wrong):
                values[name], plain[name] = self.value(option.form, inner, f"option '{name}' of {who}")
        if len(self.problems) > before:
            raise _Wrong
        return Part(use.value, values), {"use": use.value, **plain} if plain else use.value

    # The recipe

    def learning(self, node: Node) -> tuple[dict[str, View], dict[str, Any]]:
        """Section `learning`."""
        views: dict[str, View] = {}
        plain: dict[str, Any] = {}
        try:
            listed = self.keys(node, ["views"], "learning").get("views")
        except _Wrong:
            return {}, {}
        if listed is None or not isinstance(listed.value, dict) or not listed.value:
            at = node.key if listed is None else listed.where
            what = "a mapping with at least one view: name: {noise, rate, objectives}"
            self.report(at, f"learning.views has to be {what}")
            return {}, {}
        for name, inner in listed.value.items():
            if not VIEW.fullmatch(name):
                self.report(inner.key, f"'{name}' cannot be the name of a view: use letters, digits and '_'")
            with contextlib.suppress(_Wrong):
                views[name], plain[name] = self.view(inner, f"learning.views.{name}", list(listed.value))
        if len(views) == len(listed.value) and not any(view.objectives for view in views.values()):
            self.report(listed.key, "no view has an objective, so there is nothing to learn")
        return views, {"views": plain}

    def view(self, node: Node, label: str, names: list[str]) -> tuple[View, dict[str, Any]]:
        """One view."""
        given = self.keys(node, ["noise", "rate", "objectives"], label)
        before = len(self.problems)
        noise, rate, objectives = None, 0.0, ()
        plain: dict[str, Any] = {"noise": None}
        here = given.get("noise")
        noisy = here is not None and here.value is not None
        if here is None:
            self.report(node.key, f"{label} does not say its noise; write 'noise: null' for a clean view")
        if here is not None and noisy:
            with contextlib.suppress(_Wrong):
                noise, plain["noise"] = self.part("noise", here, f"{label}.noise")
        at = given.get("rate")
        if noisy and at is None:
            self.report(
                node.key, f"{label} has a noise and needs its rate: a number from 0 to 1, or a pair as in [0, 0.5]"
            )
        elif at is not None and noisy:  # without a noise, an inherited rate says nothing
            with contextlib.suppress(_Wrong):
                rate, plain["rate"] = self.rate(at, f"{label}.rate")
        listed = given.get("objectives")
        if listed is None:
            self.report(
                node.key, f"{label} does not say its objectives; write 'objectives: []' for a view that others read"
            )
        elif not isinstance(listed.value, list):
            self.report(listed.where, f"{label}.objectives has to be a list of objectives, not {listed}")
        else:
            pairs = []
            for item in listed.value:
                with contextlib.suppress(_Wrong):
                    pairs.append(self.objective(item, f"{label}.objectives", names))
            objectives = tuple(w for w, _ in pairs)
            plain["objectives"] = [p for _, p in pairs]
        if len(self.problems) > before:
            raise _Wrong
        return View(noise, rate, objectives), plain

    def rate(self, node: Node, label: str) -> tuple[float | tuple[float, float], Any]:
        """A rate, or a pair."""
        form = forms.parse("float | tuple[float, float]")
        value, plain = self.value(form, node, label)
        for number in value if isinstance(value, tuple) else (value,):
            self.range(number, {"low": 0, "high": 1}, node.where, label)
        if isinstance(value, tuple) and value[0] > value[1]:
            raise self.report(node.where, f"{label}: the first number of the pair is the smaller one")
        return value, plain

    def objective(self, node: Node, label: str, names: list[str]) -> tuple[Weighted, Any]:
        """An objective with the keys that every objective has, `weight` and `reads`."""
        reserved = {k: n for k, n in node.value.items() if k in ("weight", "reads")} if node.get("use") else {}
        weight, reads = 1.0, ()
        extra: dict[str, Any] = {}
        failed = False
        try:
            if "weight" in reserved:
                weight, extra["weight"] = self.value(Form("float"), reserved["weight"], f"{label}: weight")
                self.range(weight, {"low": 0}, reserved["weight"].where, f"{label}: weight")
        except _Wrong:
            failed = True
        try:
            if "reads" in reserved:
                reads, extra["reads"] = self.value(forms.parse("tuple[str, ...]"), reserved["reads"], f"{label}: reads")
                for name, inner in zip(reads, reserved["reads"].value, strict=True):
                    if name not in names:
                        raise self.report(inner.where, f"{label}: reads names the view '{name}'{nearest(name, names)}")
        except _Wrong:
            failed = True
        part, plain = self.part("objective", node, label, reserved)
        if failed:
            raise _Wrong
        if extra:
            plain = {"use": plain, **extra} if isinstance(plain, str) else {**plain, **extra}
        return Weighted(part, weight, reads), plain

    def distinct(self, noises: tuple[Part[Any], ...], node: Node | None) -> None:
        """Reports a noise of the evaluation that is listed twice, with the same options."""
        items = node.value if node is not None and isinstance(node.value, list) else []
        for i, item in enumerate(items):
            if noises[i] in noises[:i]:
                self.report(item.where, f"evaluate.noise lists '{noises[i].use}' twice")

    def needs(self, node: Node) -> list[str]:
        """The distributions whose components the recipe uses; one that is missing is reported once, with what to do."""
        try:
            names, _ = self.value(forms.parse("list[str]"), node, "needs")
        except _Wrong:
            return []
        plugins = {registry.normal(p.distribution): p for p in self.catalogue.plugins}
        for name, inner in zip(names, node.value, strict=True):
            if not DISTRIBUTION.fullmatch(name):  # it stands in advice that people paste into a shell
                self.report(inner.where, f"needs: '{name[:60]}' cannot be the name of a distribution")
                continue
            plugin = plugins.get(registry.normal(name))
            if plugin is None or plugin.state != "ok":
                self.absent.add(name)
            if plugin is None:
                self.report(
                    inner.where,
                    f"this recipe needs {name}, which is not installed; install its folder or wheel, as in "
                    f"'pip install --no-deps ./plugins/{name}'",
                )
            elif plugin.state != "ok":
                why = "turned off" if plugin.state == "off" else f"quarantined: {plugin.cause}"
                self.report(inner.where, f"this recipe needs {name}, which is {why}")
        return names

    def text(self, node: Node | None, label: str, default: str = "") -> str:
        """A line of text."""
        if node is None:
            return default
        try:
            return self.value(Form("str"), node, label)[0]
        except _Wrong:
            return default

    def name(self, node: Node | None, default: str) -> str:
        """The recipe's name, which is also the name of a folder."""
        before = len(self.problems)
        name = self.text(node, "name", default)
        if node is not None and len(self.problems) == before and (problem := misnamed(name)):
            self.report(node.where, f"'{name[:60]}' cannot be a recipe's name: {problem}")
        return name


def check(root: Node, default_name: str, checker: Checker) -> dict[str, Any]:
    """Checks a whole tree.

    Returns:
        The fields of a `Recipe`: `name`, `summary`, `data`, `model`, `views`, `train`, `evaluate`, `plugins` and
        `resolved`; not to be used where the checker has problems.
    """
    given = checker.keys(root, SECTIONS, "a recipe")
    fields: dict[str, Any] = {
        "name": checker.name(given.get("name"), default_name),
        "summary": " ".join(checker.text(given.get("summary"), "summary").split()),
        "plugins": plugin_files(given.get("plugins"), checker),
    }
    plain: dict[str, Any] = {"recipe": 1, "name": fields["name"], "summary": fields["summary"]}
    if fields["plugins"]:
        plain["plugins"] = [str(path) for path in fields["plugins"]]
    if "needs" in given:
        plain["needs"] = checker.needs(given["needs"])
    nothing = node_of({}, root.where)
    for name, what in (("data", "a dataset"), ("model", "a mapping"), ("learning", "a mapping of views")):
        if name not in given:
            checker.report(root.where, f"a recipe needs the section '{name}': {what}")
    if "data" in given:
        with contextlib.suppress(_Wrong):
            fields["data"], plain["data"] = checker.part("dataset", given["data"], "data")
    if "model" in given:
        fields["model"], plain["model"] = checker.section(ModelSettings, given["model"], "model")
    if "learning" in given:
        fields["views"], plain["learning"] = checker.learning(given["learning"])
    train = with_optimizer(given.get("train", nothing), root, checker)
    fields["train"], plain["train"] = checker.section(TrainSettings, train, "train")
    evaluate = given.get("evaluate", nothing)
    fields["evaluate"], plain["evaluate"] = checker.section(EvaluateSettings, evaluate, "evaluate")
    if fields["evaluate"] is not None and "evaluate" in given:
        checker.distinct(fields["evaluate"].noise, given["evaluate"].get("noise"))
    if "variants" in given:
        plain["variants"] = given["variants"].plain
    if "paper" in given:
        plain["paper"] = given["paper"].plain
    fields["resolved"] = plain
    return fields


def plugin_files(node: Node | None, checker: Checker) -> tuple[Path, ...]:
    """The one-file plugins that a recipe names, loaded where the person trusts them.

    One that is not trusted is a problem; what it would bring is read from its source, so that all else can be checked.
    """
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, list):
        checker.report(node.where, f"plugins has to be a list of Python files, as in [./mine.py], not {node}")
        return ()
    files = []
    for item in node.value:
        if not isinstance(item.value, str) or not item.value:
            checker.report(item.where, f"a plugin is the path of a Python file, not {item}")
            continue
        with contextlib.suppress(_Wrong):
            path, _ = checker.path(item.value, item, "a plugin")
            try:
                registry.load_trusted_file(path)
                files.append(path)
            except PluginError as error:
                checker.report(item.where, str(error), str(path) if isinstance(error, UntrustedError) else "")
                checker.catalogue = checker.catalogue.with_offers(registry.declared(path))
    return tuple(files)


def as_text(node: Node) -> Node:
    """A word of the command line as the text that was typed."""
    return Node(node.text, node.where, node.key, node.text)


def misnamed(name: str) -> str | None:
    """Why a name cannot be that of a recipe or a variant, which is also the name of a folder; None where it can."""
    if len(name) > _LONGEST_NAME:
        return f"a name has at most {_LONGEST_NAME} letters, and this one has {len(name)}"
    if not NAME.fullmatch(name):
        return "use letters, digits, '.', '_' and '-'"
    return None


def finite(number: float) -> bool:
    """Whether a number can be a finite float; a whole number may be too large for one."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def brief(number: float) -> str:
    """A number in a message."""
    return f"{number:g}" if finite(number) else str(number)[:20] + "..." * (len(str(number)) > 20)


def located(text: str, where: Position) -> Path:
    """An absolute path.

    Relative ones are meant from the recipe's folder; from the current folder on the command line and in shipped
    recipes.
    """
    path = at_home(text)
    folder = Path(where.file).parent if where.line else Path()
    if where.line and Path(where.file).resolve().is_relative_to(shipped_folder().resolve()):
        folder = Path()
    return Path(os.path.abspath(folder / path))


def _shaped(form: Form, value: Any) -> bool:
    """Whether a value could be meant as this form, before its details are looked at."""
    match form.kind:
        case "none":
            return value is None
        case "bool":
            return isinstance(value, bool)
        case "int" | "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "str" | "path":
            return isinstance(value, str)
        case "literal":
            return value in form.values or isinstance(value, str)
        case "list":
            return isinstance(value, list)
        case "tuple":
            return isinstance(value, list) and len(value) == len(form.items)
        case "dict":
            return isinstance(value, dict)
        case "slot":
            return isinstance(value, str) or (isinstance(value, dict) and "use" in value)
    return True


def with_optimizer(train: Node, root: Node, checker: Checker) -> Node:
    """Section `train` with the optimizer's own `lr` and `weight_decay` in the places that all optimizers share.

    Where a rate is written in both places, the nearer counts: the command line before the recipe's own file, and that
    before files that it extends.
    """
    if not isinstance(train.value, dict):
        return train
    values, optimizer = dict(train.value), train.value.get("optimizer")
    if optimizer is not None and isinstance(optimizer.value, dict):
        nearness = lambda node: 2 if not node.key.line else int(node.key.file == root.where.file)
        for name in ("lr", "weight_decay"):
            own, shared = optimizer.get(name), values.get(name)
            if own is None:
                continue
            if shared is None or nearness(own) > nearness(shared):
                values[name] = own
            elif nearness(own) == nearness(shared):
                checker.report(own.key, f"train.optimizer.{name} is said at {shared.key} as train.{name}; keep one")
        kept = {key: node for key, node in optimizer.value.items() if key not in ("lr", "weight_decay")}
        values["optimizer"] = optimizer.replaced(kept)
    name = used(optimizer or node_of({}, train.key), OPTIMIZERS).value
    if "weight_decay" not in values and isinstance(name, str) and name in OPTIMIZERS:
        values["weight_decay"] = node_of(OPTIMIZERS[name].weight_decay, train.key)
    return train.replaced(values)


def used(node: Node, choices: Mapping[str, Any]) -> Node:
    """The name of what a setting uses: a name, or a mapping that may hold `use`, and else means the first choice."""
    if isinstance(node.value, dict):
        return node.get("use") or Node(next(iter(choices)), node.where, node.key)
    return node


def unparted(value: Any, rules: Mapping[str, Any] | None = None) -> Any:
    """A default of the settings as plain data."""
    if isinstance(value, Part):
        return value.use
    if rules and "choices" in rules:
        return next(name for name, cls in rules["choices"].items() if isinstance(value, cls))
    if rules and "short" in rules:
        return None if value is None else value.at
    return [unparted(v) for v in value] if isinstance(value, tuple) else value
