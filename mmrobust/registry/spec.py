"""What the registry knows of a component before anything of it is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

#: Every kind of component and the base class in `mmrobust.contracts` that fixes it.
KINDS: dict[str, str] = {
    "dataset": "Dataset",
    "noise": "Noise",
    "encoder": "Encoder",
    "generic_extractor": "GenericExtractor",
    "specific_extractor": "SpecificExtractor",
    "fusion": "Fusion",
    "head": "Head",
    "discriminator": "Discriminator",
    "objective": "Objective",
}


@dataclass(frozen=True)
class Part(Generic[T]):
    """What a recipe says of one component: its name and its options.

    As the type of a component's option (`discriminator: Part[Discriminator] = Part("linear")`) it makes that option
    a slot of its own; the component turns it into the real thing with `Context.make`.

    Attributes:
        use: The name the component is registered under, or `distribution/name`.
        options: Its options as the recipe gives them.
    """

    use: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ComponentSpec:
    """One registered component.

    Attributes:
        kind: A key of `KINDS`.
        name: What recipes call it.
        target: `package.module:Class`, imported only when the component is built.
        summary: One line for lists.
        distribution: The distribution that brought it, e.g. `mmrobust` or `mmrobust-gated`.
        version: That distribution's version.
    """

    kind: str
    name: str
    target: str
    summary: str = ""
    distribution: str = ""
    version: str = ""

    @property
    def qualified(self) -> str:
        """`distribution/name`, which is never ambiguous."""
        return f"{self.distribution}/{self.name}"
