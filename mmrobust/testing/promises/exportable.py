"""Promise `exportable`: `torch.export` takes the component, with a batch of any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmrobust.contracts import Encoder, Fusion, GenericExtractor, Head, SpecificExtractor, Stream
from mmrobust.testing.check import check
from mmrobust.testing.comparing import forward, quiet_random, require_same
from mmrobust.testing.failures import Failed, explained, torch_is_quiet
from mmrobust.testing.subject import Subject
from mmrobust.testing.surroundings import Inputs


@check(Encoder, GenericExtractor, SpecificExtractor, Fusion, Head, promise="exportable", slow=True)
def check_export(subject: Subject) -> None:
    """torch.export takes it with a batch of any size and gives the same output.

    `mmrobust export` writes models that run without this toolkit, on a phone or a server, with batches of any size.
    """
    module, inputs = subject.ready()
    size = torch.export.Dim.DYNAMIC
    shapes = lambda s: [{0: size}] * (2 if s.times is None else 3)
    dynamic = {group: {key: shapes(s) for key, s in streams.items()} for group, streams in inputs.items()}
    other = subject.inputs(count=3, seed=5)
    try:
        with quiet_random(0), torch_is_quiet(), torch.no_grad():
            program = torch.export.export(
                _Exported(subject, module), (inputs,), dynamic_shapes=(dynamic,), strict=False
            ).module()
            torch.manual_seed(3)
            exported = {key: Stream(x, mask) for key, (x, mask) in program(other).items()}
    except Exception as error:
        came = explained(error)
        if "onstraints violated" in came:
            came = "the traced program works for one batch size; something goes by the number x.shape[0]"
        raise Failed("torch.export.export works with a batch of any size", came) from error
    require_same("the exported program gives the same output", forward(subject, module, other), exported)


class _Exported(nn.Module):
    """A component with tensors alone as output, as an exported model has."""

    def __init__(self, subject: Subject, module: nn.Module) -> None:
        super().__init__()
        self.subject, self.module = (subject,), module

    def forward(self, inputs: Inputs) -> Any:
        out = self.subject[0].call(self.module, inputs)
        return {key: (stream.x, stream.mask) for key, stream in out.items()}
