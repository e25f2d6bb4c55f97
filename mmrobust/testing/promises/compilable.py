"""Promise `compilable`: `torch.compile` takes the component as one graph."""

from __future__ import annotations

import torch

from mmrobust.contracts import Component
from mmrobust.testing.check import check
from mmrobust.testing.comparing import forward, require_same
from mmrobust.testing.failures import Failed, explained, torch_is_quiet
from mmrobust.testing.subject import Subject


@check(Component, promise="compilable", slow=True)
def check_compile(subject: Subject) -> None:
    """torch.compile takes it as one graph and gives the same output.

    Compiled models train faster on a GPU; one component that breaks the graph slows all others down. (The check
    traces with backend "eager": it proves that the component is one graph, not that a code generator's kernels are
    right, which would take a minute.)
    """
    module, inputs = subject.ready()
    expected = forward(subject, module, inputs)
    torch.compiler.reset()
    try:
        with torch_is_quiet():
            compiled = forward(subject, torch.compile(module, backend="eager", fullgraph=True), inputs)
    except Exception as error:
        raise Failed("torch.compile(..., fullgraph=True) works", explained(error)) from error
    finally:
        torch.compiler.reset()
    require_same("the same output compiled", expected, compiled)
