"""Promise: losses are computed without a GPU waiting for the host, or the host for a GPU.

Seen without a GPU: torch's fake tensors say what would run there, and on which device each result would lie. (Not of a
backward pass: torch asks a real GPU for it.)
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmrobust import recipe as recipes
from mmrobust.contracts import Progress
from mmrobust.model.assemble import build

SMALL = ["data.train=16", "data.valid=4", "data.test=4", "data.length=8", "model.width=32"]


class Waits(TorchDispatchMode):
    """Notes every operation that needs to see a number of a GPU, or takes one to or from it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        devices = {x.device.type for x in [*args, out] if isinstance(x, Tensor)}
        looks = func.overloadpacket.__name__ == "_local_scalar_dense"  # `nonzero` and the like fake tensors refuse
        copies = func.overloadpacket.__name__ in ("_to_copy", "copy_") and len(devices) > 1
        if copies or (looks and "cuda" in devices):
            self.seen.append(str(func))
        return out


@pytest.mark.parametrize("recipe", ["normtr", "normtr_emotions"])
@pytest.mark.parametrize("schedule", ["constant", "ramp"])
def test_neither_waits_in_a_forward_pass(recipe: str, schedule: str) -> None:
    view = "learning.views.type_1.objectives"
    adversary = f"{{use: modality_adversary, schedule: {schedule}, discriminator: {{use: linear, pool: mean}}}}"
    built = build(recipes.load(recipe, [*SMALL, f"{view}=[task, {adversary}]"]))
    with FakeTensorMode(allow_non_fake_inputs=True):
        model, learning = built.model.to("cuda"), built.learning.to("cuda")
        batch = built.dataset.splits["train"].batch(torch.arange(8)).to("cuda")
        # Drawing needs a generator that lies on the GPU, which fake tensors do not have.
        erased = {m: torch.zeros_like(s.mask) for m, s in batch.features.items()}
        views = {name: batch.noisy(batch.features, erased) for name in learning.views}
        progress = Progress(0, torch.zeros((), device="cuda"))
        with Waits() as waits:
            total, _, _, _ = learning.compute(model, views, progress)
    assert total.device.type == "cuda"
    assert waits.seen == []


def test_waiting_would_be_seen() -> None:
    with FakeTensorMode(), Waits() as waits:
        x = torch.zeros(3, device="cuda")
        torch.as_tensor(1.0, device="cuda")
        x.cpu()
    assert waits.seen == ["aten._to_copy.default", "aten._to_copy.default"]
