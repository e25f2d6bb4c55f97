"""Whole steps as CUDA graphs: captured once, then replayed with one launch instead of hundreds.

What enters a step (the drawn views) is copied to where the graph reads it; everything else that changes from step to
step, the learning rate and the optimizer's own counters, lies in tensors that the graph reads as well. Noise is drawn
outside, so any component may draw it as it likes; dropout draws from CUDA's own generator, which graphs know.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mmrobust.contracts import Batch, Progress

__all__ = ["Graphed"]

Inputs = Sequence[Mapping[str, Batch]]  # the drawn views of each batch of a step

_WARM = 3  # steps before a capture: kernels are chosen and the optimizer's state is made in them
_MOST = 4  # sizes of a batch that are captured; an epoch has two


@dataclass
class _Capture:
    """The graph of one size of batch, where it reads, and where it writes."""

    seen: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    leaves: list[Tensor] = field(default_factory=list)
    progress: Progress | None = None
    values: Tensor | None = None


class _Watched(Progress):
    """Notes that somebody reads the number of the epoch, which a graph would keep for ever."""

    def __getattribute__(self, name: str) -> Any:
        if name == "epoch":
            object.__setattr__(self, "read", True)
        return super().__getattribute__(name)


class Graphed:
    """A step that is captured as a CUDA graph after a few runs, and replayed from then on.

    Args:
        learn: One step; gives a tensor.
        forward: Its forward pass, which changes nothing.
        clear: Forgets the gradients of a step that broke off.
        log: Gets a line on why steps are not captured.
    """

    def __init__(
        self,
        learn: Callable[[Inputs, Progress], Tensor],
        forward: Callable[[Inputs, Progress], object],
        clear: Callable[[], None],
        log: Callable[[str], None],
    ) -> None:
        self.learn, self.forward, self.clear, self.log = learn, forward, clear, log
        self.captures: dict[Any, _Capture] = {}
        self.off = False
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, views: Inputs, progress: Progress) -> Tensor:
        """One step, whichever way."""
        if self.off:
            return self.learn(views, progress)
        if not self.captures and self._reads_epoch(views, progress):
            return self._give_up("an objective reads the number of the epoch", views, progress)
        leaves, order, spec = _apart(views)
        key = (order, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
        if key not in self.captures and len(self.captures) == _MOST:
            return self._give_up(f"batches come in more than {_MOST} sizes", views, progress)
        one = self.captures.setdefault(key, _Capture())
        if one.graph is None:
            one.seen += 1
            if one.seen <= _WARM:
                return self._beside(views, progress)
            try:
                self._capture(one, leaves, order, spec, progress)
            except RuntimeError as error:
                cause = str(error).strip().splitlines()[0]
                torch.cuda.synchronize()
                self.clear()
                return self._give_up(f"this step cannot be captured ({cause})", views, progress)
        assert one.graph is not None and one.progress is not None and one.values is not None
        for kept, leaf in zip(one.leaves, leaves, strict=True):
            kept.copy_(leaf)
        one.progress.fraction.copy_(progress.fraction)
        if one.progress.lr is not None and progress.lr is not None:
            one.progress.lr.copy_(progress.lr)
        one.graph.replay()
        return one.values.clone()

    def _beside(self, views: Inputs, progress: Progress) -> Tensor:
        """A step on another stream, as what is captured has to be run before."""
        stream = self._stream = self._stream or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            values = self.learn(views, progress)
        torch.cuda.current_stream().wait_stream(stream)
        return values

    def _capture(
        self, one: _Capture, leaves: list[Tensor], order: tuple[int, ...], spec: Any, progress: Progress
    ) -> None:
        """Captures a step; nothing is computed yet."""
        one.leaves = [leaf.clone() for leaf in leaves]
        lr = None if progress.lr is None else progress.lr.clone()
        one.progress = replace(progress, fraction=progress.fraction.clone(), lr=lr)
        views = pytree.tree_unflatten([one.leaves[i] for i in order], spec)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with _no_collection(), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            one.values = self.learn(views, one.progress)
        one.graph = graph

    def _reads_epoch(self, views: Inputs, progress: Progress) -> bool:
        watched = _Watched(progress.epoch, progress.fraction, progress.lr)
        device = progress.fraction.device
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            self.forward(views, watched)
        return "read" in vars(watched)

    def _give_up(self, why: str, views: Inputs, progress: Progress) -> Tensor:
        self.off = True
        self.captures.clear()
        self.log(f"train.graphs: {why}, so steps are not captured")
        return self.learn(views, progress)


def _apart(views: Inputs) -> tuple[list[Tensor], tuple[int, ...], Any]:
    """The tensors of some batches, shared ones once; which of them stands where; and how all is put together."""
    leaves, spec = pytree.tree_flatten(views)
    first: dict[int, int] = {}
    order = tuple(first.setdefault(id(leaf), len(first)) for leaf in leaves)
    return list({id(leaf): leaf for leaf in leaves}.values()), order, spec


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps Python from destroying an older graph in the middle of a capture, which would break it off."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
