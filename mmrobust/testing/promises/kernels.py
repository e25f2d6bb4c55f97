"""Rule: other attention kernels and other number formats give the same, or nearly."""

from __future__ import annotations

from contextlib import suppress

import torch

from mmrobust.contracts import Component
from mmrobust.nn.attention import BACKENDS, Unusable, use_attention
from mmrobust.testing.check import check
from mmrobust.testing.comparing import quiet_random, require_same, run
from mmrobust.testing.failures import Failed, expecting
from mmrobust.testing.inputs import gaps
from mmrobust.testing.subject import Subject


@check(Component)
def check_attention(subject: Subject) -> None:
    """Every attention backend that can run here gives what the manual one gives, values and gradients.

    Fused kernels are fast and treat masks and empty rows in their own ways; a run on another machine must not give
    another table. (A component that uses no attention passes.)
    """
    module, inputs = subject.ready()
    passes = {}
    for backend in BACKENDS:
        with use_attention(backend), suppress(Unusable):  # not on this machine, or not for such shapes
            passes[backend] = [run(subject, module, given) for given in (inputs, *gaps(inputs)[:1])]
    for backend, others in passes.items():
        for reference, other in zip(passes["manual"], others, strict=True):
            if not all(s.x.isfinite().all() for s in reference.out.values()):
                continue  # reported by check_missing_modality
            require_same(f"backend '{backend}' gives what 'manual' gives", reference, other)


@check(Component)
def check_autocast(subject: Subject) -> None:
    """Under bfloat16 autocast it runs, forward and backward, and stays finite.

    `train: {precision: bf16}` is an option of every recipe; a tensor made with a fixed dtype, or a mask filled with
    -1e9, fails there.
    """
    module, inputs = subject.ready()
    with expecting("it runs under torch.autocast(..., torch.bfloat16)"):
        with torch.autocast("cpu", torch.bfloat16), quiet_random(1):
            out = subject.call(module, inputs)
            loss = torch.stack([s.x.float().square().mean() for s in out.values()]).sum() if out else torch.zeros(())
        if loss.requires_grad:
            loss.backward()
    if not loss.isfinite():
        raise Failed("finite values under torch.autocast(..., torch.bfloat16)", "NaN or infinity")
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise Failed("finite gradients under bfloat16 autocast", f"NaN or infinity for '{name}'")
