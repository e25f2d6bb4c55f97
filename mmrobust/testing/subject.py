"""The component under test, and the words in which a check fails."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmrobust import registry
from mmrobust.contracts import Batch, Context, Outputs, Part, Progress, Stream, Streams
from mmrobust.errors import OptionError, UsageError, nearest
from mmrobust.registry.options import live
from mmrobust.registry.spec import KINDS, ComponentSpec
from mmrobust.testing.surroundings import Inputs, Surroundings, context_of, model_around, views_of


class Failed(AssertionError):
    """A check found what must not be.

    Args:
        expected: What should have been.
        came: What was.
    """

    def __init__(self, expected: str, came: str) -> None:
        super().__init__(f"expected: {expected}\ncame: {came}")
        self.expected = expected
        self.came = came


class NotApplicable(Exception):
    """A check has nothing to say of this component; the message says why."""


class Blocked(NotApplicable):
    """A check cannot run because a more basic one fails."""


#: What each check tries first, then what it falls back to where a component refuses with an `OptionError`.
BASES = (
    Surroundings(),
    *(Surroundings(sides=side) for side in ("specific", "generic")),
    Surroundings(task="classification"),
    Surroundings(pooled=True),
    *(Surroundings(pooled=True, sides=side) for side in ("specific", "generic")),
    Surroundings(aligned=True),
    *(Surroundings(aligned=True, sides=side) for side in ("specific", "generic")),
    Surroundings(sides="other"),
    Surroundings(pooled=True, sides="other"),
    Surroundings(task="multilabel"),
    Surroundings(task="classification", narrow=True),
)

Call = Callable[..., Any]


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
        """`base`, as `check_builds` finds it.

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
            except Exception as error:
                raise Failed(f"a {self.kind} that can be built with {around}", told(error)) from error
            else:
                return around
        came = "; ".join(f"with {around}: {error}" for error, around in refused.items())
        raise Failed(f"a {self.kind} that can be built in some surroundings", came)

    @property
    def counts(self) -> tuple[int, int]:
        """Fewest and most modalities it says it supports."""
        high = getattr(self.cls, "maximum", None)
        return getattr(self.cls, "minimum", 1), 8 if high is None else high

    def _build(self, around: Surroundings, seed: int = 0, changes: Mapping[str, Any] | None = None) -> Any:
        with quiet_random(seed):
            if self.kind == "dataset":
                return self.cls(**self.options)
            return self.cls(replace(self.context(around), **(changes or {})), **self.options)

    def build(self, around: Surroundings | None = None, seed: int = 0, changes: Mapping[str, Any] | None = None) -> Any:
        """A fresh component, with weights from `seed`, and fields of the context that differ for it.

        Raises:
            OptionError: It refuses these surroundings.
            Blocked: It refuses all surroundings, or cannot be built.
        """
        around = self.base if around is None else around
        return self._build(around, seed, changes)

    @cached_property
    def dataset(self) -> Any:
        """The dataset, opened once.

        Raises:
            Blocked: It cannot be opened.
        """
        return self.build()

    def context(self, around: Surroundings) -> Context:
        """What the house tells it."""
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
        """Made-up input for these surroundings."""
        return (around or self.base).inputs(self.kind, count, seed)

    def batch(self, count: int = 6, around: Surroundings | None = None, seed: int = 0) -> Batch:
        """A clean batch for a noise."""
        around = around or self.base
        return Batch.fresh(self.inputs(around, count, seed)["features"], around.label(count))

    def call(self, module: Call, inputs: Inputs, around: Surroundings | None = None) -> Streams:
        """Runs the component as the house does, padding zero where it looks.

        Returns:
            What it made, as streams with zero padding; a prediction is a stream of one step.
        """
        if self.kind == "objective":
            loss = module(*self.seen(module, inputs, around or self.base))
            return {"loss": Stream.pooled(loss.reshape(1, 1))}
        groups = {name: {key: s.zeroed() for key, s in streams.items()} for name, streams in inputs.items()}
        return {key: stream.zeroed() for key, stream in self.call_as_is(module, groups).items()}

    def call_as_is(self, module: Call, inputs: Inputs) -> Streams:
        """Runs a part of a model on these very tensors."""
        match self.kind:
            case "fusion":
                return {"fused": module(inputs["generic"], inputs["specific"], {})}
            case "head" | "discriminator":
                return {"output": Stream.pooled(module(inputs["stream"]["stream"]))}
            case _:
                return module(next(iter(inputs.values())), {})

    def seen(
        self, module: Any, inputs: Inputs, around: Surroundings, share: float | None = None
    ) -> tuple[Outputs, dict[str, Outputs], Progress]:
        """What an objective is given."""
        reads = getattr(module, "reads", ())
        views = views_of(self.model(around), inputs["features"], around, tuple(reads), share)
        return views["here"], views, Progress(1, torch.tensor(0.5))

    @cached_property
    def trouble(self) -> Failed | None:
        """What is wrong with a plain forward pass, if anything: most checks need one."""
        try:
            check_streams(self, self.call(self.build().eval(), self.inputs()), self.base, count=6)
        except Blocked:
            raise
        except Failed as failed:
            return failed
        except Exception as error:
            return Failed(f"a forward pass with {self.base}", told(error))
        return None

    def ready(self) -> tuple[Any, Inputs]:
        """A component in evaluation mode and input for it.

        Raises:
            Blocked: It cannot be built, or fails in a plain forward pass.
        """
        module = self.build()
        if self.kind == "noise":
            return module, {}
        if self.trouble is not None:
            raise Blocked("a plain forward pass fails, see check_output")
        return module.eval(), self.inputs()

    def try_in(self, around: Surroundings) -> None:
        """Builds the component in other surroundings and runs it, forward and backward.

        Raises:
            NotApplicable: It refuses them.
            Failed: It does not, and then fails.
        """
        self.ready()
        expected = f"it works with {around}, or refuses with an OptionError that says what it needs"
        try:
            module = self.build(around)
        except OptionError as error:
            raise NotApplicable(f"it refuses {around}: {error}") from None
        except Exception as error:
            raise Failed(expected, told(error)) from error
        try:
            out = self.call(module.eval(), self.inputs(around), around)
            check_streams(self, out, around, count=6)
            if any(stream.x.requires_grad for stream in out.values()):
                score(out).backward()
        except Failed:
            raise
        except Exception as error:
            raise Failed(expected, told(error)) from error


def check_streams(subject: Subject, out: Any, around: Surroundings, count: int) -> None:
    """Fails unless `out` is made of finite streams of `count` samples."""
    if not isinstance(out, dict):
        raise Failed("a dict of streams", f"a {type(out).__name__}")
    where = f"with {around}"
    for key, stream in out.items():
        if not isinstance(stream, Stream):
            raise Failed(f"'{key}' is a Stream {where}", f"a {type(stream).__name__}")
        x, mask = stream.x, stream.mask
        samples = 1 if subject.kind == "objective" else count
        if x.ndim != 3 or x.shape[0] != samples or not x.is_floating_point():
            raise Failed(f"'{key}' is float, of shape ({samples}, t, d) {where}", f"{tuple(x.shape)}, {x.dtype}")
        if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
            raise Failed(
                f"the mask of '{key}' is bool, of shape {tuple(x.shape[:2])}", f"{tuple(mask.shape)}, {mask.dtype}"
            )
        if not x[mask].isfinite().all():
            raise Failed(f"'{key}' is finite {where}", "NaN or infinity")


# Comparing


@dataclass
class Pass:
    """One pass forward and backward.

    Attributes:
        out: What came out.
        gradients: Of every parameter, and of every input at its real steps.
    """

    out: Streams
    gradients: dict[str, Tensor]


def score(out: Streams) -> Tensor:
    """A number that depends on every real value of every stream, each with its own weight, never on padding."""
    total = torch.zeros(())
    for key in sorted(out):
        real = out[key].x[out[key].mask]
        weights = torch.randn(real.shape, generator=torch.Generator().manual_seed(len(key)))
        total = total + (real * weights).sum()
    return total


def run(subject: Subject, module: Any, inputs: Inputs, around: Surroundings | None = None) -> Pass:
    """Forward and backward; the module's own gradients are cleared after."""
    leaves = {
        (group, key): s.x.clone().requires_grad_() for group, streams in inputs.items() for key, s in streams.items()
    }
    given = {
        group: {key: replace(s, x=leaves[group, key]) for key, s in streams.items()}
        for group, streams in inputs.items()
    }
    with quiet_random(3):
        out = subject.call(module, given, around)
    parameters = dict(module.named_parameters())
    wanted = [*leaves.values(), *parameters.values()]
    loss = score(out)
    found = torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else [None] * len(wanted)
    gradients = {}
    for ((group, key), _), gradient in zip(leaves.items(), found, strict=False):
        if gradient is not None:
            gradients[f"{group} '{key}'"] = gradient[inputs[group][key].mask]
    for name, gradient in zip(parameters, found[len(leaves) :], strict=True):
        if gradient is not None:
            gradients[f"parameter '{name}'"] = gradient
    return Pass({key: replace(s, x=s.x.detach()) for key, s in out.items()}, gradients)


def difference(a: Streams, b: Streams, tolerance: float = 1e-4) -> str:
    """Where two outputs differ at real steps; empty if nowhere."""
    if set(a) != set(b):
        return f"streams {', '.join(map(repr, a))} and then {', '.join(map(repr, b))}"
    for key in a:
        if not torch.equal(a[key].mask.sum(1), b[key].mask.sum(1)):
            return f"'{key}' has {a[key].mask.sum(1).tolist()} real steps and then {b[key].mask.sum(1).tolist()}"
        gap = far(a[key].x[a[key].mask], b[key].x[b[key].mask], tolerance)
        if gap:
            return f"'{key}' differs by {gap}"
    return ""


def far(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> str:
    """By how much two tensors differ, relative to their size; empty where they are as good as equal."""
    if a.shape != b.shape:
        return f"shape: {tuple(a.shape)} and then {tuple(b.shape)}"
    if not a.numel():
        return ""
    if not b.isfinite().all():
        return "NaN or infinity"
    gap = (a - b).abs().max().item()
    size = a.abs().max().item()
    return f"up to {gap:.2g} (values reach {size:.2g})" if gap > tolerance * size + 1e-6 else ""


def told(error: BaseException) -> str:
    """An exception in one line, with the place in the component that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    kit = Path(__file__).parent
    skipped = ("torch", "_pytest", "einops")
    own = [f for f in frames if Path(f.filename).parent != kit and not any(f"/{s}/" in f.filename for s in skipped)]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name})" if own else ""
    text = " ".join(str(error).split())
    text = text if len(text) <= 400 else text[:397] + "..."
    return f"{type(error).__name__}: {text}{place}"


@contextmanager
def quiet_random(seed: int) -> Iterator[None]:
    """The global random state is seeded inside and put back after."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield


def training(subject: Subject, module: Any, inputs: Inputs) -> Any:
    """Training mode without dropout, so that passes can be compared; evaluation mode if they are still random."""
    module.train()
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.eval()
        elif isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.0  # nn.LSTM, nn.MultiheadAttention
    with torch.no_grad():
        with quiet_random(1):
            first = subject.call(module, inputs)
        with quiet_random(2):
            second = subject.call(module, inputs)
    return module.eval() if difference(first, second) else module
