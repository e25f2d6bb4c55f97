"""The noises, rates and draws of a recipe's evaluation, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmrobust.contracts import Noise, Part
from mmrobust.errors import Problem, RecipeError
from mmrobust.model.assemble import Built, make_noise
from mmrobust.robustness.sweep import Grid

__all__ = ["grid_of", "plain", "said"]


def grid_of(built: Built) -> tuple[Grid, dict[str, Any]]:
    """The grid of a recipe, and what each of its noises is."""
    settings = built.recipe.evaluate
    noises: dict[str, Noise] = {}
    parts: dict[str, Any] = {}
    for i, (part, name) in enumerate(zip(settings.noise, _names(settings.noise), strict=True)):
        if name in noises:
            raise RecipeError(Problem(f"'{name}' is listed twice", built.recipe.where("evaluate", "noise", str(i))))
        noises[name] = make_noise(built.recipe, ("evaluate", "noise", str(i)), part, built.context)
        parts[name] = {"use": part.use, "options": plain(part.options)}
    return Grid(noises, tuple(settings.rates), settings.draws), parts


def _names(noises: Sequence[Part[Any]]) -> list[str]:
    """A name for each noise: its own, and where several share it, with the options in which those differ."""
    names = []
    for part in noises:
        alike = [other.options for other in noises if other.use == part.use]
        apart = {key: v for key, v in part.options.items() if any(other.get(key) != v for other in alike)}
        options = said(plain(apart))
        names.append(f"{part.use} ({options})" if options else part.use)
    return names


def plain(value: Any) -> Any:
    """Options as JSON has them: parts become mappings with `use`."""
    if isinstance(value, Part):
        return {"use": value.use, **plain(value.options)}
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def said(options: Mapping[str, Any]) -> str:
    """Options as people write them: `scope=one_modality, modalities=text+audio`; those not set are left out."""
    return ", ".join(f"{key}={_words(value)}" for key, value in options.items() if value is not None)


def _words(value: Any) -> str:
    if isinstance(value, Mapping) and "use" in value:
        inner = said({key: v for key, v in value.items() if key != "use"})
        return f"{value['use']} ({inner})" if inner else value["use"]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_words(v)}" for key, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        if all(isinstance(v, int | float) for v in value):
            return f"{len(value)} numbers" if len(value) > 4 else "[" + ", ".join(map(_words, value)) + "]"
        return "+".join(map(_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
