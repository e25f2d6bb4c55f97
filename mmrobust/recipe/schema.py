"""The JSON Schema (draft 2020-12) of recipes, with every installed component and its options."""

from __future__ import annotations

import dataclasses
from typing import Any

from mmrobust import registry
from mmrobust.errors import PluginError
from mmrobust.recipe.checker import ELLIPSIS, NAME, VIEW, unparted
from mmrobust.recipe.paper import schema as paper
from mmrobust.recipe.settings import EvaluateSettings, ModelSettings, TrainSettings
from mmrobust.registry import forms
from mmrobust.registry.forms import Form
from mmrobust.registry.options import UNKNOWN
from mmrobust.registry.spec import KINDS

_NUMBER = {"type": "number"}


def json_schema() -> dict[str, Any]:
    """The schema of everything that is installed now."""
    view = {
        "type": "object",
        "properties": {
            "noise": {"anyOf": [{"$ref": "#/$defs/noise"}, {"type": "null"}]},
            "rate": {
                "description": "How much the noise destroys, 0 to 1; a pair draws a rate for each sample.",
                "anyOf": [
                    {**_NUMBER, "minimum": 0, "maximum": 1},
                    {"type": "array", "items": {**_NUMBER, "minimum": 0, "maximum": 1}, "minItems": 2, "maxItems": 2},
                ],
            },
            "objectives": {"type": "array", "items": {"$ref": "#/$defs/objective"}},
        },
        "additionalProperties": False,
    }
    sections = {
        "recipe": {"const": 1, "description": "The version of the recipe format."},
        "name": {"type": "string", "pattern": f"^{NAME.pattern}$"},
        "summary": {"type": "string"},
        "extends": {"type": "string", "description": "A recipe's path, or the bare name of a shipped one."},
        "plugins": {"type": "array", "items": {"type": "string"}, "description": "One-file plugins."},
        "needs": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Distributions whose components the recipe uses.",
        },
        "data": {"$ref": "#/$defs/dataset"},
        "model": _section(ModelSettings),
        "learning": {
            "type": "object",
            "properties": {
                "views": {
                    "type": "object",
                    "patternProperties": {f"^{VIEW.pattern}$": view, "^~": {"type": "null"}},
                    "additionalProperties": False,
                }
            },
            "additionalProperties": False,
        },
        "train": _section(TrainSettings),
        "evaluate": _section(EvaluateSettings),
        "variants": {
            "type": "object",
            "description": "Named sets of overrides: a list of 'a.b.c=value' and '~a.b.c', or a mapping.",
            "additionalProperties": {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {
                            "label": {"type": "string", "description": "What tables and figures call the variant."},
                            "extends": {
                                "type": "string",
                                "description": "Begin with this recipe, under what the study's own file says.",
                            }
                        },
                    },
                    {"type": "array", "items": {"type": "string"}},
                    {"type": "null"},
                ]
            },
        },
        "paper": paper(),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mmrobust recipe",
        "type": "object",
        "properties": sections,
        "patternProperties": {"^~": {"type": "null", "description": "Deletes what the extended recipe says."}},
        "additionalProperties": False,
        "required": ["recipe"],
        "if": {"not": {"required": ["extends"]}},
        "then": {"required": ["data", "model", "learning"]},
        "$defs": {kind: _kind(kind) for kind in KINDS},
    }


def _kind(kind: str) -> dict[str, Any]:
    """A component of one kind: a bare name, or a mapping with `use` and that component's options."""
    own: dict[str, Any] = {}
    if kind == "objective":
        own = {
            "weight": {**_NUMBER, "minimum": 0, "default": 1, "description": "Factor of the loss in the sum."},
            "reads": {"type": "array", "items": {"type": "string"}, "description": "Other views that it needs."},
        }
    catalogue = registry.catalogue()
    bare: list[dict[str, Any]] = []
    full: list[dict[str, Any]] = []
    everything: dict[str, Any] = {}
    for spec in catalogue.all(kind):
        try:
            options = registry.options_of(spec)
        except PluginError:
            continue
        ambiguous = catalogue.state(spec)[0] == "ambiguous"
        names = [spec.qualified] if ambiguous else [spec.name, spec.qualified]
        properties: dict[str, Any] = {}
        for option in options.values():
            inner = of_form(option.form)
            if option.doc:
                inner["description"] = option.doc
            if not option.required and option.default is not UNKNOWN:
                inner["default"] = option.default
            properties[option.name] = inner
        everything.update({name: {} for name in properties})
        required = [o.name for o in options.values() if o.required]
        if not required:
            bare += [{"const": name, "description": spec.summary} for name in names]
        full.append(
            {
                "type": "object",
                "description": spec.summary,
                "properties": {"use": {"enum": names}, **own, **properties},
                "required": ["use", *required],
                "additionalProperties": False,
            }
        )
    # What a recipe changes in the one it extends need not say `use` again.
    partial = {
        "type": "object",
        "properties": {"use": False, **own, **everything},
        "patternProperties": {"^~": {"type": "null"}},
        "additionalProperties": False,
    }
    return {"description": f"A {kind.replace('_', ' ')}.", "anyOf": [*bare, *full, partial]}


def _section(cls: type[Any]) -> dict[str, Any]:
    """A section of settings."""
    docs = _attributes(cls.__doc__ or "")
    properties: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        key = f.metadata.get("key", f.name)
        inner: dict[str, Any] = _setting(str(f.type), f.metadata)
        _bounded(inner, f.metadata)
        if f.metadata.get("count"):
            inner = {"anyOf": [inner, {"type": "integer", "minimum": 1}]}
        if f.default is not dataclasses.MISSING:
            inner["default"] = unparted(f.default, f.metadata)
        inner["description"] = docs.get(f.name, "")
        properties[key] = inner
    return {
        "type": "object",
        "description": (cls.__doc__ or "").splitlines()[0],
        "properties": properties,
        "patternProperties": {"^~": {"type": "null"}},
        "additionalProperties": False,
    }


def _setting(annotation: str, rules: Any) -> dict[str, Any]:
    """The schema of a setting, without its range."""
    if "choices" in rules:
        full = []
        for name, cls in rules["choices"].items():
            own = _section(cls)
            shared = {"lr": _NUMBER, "weight_decay": _NUMBER} if hasattr(cls, "weight_decay") else {}
            # What a recipe changes in the one it extends need not say `use` again.
            own["properties"] = {"use": {"const": name}, **shared, **own["properties"]}
            full.append(own)
        return {"anyOf": [{"enum": list(rules["choices"])}, *full]}
    if "short" in rules:
        return {"anyOf": [{**_NUMBER, "exclusiveMinimum": 0}, {"type": "null"}, _section(rules["short"])]}
    return of_form(forms.parse(annotation))


def _bounded(inner: dict[str, Any], rules: Any) -> None:
    """Adds a setting's range to every number in its schema."""
    if inner.get("type") in ("integer", "number"):
        for rule, word in (
            *(("low", "minimum"), ("high", "maximum")),
            *(("above", "exclusiveMinimum"), ("below", "exclusiveMaximum")),
        ):
            if rules.get(rule) is not None:
                inner[word] = rules[rule]
    for nested in (*inner.get("anyOf", ()), *filter(None, [inner.get("items")])):
        _bounded(nested, rules)


def _attributes(doc: str) -> dict[str, str]:
    from mmrobust.registry.options import documented

    return documented(doc.replace("    Attributes:", "Args:").replace("\n    ", "\n"))


def of_form(form: Form) -> dict[str, Any]:
    """The schema of one value."""
    match form.kind:
        case "int":
            return {"type": "integer"}
        case "float":
            return {"type": "number"}
        case "bool":
            return {"type": "boolean"}
        case "str" | "path":
            return {"type": "string"}
        case "none":
            return {"type": "null"}
        case "literal":
            return {"enum": list(form.values)}
        case "list":
            item = of_form(form.items[0])
            if form.items[0].kind in ("int", "float"):
                item = {"anyOf": [item, {"const": ELLIPSIS}]}
            return {"type": "array", "items": item}
        case "tuple":
            count = len(form.items)
            return {
                "type": "array",
                "prefixItems": [of_form(f) for f in form.items],
                "minItems": count,
                "maxItems": count,
            }
        case "dict":
            return {"type": "object", "additionalProperties": of_form(form.items[0])}
        case "slot":
            return {"$ref": f"#/$defs/{form.slot}"}
        case "union":
            return {"anyOf": [of_form(f) for f in form.items]}
    return {}
