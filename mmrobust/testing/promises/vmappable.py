"""Promise `vmappable`: several sets of weights run as one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from mmrobust.contracts import Component
from mmrobust.testing.check import check
from mmrobust.testing.comparing import forward, quiet_random, require_same, training
from mmrobust.testing.failures import expecting
from mmrobust.testing.subject import Subject


@check(Component, promise="vmappable")
def check_vmappable(subject: Subject) -> None:
    """Two sets of weights run as one under torch.func.vmap and give what each gives alone.

    Several seeds can then be trained as one model, on a GPU for little more than the price of one.
    """
    _, inputs = subject.ready()
    pair = [training(subject, subject.build(seed=seed), inputs) for seed in (1, 2)]
    alone = [forward(subject, part, inputs) for part in pair]

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], _: Tensor) -> Any:
        return subject.call(_Bound(pair[0], (parameters, buffers)), inputs)

    with expecting("two sets of weights run under torch.func.vmap"), quiet_random(3), torch.no_grad():
        parameters, buffers = stack_module_state(pair)
        stacked = torch.func.vmap(one, randomness="same")(parameters, buffers, torch.zeros(2))
    for i, single in enumerate(alone):
        require_same(
            "vmap gives what each set of weights gives alone",
            single,
            {key: replace(s, x=s.x[i], mask=s.mask[i]) for key, s in stacked.items()},
        )


class _Bound:
    """A module with other weights."""

    def __init__(self, module: nn.Module, state: Any) -> None:
        self.module, self.state = module, state
        self.reads, self.needs = getattr(module, "reads", ()), getattr(module, "needs", ())

    def __call__(self, *args: Any) -> Any:
        return functional_call(self.module, self.state, args)
