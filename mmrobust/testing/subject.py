"""The component under test: how it is built and called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from mmrobust import registry
from mmrobust.contracts import Batch, Context, Noise, Part, Progress, Streams
from mmrobust.contracts.randomness import generator
from mmrobust.errors import OptionError, UsageError, nearest
from mmrobust.registry.options import live
from mmrobust.registry.spec import KINDS, ComponentSpec
from mmrobust.testing.comparing import quiet_random, run
from mmrobust.testing.failures import Blocked, Failed, NotApplicable, expecting, explained
from mmrobust.testing.outputs import as_streams, check_streams
from mmrobust.testing.surroundings import Inputs, Surroundings, context_of, model_around, views_of

#: What each check tries first, then what it falls back to where a component refuses with an `OptionError`.
BASES = (
    Surroundings(),
    *(Surroundings(sides=side) for side in ("specific", "generic")),
    Surroundings(task="classification"),
    Surroundings(joined=True),
    Surroundings(pooled=True),
    *(Surroundings(pooled=True, sides=side) for side in ("specific", "generic")),
    Surroundings(aligned=True),
    *(Surroundings(aligned=True, sides=side) for side in ("specific", "generic")),
    Surroundings(sides="other"),
    Surroundings(pooled=True, sides="other"),
    Surroundings(task="multilabel"),
    Surroundings(task="classification", narrow=True),
)


class Subject:
    """One component with the options it is tested with.

    Args:
        kind: Its kind, e.g. `fusion`.
        component: The name it is registered under (or `distribution/name`), or its class.
        expected_failures: Checks that are known to fail, and why; one that passes is then a failure.
        beside: For an objective that reads `notes`: the components of other slots that write them, e.g.
            `{"fusion": Part("translation_chain")}`.
        options: Its options.

    Raises:
        UsageError: There is no such kind.
    """

    def __init__(
        self,
        kind: str,
        component: str | type,
        *,
        expected_failures: Mapping[str, str] | None = None,
        beside: Mapping[str, Part[Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if kind not in KINDS:
            raise UsageError(f"there is no kind of component '{kind}'{nearest(kind, KINDS)}")
        self.kind = kind
        self.component = component
        self.options = dict(options or {})
        self.beside = dict(beside or {})
        self._expected = dict(expected_failures or {})
        self._models: dict[Surroundings, Any] = {}

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'"

    def having(self, options: Mapping[str, Any]) -> Subject:
        """The same component with further options."""
        return Subject(
            self.kind,
            self.component,
            expected_failures=self._expected,
            beside=self.beside,
            options={**self.options, **options},
        )

    @property
    def name(self) -> str:
        """The name it is known by."""
        return self.component if isinstance(self.component, str) else self.component.__name__

    @cached_property
    def spec(self) -> ComponentSpec:
        """What the registry knows of it."""
        if isinstance(self.component, str):
            return registry.catalogue().find(self.kind, self.component)
        cls = self.component
        target = f"{cls.__module__}:{cls.__qualname__.replace('<locals>.', '')}"
        if "<locals>" in cls.__qualname__ or cls.__module__ == "__main__":
            live.setdefault(target, cls)  # there is no source to read it from
        return ComponentSpec(self.kind, cls.__name__, target)

    @cached_property
    def cls(self) -> type[Any]:
        """Its class.

        Raises:
            PluginError: It cannot be imported.
        """
        return registry.load(self.spec) if isinstance(self.component, str) else self.component

    @property
    def expected_failures(self) -> dict[str, str]:
        """Declared by its class (`expected_failures`) and by the test."""
        return {**getattr(self.cls, "expected_failures", {}), **self._expected}

    # Building

    @property
    def base(self) -> Surroundings:
        """The surroundings that each check begins with: the first that the component does not refuse.

        Raises:
            Blocked: It refuses all of them, or cannot be built.
        """
        try:
            return self.settled
        except Failed:
            raise Blocked("it could not be built, see check_builds") from None

    @cached_property
    def settled(self) -> Surroundings:
        """`base`, for `check_builds`, which reports what is wrong.

        Raises:
            Failed: It refuses all of them, or cannot be built.
        """
        low, high = self.counts
        refused: dict[str, str] = {}
        for base in BASES:
            around = replace(base, modalities=min(max(3, low), high))
            try:
                self._build(around)
            except OptionError as error:
                refused.setdefault(str(error), str(around))
            except Failed:
                raise
            except Exception as error:
                raise Failed(f"a {self.kind} that can be built with {around}", explained(error)) from error
            else:
                return around
        came = "; ".join(f"with {around}: {error}" for error, around in refused.items())
        raise Failed(f"a {self.kind} that can be built in some surroundings", came)

    @property
    def counts(self) -> tuple[int, int]:
        """Fewest and most modalities it says it supports."""
        high = getattr(self.cls, "maximum", None)
        return getattr(self.cls, "minimum", 1), 8 if high is None else high

    def promises(self, name: str) -> bool:
        """Whether it makes a promise, with these options.

        Raises:
            Blocked: It cannot be built.
        """
        return bool(getattr(self.build(), name, False))

    def build(self, around: Surroundings | None = None, seed: int = 0) -> Any:
        """A fresh component, with weights from `seed`.

        Raises:
            OptionError: It refuses these surroundings.
            Blocked: It refuses all surroundings, or cannot be built.
        """
        return self._build(self.base if around is None else around, seed)

    def _build(self, around: Surroundings, seed: int = 0) -> Any:
        given = () if self.kind == "dataset" else (self.context(around),)
        component: Any = object.__new__(self.cls)
        with quiet_random(seed):
            try:
                component.__init__(*given, **self.options)
            except AttributeError as error:
                if not _initialised(component):
                    raise Failed("super().__init__(context) as the first line of __init__", explained(error)) from error
                raise
        if not _initialised(component):
            raise Failed("super().__init__(context) as the first line of __init__", "it is never called")
        return component

    @cached_property
    def dataset(self) -> Any:
        """The dataset, opened once.

        Raises:
            Blocked: It cannot be opened.
        """
        return self.build()

    def context(self, around: Surroundings) -> Context:
        """The context that it is built with."""
        if self.kind == "objective":
            return context_of(around, self.model(around))
        return around.context(self.kind)

    def model(self, around: Surroundings) -> Any:
        """The small model whose outputs an objective reads."""
        if around not in self._models:
            with quiet_random(1):
                self._models[around] = model_around(around, self.beside).eval()
        return self._models[around]

    # Running

    def inputs(self, around: Surroundings | None = None, count: int = 6, seed: int = 0) -> Inputs:
        """Random input for these surroundings."""
        return (around or self.base).inputs(self.kind, count, seed)

    def batch(self, count: int = 6) -> Batch:
        """A clean batch for a noise."""
        return Batch.fresh(self.inputs(count=count)["features"], self.base.label(count))

    def call(self, module: Callable[..., Any], inputs: Inputs, around: Surroundings | None = None) -> Streams:
        """Runs the component as mmrobust does, with padding zero where it looks.

        Returns:
            Its output as streams with zero padding; a prediction and a loss are streams of one step, and so that a
            noise is seen whole, `erased` of each modality is a stream, too.

        Raises:
            Failed: It returned something of another type or shape.
        """
        groups = {group: {key: s.zeroed() for key, s in streams.items()} for group, streams in inputs.items()}
        given = self.arguments(module, groups, around)
        out = as_streams(self.kind, module(*given.values()), given)
        return {key: stream.zeroed() for key, stream in out.items()}

    def arguments(
        self, module: Any, inputs: Inputs, around: Surroundings | None = None, share: float | None = None
    ) -> dict[str, Any]:
        """The arguments of a call by name, made of these very tensors.

        Args:
            module: The component.
            inputs: What flows into it.
            around: The surroundings; `base` by default.
            share: For an objective: how much of every modality is erased; None for a mixture.
        """
        around = around or self.base
        match self.kind:
            case "objective":
                reads = tuple(getattr(module, "reads", ()))
                views = views_of(self.model(around), inputs["features"], around, reads, share)
                missing = ", ".join(name for name in getattr(module, "needs", ()) if name not in views["here"].notes)
                if missing:
                    expected = (
                        f"a part beside it that writes the notes {missing}: --beside SLOT=NAME, or beside={{...}}"
                    )
                    raise Failed(expected, "there is none")
                progress = Progress(1, torch.tensor(0.5), torch.tensor(1e-3))
                return {"out": views["here"], "views": views, "progress": progress}
            case "noise":
                features = inputs["features"]
                batch = Batch.fresh(features, around.label(len(next(iter(features.values())).x)))
                return {"batch": batch, "rate": 0.5, "generator": generator(3)}
            case "fusion":
                return {**inputs, "notes": {}}
            case "head" | "discriminator":
                return dict(inputs["stream"])
            case _:
                return {"streams": next(iter(inputs.values())), "notes": {}}

    @cached_property
    def trouble(self) -> Failed | None:
        """What is wrong with a plain forward pass, if anything: most checks need one."""
        try:
            module = self.build()
            check_streams(self.kind, self.call(evaluated(module), self.inputs()), self.base, count=6)
        except Blocked:
            raise
        except Failed as failed:
            return failed
        except Exception as error:
            return Failed(f"a forward pass with {self.base}", explained(error))
        return None

    def ready(self) -> tuple[Any, Inputs]:
        """A component in evaluation mode and input for it.

        Raises:
            Blocked: It cannot be built, or fails in a plain forward pass.
        """
        module = self.build()
        if self.trouble is not None:
            raise Blocked("a plain forward pass fails, see check_output")
        return evaluated(module), self.inputs()

    def try_in(self, around: Surroundings) -> None:
        """Builds the component in other surroundings and runs it, forward and backward.

        Raises:
            NotApplicable: It refuses them.
            Failed: It does not, and then fails.
        """
        self.ready()
        with expecting(f"it works with {around}, or refuses with an OptionError that says what it needs"):
            try:
                module = evaluated(self.build(around))
            except OptionError as error:
                raise NotApplicable(f"it refuses {around}: {error}") from None
            check_streams(self.kind, run(self, module, self.inputs(around), around).out, around, count=6)


def evaluated(component: Any) -> Any:
    """The component in evaluation mode, if it has one."""
    return component.eval() if isinstance(component, nn.Module) else component


def _initialised(component: Any) -> bool:
    """Whether the base class's `__init__` has run."""
    if isinstance(component, nn.Module):
        return "_modules" in vars(component)
    return not isinstance(component, Noise) or "modalities" in vars(component)
