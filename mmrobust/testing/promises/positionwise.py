"""Promise `positionwise`: each step is mapped on its own, wherever it stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmrobust.contracts import Encoder, GenericExtractor, SpecificExtractor, Stream, Streams
from mmrobust.testing.check import check
from mmrobust.testing.comparing import far, forward, require_same, run, training
from mmrobust.testing.failures import Failed
from mmrobust.testing.inputs import mapped
from mmrobust.testing.subject import Subject
from mmrobust.testing.surroundings import Inputs

Part = Encoder | GenericExtractor | SpecificExtractor


@check(Encoder, GenericExtractor, SpecificExtractor, promise="positionwise")
def check_positionwise(subject: Subject) -> None:
    """Each output step depends on the same input step alone, wherever it stands, and no notes are written.

    The component is then run once on the clean steps, as one long sample without padding, and once on the erased one,
    and each view and rate picks its steps from both by mask; every score of a sweep would be wrong if steps saw each
    other, their position, or another modality, or if the component wrote notes, which cannot be picked.
    """
    module, inputs = subject.ready()
    given = subject.arguments(module, inputs)
    with torch.no_grad():
        module(*given.values())
    if given["notes"]:
        raise Failed("no notes", f"it writes {', '.join(given['notes'])}")
    whole = mapped(inputs, lambda _, s: replace(s, mask=torch.ones_like(s.mask)))
    _any_place(subject, module, whole)
    _one_long_sample(subject, module, whole)
    _nothing_elsewhere(subject, module, whole)
    _erased_once(subject, module, inputs)


def _any_place(subject: Subject, module: Part, inputs: Inputs) -> None:
    """Fails unless steps in another order give the same steps in that order."""
    ((_, streams),) = inputs.items()
    random = torch.Generator().manual_seed(4)
    places = {key: torch.rand(s.mask.shape, generator=random).argsort(1).unsqueeze(-1) for key, s in streams.items()}

    def moved(key: str, stream: Stream) -> Stream:
        return replace(stream, x=stream.x.take_along_dim(places[key], 1))

    before, after = forward(subject, module, inputs), forward(subject, module, mapped(inputs, moved))
    for key, stream in before.items():
        if key not in places or stream.mask.shape != streams[key].mask.shape:
            raise Failed("a step out for each step in", f"'{key}' has other steps")
    expected = "steps in another order give the same steps in that order"
    require_same(expected, {key: moved(key, stream) for key, stream in before.items()}, after)


def _one_long_sample(subject: Subject, module: Part, inputs: Inputs) -> None:
    """Fails unless the steps of all samples, as one long sample, give the same steps."""

    def joined(_: str, stream: Stream) -> Stream:
        times = None if stream.times is None else stream.times.flatten(0, 1).unsqueeze(0)
        return Stream(stream.x.flatten(0, 1).unsqueeze(0), stream.mask.flatten(0, 1).unsqueeze(0), times)

    before, after = forward(subject, module, inputs), forward(subject, module, mapped(inputs, joined))
    expected = "the steps of all samples, as one long sample, give the same steps"
    require_same(expected, {key: joined(key, stream) for key, stream in before.items()}, after)


def _nothing_elsewhere(subject: Subject, module: Part, inputs: Inputs) -> None:
    """Fails unless a step of one modality changes nothing but itself."""
    ((group, streams),) = inputs.items()
    before = forward(subject, module, inputs)
    for key, stream in streams.items():
        changed = stream.map(lambda x: torch.cat([x[:, :-1], x[:, -1:] + 1], 1))
        after = forward(subject, module, {group: {**streams, key: changed}})
        for other, first in before.items():
            rest = slice(0, -1) if other == key else slice(None)
            gap = far(first.x[:, rest], after[other].x[:, rest])
            if gap:
                raise Failed(
                    "a step of one modality changes nothing but itself",
                    f"changing the last step of '{key}' changes '{other}' elsewhere by {gap}",
                )


def _erased_once(subject: Subject, module: Part, inputs: Inputs) -> None:
    """Fails unless picking from clean steps and one erased step gives what noisy input gives, with its gradients."""
    training(subject, module, inputs)
    ((_, streams),) = inputs.items()
    random = torch.Generator().manual_seed(5)
    gone = {key: s.mask & (torch.rand(s.mask.shape, generator=random) < 0.4) for key, s in streams.items()}
    clean = mapped(inputs, lambda _, s: replace(s, times=None))
    picked, noisy = run(subject, _Picked(module, gone), clean), run(subject, _Noisy(module, gone), clean)
    require_same("picked steps are what noisy input gives", noisy, picked)


class _Noisy(nn.Module):
    """The component with some steps of its input erased."""

    def __init__(self, part: Part, gone: dict[str, Tensor]) -> None:
        super().__init__()
        self.part, self.gone = part, gone

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return self.part({key: s.without(self.gone[key]) for key, s in streams.items()}, notes)


class _Picked(_Noisy):
    """The same, from one pass over the clean steps and a sample that is erased as a whole."""

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        both = {
            key: Stream(torch.cat([s.x, torch.zeros_like(s.x[:1])]), torch.cat([s.mask, torch.ones_like(s.mask[:1])]))
            for key, s in streams.items()
        }
        out = self.part(both, notes)
        return {
            key: Stream(torch.where(self.gone[key].unsqueeze(-1), s.x[-1:], s.x[:-1]), s.mask[:-1])
            for key, s in out.items()
        }
