"""Checks of everything that is trained: encoders, extractors, fusions, heads, discriminators and objectives.

The first sentence of each docstring is what must hold; the rest is why it matters to a user.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from mmrobust.accel.packing import Kept
from mmrobust.contracts import Outputs, Shape, Stream
from mmrobust.errors import OptionError
from mmrobust.nn.attention import BACKENDS, Unusable, use_attention
from mmrobust.testing.subject import (
    Failed,
    NotApplicable,
    Subject,
    check_streams,
    difference,
    far,
    quiet_random,
    run,
    told,
    training,
)
from mmrobust.testing.surroundings import Inputs, Surroundings


def check_output(subject: Subject) -> None:
    """What `forward` returns has the shapes that the component declares, and is finite.

    The house builds the next part from the declared shapes; where they are wrong, a recipe that combines this
    component with another one fails far from the cause.
    """
    module = subject.build().eval()
    if subject.trouble is not None:
        raise subject.trouble
    with quiet_random(0), torch.no_grad():
        out = subject.call(module, subject.inputs())
    match subject.kind:
        case "encoder" | "generic_extractor" | "specific_extractor":
            declared = getattr(module, "shapes", None)
            if not isinstance(declared, dict) or not all(isinstance(s, Shape) for s in declared.values()):
                raise Failed("self.shapes, a dict of Shape, set in __init__", repr(declared))
        case "fusion":
            shape = getattr(module, "shape", None)
            if not isinstance(shape, Shape):
                raise Failed("self.shape, a Shape, set in __init__", repr(shape))
            declared = {"fused": shape}
        case "objective":
            declared = {"loss": Shape(1, 1)}
        case _:
            outputs = subject.context(subject.base).outputs
            assert outputs is not None
            declared = {"output": Shape(outputs, 1)}
    if subject.kind == "encoder" and set(declared) != set(subject.base.names):
        raise Failed(f"streams for {', '.join(subject.base.names)}", f"self.shapes has {', '.join(declared)}")
    if set(out) != set(declared):
        raise Failed(f"streams {', '.join(declared) or 'none'}, as declared", f"{', '.join(out) or 'none'}")
    for key, shape in declared.items():
        width, steps = out[key].x.shape[2], out[key].x.shape[1]
        if width != shape.width or steps > shape.length:
            raise Failed(
                f"'{key}' is {shape.width} wide and at most {shape.length} steps long, as declared",
                f"{width} wide and {steps} steps long",
            )


def check_one_sample(subject: Subject) -> None:
    """A batch of one sample works.

    The last batch of an epoch may hold one sample, and so may a file for `mmrobust predict`; a stray `squeeze()`
    fails there, hours into a run.
    """
    module, _ = subject.ready()
    try:
        out = subject.call(module, subject.inputs(count=1))
        check_streams(subject, out, subject.base, count=1)
    except Failed as failed:
        raise Failed("a batch of one sample works", failed.came) from failed
    except Exception as error:
        raise Failed("a batch of one sample works", told(error)) from error


def check_gradients(subject: Subject) -> None:
    """Every parameter receives a gradient, and so does something that came in.

    A parameter without one is never trained: a layer that was built and forgotten, or a `detach()` too many. The run
    looks well and the score is that of another model.
    """
    module, inputs = subject.ready()
    training(subject, module, inputs)
    if subject.kind == "objective":
        _update(subject, module, inputs)  # memory that starts at zero may hide something, too
    with torch.no_grad(), quiet_random(11):
        for parameter in module.parameters():
            if not parameter.any():  # a zero initialisation may hide what lies before it, until the first step
                parameter.add_(0.05 * torch.randn_like(parameter))
    alive: set[str] = set()
    dead: list[str] = []
    for given in (inputs, *_gaps(inputs)):
        gradients = run(subject, module, given).gradients
        for name, gradient in gradients.items():
            if given is inputs and not gradient.isfinite().all():
                raise Failed("finite gradients", f"NaN or infinity in the gradient of {name}")
        alive |= {name for name, gradient in gradients.items() if gradient.any()}
        dead = [n for n, p in module.named_parameters() if p.requires_grad and f"parameter '{n}'" not in alive]
        if not dead:
            break
    if dead:
        raise Failed("a gradient for every parameter", f"none for {', '.join(map(repr, dead))}")
    reaches = any(not name.startswith("parameter") for name in alive)
    if subject.kind != "objective" and not reaches and subject.call(module, inputs):
        raise Failed("a gradient for at least one input", "none: training stops here")


def check_modality_order(subject: Subject) -> None:
    """The order of the modalities' dict changes nothing.

    A component that goes by the dict's order gives other numbers when somebody lists the modalities differently, or
    loads a checkpoint beside a file with another order. Remember the keys in `__init__` and go by them.
    """
    module, inputs = subject.ready()
    if all(len(streams) < 2 for streams in inputs.values()):
        raise NotApplicable("there is only one stream")
    turned = {group: dict(reversed(streams.items())) for group, streams in inputs.items()}
    try:
        first, second = _forward(subject, module, inputs), _forward(subject, module, turned)
    except Exception as error:
        raise Failed("the same output for dicts in any order", told(error)) from error
    gap = difference(first, second)
    if gap:
        raise Failed("the same output for dicts in any order", gap)


def check_eval_deterministic(subject: Subject) -> None:
    """In evaluation mode the same input gives the same output, bit for bit, and no random number is drawn.

    Otherwise evaluating a checkpoint twice gives two scores, and neither can be reproduced.
    """
    module, inputs = subject.ready()
    with torch.no_grad():
        with quiet_random(1):
            first = subject.call(module, inputs)
            drawn = torch.initial_seed() != 1 or not torch.equal(
                torch.get_rng_state(), torch.Generator().manual_seed(1).get_state()
            )
        with quiet_random(2):
            second = subject.call(module, inputs)
    for key in first:
        if not torch.equal(first[key].x, second[key].x):
            gap = far(first[key].x, second[key].x, 0) or "the last bits"
            raise Failed("the same output twice in evaluation mode", f"'{key}' differs by {gap}")
    if drawn:
        raise Failed("no random number is drawn in evaluation mode", "the global random state has moved on")


def check_pure(subject: Subject) -> None:
    """`forward` changes nothing: no input, no buffer, no attribute of the module.

    Views share one forward pass or not, gradients are accumulated or not; memory that changes in `forward` counts
    differently each time, and a tensor kept on the module keeps a whole batch's graph in memory. Side values go into
    `notes`; an objective's memory changes in `update`; running statistics of torch's batch norms are exempt.
    """
    module, inputs = subject.ready()
    module.train()
    exempt = {
        f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._NormBase)
        for name, _ in part.named_buffers(recurse=False)
    }
    state = {name: value.clone() for name, value in module.state_dict().items() if name not in exempt}
    attributes = _attributes(module)
    with quiet_random(1):
        given = {
            group: {key: replace(s, x=s.x.clone(), mask=s.mask.clone()) for key, s in streams.items()}
            for group, streams in inputs.items()
        }
        if subject.kind == "objective":
            seen = subject.seen(module, given, subject.base)
            before = _values(seen[1])
            module(*seen)
            given_before, given_after = before, _values(seen[1])
        else:
            # What the component is handed, not a tidied copy of it.
            given_before = _values(given)
            with torch.no_grad():
                subject.call_as_is(module, given)
            given_after = _values(given)
    for name, value in given_before.items():
        if name not in given_after or not _same(value, given_after[name]):
            raise Failed("the input is left as it was", f"{name} has changed")
    for name in given_after.keys() - given_before.keys():
        raise Failed("the input is left as it was", f"{name} has appeared")
    for name, value in module.state_dict().items():
        if name not in exempt and not _same(state[name], value):
            raise Failed("no buffer changes in forward", f"'{name}' has changed")
    for name, value in _attributes(module).items():
        if attributes.get(name) != value:
            raise Failed("no attribute of the module changes in forward", f"'{name}' has changed")


def check_state(subject: Subject) -> None:
    """The state_dict goes through safetensors and gives the same output in a fresh component.

    Checkpoints are safetensors. What is not in the state_dict (a random tensor kept as a plain attribute, say) is
    lost on saving: the evaluation of a loaded checkpoint then scores like an untrained model.
    """
    module, inputs = subject.ready()
    if subject.kind == "objective":
        _update(subject, module, inputs)
    with torch.no_grad(), quiet_random(5):
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # as training would
    state = module.state_dict()
    try:
        stored = save_tensors({name: value.contiguous() for name, value in state.items()})
    except Exception as error:
        raise Failed("a state_dict of separate tensors that safetensors can hold", told(error)) from error
    fresh = subject.build(seed=9).eval()
    try:
        fresh.load_state_dict(load_tensors(stored))
    except Exception as error:
        raise Failed("a fresh component takes the state_dict", told(error)) from error
    gap = difference(_forward(subject, module, inputs), _forward(subject, fresh, inputs))
    if gap:
        raise Failed("the same output after saving and loading", gap + "; is there a tensor that is not in the state?")


def check_padding(subject: Subject) -> None:
    """What stands in padding, NaN included, and how much of it there is changes nothing: no value, no gradient.

    Batches are padded to a common length. A component that reads padding makes the score of a sample depend on how
    long the others are. (The house sets padding to zero wherever a component looks, so `x / x.norm()` there is 0 / 0:
    it is masked in the output and still turns every gradient into NaN.)
    """
    module, inputs = subject.ready()
    longest = {key: s.x.shape[1] + 1 for streams in inputs.values() for key, s in streams.items()}
    if all(s.mask.all() for streams in inputs.values() for s in streams.values()):
        raise NotApplicable("its streams have one step, so there is no padding")
    longer = {group: {key: _padded(s, longest[key]) for key, s in streams.items()} for group, streams in inputs.items()}
    first = run(subject, module, inputs)
    expected = "more padding, with NaN in it, changes nothing"
    try:
        second = run(subject, module, longer)
    except Exception as error:
        raise Failed(expected, told(error)) from error
    gap = difference(first.out, second.out)
    if gap:
        raise Failed(expected, gap)
    for name, gradient in first.gradients.items():
        if not gradient.isfinite().all():
            raise Failed("finite gradients where there is padding", f"NaN or infinity in the gradient of {name}")
        if name not in second.gradients:
            raise Failed(expected, f"the gradient of {name} is gone")
        gap = far(gradient, second.gradients[name])
        if gap:
            raise Failed(expected, f"the gradient of {name} differs by {gap}")


def check_missing_modality(subject: Subject) -> None:
    """A modality that is wholly masked, wholly erased, or missing in every sample gives finite values and gradients.

    At rate 1 every step of a modality is zero, and some clips have no face or no speech at all. One NaN from one such
    sample destroys the weights of the whole model.
    """
    module, inputs = subject.ready()
    cases = _gaps(inputs)
    for case in cases:
        try:
            passed = run(subject, module, case)
        except Exception as error:
            raise Failed("samples without a modality work", told(error)) from error
        for key, stream in passed.out.items():
            if not stream.x.isfinite().all():
                raise Failed("finite output where a modality is missing", f"NaN or infinity in '{key}'")
        for name, gradient in passed.gradients.items():
            if not gradient.isfinite().all():
                raise Failed("finite gradients where a modality is missing", f"NaN or infinity for {name}")


def check_modality_counts(subject: Subject) -> None:
    """One, two, three and four modalities work, or `minimum` and `maximum` say which do.

    RML has two modalities and an ablation over modalities has one; a component that takes three for granted has to
    say so before the data is read.
    """
    subject.ready()
    low, high = subject.counts
    for count in [n for n in (1, 2, 3, 4) if low <= n <= high]:
        around = replace(subject.base, modalities=count)
        expected = (
            f"{count} modalities work, as minimum = {low} and maximum = {getattr(subject.cls, 'maximum', None)} say"
        )
        try:
            module = subject.build(around).eval()
            check_streams(subject, subject.call(module, subject.inputs(around), around), around, count=6)
        except OptionError as error:
            raise Failed(expected, f"refused: {error}") from error
        except Failed as failed:
            raise Failed(expected, failed.came) from failed
        except Exception as error:
            raise Failed(expected, told(error)) from error


def check_unequal_lengths(subject: Subject) -> None:
    """Modalities of different lengths work, or are refused by an OptionError.

    Unaligned MOSI has 50, 375 and 500 steps. A component that stacks modalities has to say that it needs equal
    lengths, in words that tell what to do, not with a traceback.
    """
    subject.try_in(replace(subject.base, unequal=True))


def check_unequal_widths(subject: Subject) -> None:
    """Streams of different widths work, or are refused by an OptionError.

    With `encoder: none` each modality keeps its own width, and the extractors' widths are two options of a recipe.
    """
    variants = ["modalities"] + ["sides"] * (subject.kind in ("fusion", "objective") and subject.base.sides == "both")
    _each(subject, [replace(subject.base, widths=widths) for widths in variants])


def check_one_side(subject: Subject) -> None:
    """Generic or specific features alone work, or are refused by an OptionError.

    Ablations take one extractor away (`generic_extractor: none`); the other dict is then empty.
    """
    _each(subject, [replace(subject.base, sides=side) for side in ("generic", "specific")])


def check_other_keys(subject: Subject) -> None:
    """Generic features under a key that is no modality work, or are refused by an OptionError.

    MFM has one common factor instead of a stream for each modality; keys come from `context.generic`, not from
    `context.modalities`.
    """
    subject.try_in(replace(subject.base, sides="other"))


def check_pooled(subject: Subject) -> None:
    """Streams of one step work, or are refused by an OptionError.

    Pooled features (the last state of an LSTM, one vector for a clip) are streams of one step.
    """
    subject.try_in(replace(subject.base, pooled=True))


def check_tasks(subject: Subject) -> None:
    """Regression, classification and several yes-or-no decisions work, or are refused by an OptionError.

    MOSI, RML and IEMOCAP are one of each, and one recipe is used for all of them.
    """
    tasks = ("regression", "classification", "multilabel")
    _each(subject, [replace(subject.base, task=task) for task in tasks if task != subject.base.task])


def check_samplewise(subject: Subject) -> None:
    """If `samplewise` is promised, a batch gives each sample what any other batch gives it.

    Views then share one forward pass; with batch statistics in it, each view would be normalised by the other's noise.
    """
    module, inputs = subject.ready()
    if not module.samplewise:
        raise NotApplicable("it declares samplewise = False")
    training(subject, module, inputs)
    whole = _forward(subject, module, inputs)
    for part in (slice(0, 2), slice(2, 6)):
        alone = _forward(subject, module, _cut(inputs, part))
        gap = difference({key: _rows(s, part) for key, s in whole.items()}, alone)
        if gap:
            raise Failed("the same output in a smaller batch; else declare samplewise = False", gap)


def check_positionwise(subject: Subject) -> None:
    """If `positionwise` is promised, each output step depends on the same input step alone, wherever it stands.

    The house then runs the component once on the clean steps, as one long sample without padding, and once on the
    erased one, and picks by mask; every score of a sweep would be wrong if steps saw each other, their position, or
    another modality, or if the component wrote notes, which cannot be picked.
    """
    module, inputs = subject.ready()
    if not module.positionwise:
        raise NotApplicable("it does not declare positionwise = True")
    (group, streams), *_ = inputs.items()
    notes: dict[str, Any] = {}
    with torch.no_grad(), quiet_random(3):
        module({key: s.zeroed() for key, s in streams.items()}, notes)
    if notes:
        raise Failed("no notes; else do not declare positionwise = True", f"it writes {', '.join(notes)}")
    whole = {key: replace(s, mask=torch.ones_like(s.mask)) for key, s in streams.items()}
    before = _forward(subject, module, {group: whole})
    generator = torch.Generator().manual_seed(4)
    places = {key: torch.rand(s.mask.shape, generator=generator).argsort(1) for key, s in whole.items()}
    after = _forward(subject, module, {group: {key: _placed(s, places[key]) for key, s in whole.items()}})
    expected = "steps in another order give the same steps in that order; else do not declare positionwise = True"
    for key, stream in before.items():
        if key not in places or stream.mask.shape != places[key].shape:
            raise Failed(
                "a step out for each step in; else do not declare positionwise = True", f"'{key}' has other steps"
            )
        gap = far(_placed(stream, places[key]).x, after[key].x)
        if gap:
            raise Failed(expected, f"'{key}' differs by {gap}")
    one = lambda x: x.flatten(0, 1).unsqueeze(0)
    joined = {
        key: Stream(one(s.x), one(s.mask), None if s.times is None else one(s.times)) for key, s in whole.items()
    }
    after = _forward(subject, module, {group: joined})
    for key, stream in before.items():
        gap = far(one(stream.x), after[key].x)
        if gap:
            raise Failed(
                "the steps of all samples, as one long sample, give the same steps; else do not declare "
                "positionwise = True",
                f"'{key}' differs by {gap}",
            )
    changed = {key: replace(s, x=torch.cat([s.x[:, :-1], s.x[:, -1:] + 1], 1)) for key, s in whole.items()}
    for key in whole:
        after = _forward(subject, module, {group: {**whole, key: changed[key]}})
        for other, stream in before.items():
            gap = far(
                stream.x[:, :-1] if other == key else stream.x,
                after[other].x[:, :-1] if other == key else after[other].x,
            )
            if gap:
                raise Failed(
                    "a step of one modality changes nothing but itself; else do not declare positionwise = True",
                    f"changing the last step of '{key}' changes '{other}' elsewhere by {gap}",
                )


def check_erased_token(subject: Subject) -> None:
    """If `positionwise` is promised, picking erased steps gives what noisy input gives, values and gradients.

    That is what training does with it: the component sees clean steps and one erased sample, in training mode, and
    each view picks its steps from both.
    """
    module, inputs = subject.ready()
    if not module.positionwise:
        raise NotApplicable("it does not declare positionwise = True")
    training(subject, module, inputs)
    (group, streams), *_ = inputs.items()
    random = torch.Generator().manual_seed(5)
    gone = {key: s.mask & (torch.rand(s.mask.shape, generator=random) < 0.4) for key, s in streams.items()}

    class Picked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = module

        def forward(self, streams: Any, notes: dict[str, Any]) -> Any:
            one = lambda s: Stream(
                torch.cat([s.x, torch.zeros_like(s.x[:1])]), torch.cat([s.mask, torch.ones_like(s.mask[:1])])
            )
            made = self.part({key: one(s) for key, s in streams.items()}, notes)
            if not set(made) <= set(gone):
                raise NotApplicable("its streams are not those that came in")
            pick = lambda s, gone: Stream(torch.where(gone.unsqueeze(-1), s.x[-1:], s.x[:-1]), s.mask[:-1])
            return {key: pick(s, gone[key]) for key, s in made.items()}

    class Noisy(Picked):
        def forward(self, streams: Any, notes: dict[str, Any]) -> Any:
            return self.part({key: s.without(gone[key]) for key, s in streams.items()}, notes)

    clean = {group: {key: replace(s, times=None) for key, s in streams.items()}}
    expected = "picked steps are what noisy input gives; else do not declare positionwise = True"
    picked, noisy = run(subject, Picked(), clean), run(subject, Noisy(), clean)
    gap = difference(noisy.out, picked.out)
    for name, gradient in noisy.gradients.items():
        other = picked.gradients.get(name, torch.zeros(0))
        gap = gap or ((found := far(gradient, other)) and f"the gradient of {name} differs by {found}")
    if gap:
        raise Failed(expected, gap)


def check_prepared(subject: Subject) -> None:
    """If a fusion is split, `attend` after `prepare` is `forward`, and `prepare` looks at each step alone.

    The house then prepares clean and erased steps once and picks by mask, as `prepared` says; every score of a sweep
    would be wrong if steps met before `attend`. What it hands over has `x` and `mask`, need not be a `Stream`, and
    holds anything finite in what was prepared of padding.
    """
    module, inputs = subject.ready()
    if not module.prepared:
        raise NotApplicable("it does not declare what it prepares")
    whole = {
        side: {key: replace(s, mask=torch.ones_like(s.mask)) for key, s in inputs[side].items()}
        for side in ("generic", "specific")
    }
    with torch.no_grad():
        before = module.prepare(whole["generic"], whole["specific"])
        again = {"fused": module.attend(before, {}).zeroed()}
    if set(before) != set(module.prepared):
        raise Failed(f"streams {', '.join(module.prepared)}, as declared", ", ".join(before))
    gap = difference(_forward(subject, module, whole), again)
    if gap:
        raise Failed("attend after prepare gives what forward gives", gap)
    expected = "the same where there is padding, of steps that are no streams but have x and mask"
    try:
        with torch.no_grad():
            given = ({key: _kept(s.x, s.mask) for key, s in inputs[side].items()} for side in ("generic", "specific"))
            made = {
                name: _kept(s.x.where(s.mask.unsqueeze(-1), 3), s.mask) for name, s in module.prepare(*given).items()
            }
            again = {"fused": module.attend(made, {}).zeroed()}
    except Exception as error:
        raise Failed(expected, told(error)) from error
    gap = difference(_forward(subject, module, inputs), again)
    if gap:
        raise Failed(expected, gap)
    for side, streams in whole.items():
        for key, stream in streams.items():
            step = stream.x.shape[1] // 2
            x = stream.x.clone()
            x[:, step] += 1
            with torch.no_grad():
                given = {**whole, side: {**streams, key: replace(stream, x=x)}}
                after = module.prepare(given["generic"], given["specific"])
            for name, made in before.items():
                start, may = 0, torch.zeros(made.x.shape[1], dtype=torch.bool)
                for part in module.prepared[name]:
                    count = (whole["generic"].get(part) or whole["specific"][part]).x.shape[1]
                    may[start : start + count] = (torch.arange(count) == step) & (part == key)
                    start += count
                if start != made.x.shape[1]:
                    raise Failed(f"'{name}' has the {start} steps that are declared", f"{made.x.shape[1]}")
                gap = far(made.x[:, ~may], after[name].x[:, ~may])
                if gap:
                    raise Failed(
                        f"changing a step of {side} '{key}' changes its own place in '{name}' alone",
                        f"other places change by {gap}",
                    )


def _kept(x: Tensor, mask: Tensor) -> Kept:
    return Kept(x.flatten(0, 1), torch.arange(mask.numel()).view(mask.shape), mask)


def check_mean_alone(subject: Subject) -> None:
    """A head that declares `pools` sees the mean alone; a fusion that is told so gives the mean of what it gave.

    The fusion then need not make every step. A head that also looks at something else would be handed too little.
    """
    module, inputs = subject.ready()
    expected = "the same mean with and without context.pooled"
    if subject.kind == "head":
        if not module.pools:
            raise NotApplicable("it does not declare pools = True")
        expected = "the same output for a stream and for its mean; else do not declare pools = True"
        stream = inputs["stream"]["stream"]
        first = _forward(subject, module, inputs)
        second = _forward(subject, module, {"stream": {"stream": Stream.pooled(stream.mean())}})
    else:
        pooled = subject.build(changes={"pooled": True}).eval()
        try:
            pooled.load_state_dict(module.state_dict())
            second = {key: Stream.pooled(s.mean()) for key, s in _forward(subject, pooled, inputs).items()}
        except Exception as error:
            raise Failed(expected, told(error)) from error
        first = {key: Stream.pooled(s.mean()) for key, s in _forward(subject, module, inputs).items()}
        declared, steps = pooled.shape, next(iter(_forward(subject, pooled, inputs).values())).x.shape[1]
        if steps > declared.length:
            raise Failed(f"at most {declared.length} steps with context.pooled, as declared", f"{steps}")
    gap = difference(first, second)
    if gap:
        raise Failed(expected, gap)


def check_vmappable(subject: Subject) -> None:
    """If `vmappable` is promised, two sets of weights run as one under torch.func.vmap and give what each gives alone.

    Several seeds can then be trained as one model, on a GPU for little more than the price of one.
    """
    module, inputs = subject.ready()
    if not module.vmappable:
        raise NotApplicable("it declares vmappable = False")
    pair = [training(subject, subject.build(seed=seed), inputs) for seed in (1, 2)]
    alone = [_forward(subject, part, inputs) for part in pair]
    expected = "two sets of weights run under torch.func.vmap; else declare vmappable = False"

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], _: Tensor) -> Any:
        state = (parameters, buffers)
        return subject.call(_Bound(pair[0], state), inputs)

    try:
        with quiet_random(3), torch.no_grad():
            parameters, buffers = stack_module_state(pair)
            together = torch.func.vmap(one, randomness="same")(parameters, buffers, torch.zeros(2))
    except Exception as error:
        raise Failed(expected, told(error)) from error
    for i, single in enumerate(alone):
        gap = difference(single, {key: replace(s, x=s.x[i], mask=s.mask[i]) for key, s in together.items()})
        if gap:
            raise Failed("vmap gives what each set of weights gives alone", gap)


def check_attention(subject: Subject) -> None:
    """Every attention backend that can run here gives what the manual one gives, values and gradients.

    Fused kernels are fast and treat masks and empty rows in their own ways; a run on another machine must not give
    another table. (A component that uses no attention passes.)
    """
    module, inputs = subject.ready()
    passes = {}
    for backend in BACKENDS:
        with use_attention(backend), suppress(Unusable):  # not on this machine, or not for such shapes
            passes[backend] = [run(subject, module, given) for given in (inputs, *_gaps(inputs)[:1])]
    for backend, found in passes.items():
        for reference, other in zip(passes["manual"], found, strict=True):
            if not all(s.x.isfinite().all() for s in reference.out.values()):
                continue  # told in check_missing_modality
            gap = difference(reference.out, other.out)
            for name, gradient in reference.gradients.items():
                if gap:
                    break
                told_of = far(gradient, other.gradients.get(name, torch.zeros(0)))
                gap = told_of and f"the gradient of {name} differs by {told_of}"
            if gap:
                raise Failed(f"backend '{backend}' gives what 'manual' gives", gap)


def check_autocast(subject: Subject) -> None:
    """Under bfloat16 autocast it runs, forward and backward, and stays finite.

    `train: {precision: bf16}` is an option of every recipe; a tensor made with a fixed dtype, or a mask filled with
    -1e9, fails there.
    """
    module, inputs = subject.ready()
    try:
        with torch.autocast("cpu", torch.bfloat16), quiet_random(1):
            out = subject.call(module, inputs)
            loss = torch.stack([s.x.float().square().mean() for s in out.values()]).sum() if out else torch.zeros(())
        if loss.requires_grad:
            loss.backward()
    except Exception as error:
        raise Failed("it runs under torch.autocast(..., torch.bfloat16)", told(error)) from error
    if not loss.isfinite():
        raise Failed("finite values under torch.autocast(..., torch.bfloat16)", "NaN or infinity")
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise Failed("finite gradients under bfloat16 autocast", f"NaN or infinity for '{name}'")


def check_compile(subject: Subject) -> None:
    """torch.compile takes it as one graph and gives the same output, or it declares `compilable = False`.

    Compiled models train faster on a GPU; one component that breaks the graph slows all others down. (The check
    traces with backend "eager": it proves that the component is one graph, not that a code generator's kernels are
    right, which would take a minute.)
    """
    module, inputs = subject.ready()
    if not module.compilable:
        raise NotApplicable("it declares compilable = False")
    expected = _forward(subject, module, inputs)
    torch.compiler.reset()
    try:
        with _hush():
            found = _forward(subject, torch.compile(module, backend="eager", fullgraph=True), inputs)
    except Exception as error:
        raise Failed(
            "torch.compile(..., fullgraph=True) works; else declare compilable = False", told(error)
        ) from error
    finally:
        torch.compiler.reset()
    gap = difference(expected, found)
    if gap:
        raise Failed("the same output compiled", gap)


class _Exported(nn.Module):
    """A component with tensors alone as input and output, as an exported model has."""

    def __init__(self, subject: Subject, module: nn.Module) -> None:
        super().__init__()
        self.subject, self.module = (subject,), module

    def forward(self, inputs: Inputs) -> Any:
        out = self.subject[0].call(self.module, inputs)
        return {key: (stream.x, stream.mask) for key, stream in out.items()}


def check_export(subject: Subject) -> None:
    """torch.export takes it with a batch of any size and gives the same output, or it declares `exportable = False`.

    `mmrobust export` writes models that run without this toolkit, on a phone or a server, with batches of any size.
    """
    module, inputs = subject.ready()
    if not module.exportable:
        raise NotApplicable("it declares exportable = False")
    size = torch.export.Dim.DYNAMIC
    dynamic = {
        group: {
            key: [{0: size}, {0: size}] + ([{0: size}] if s.times is not None else []) for key, s in streams.items()
        }
        for group, streams in inputs.items()
    }
    wrong = "torch.export.export works with a batch of any size; else declare exportable = False"
    try:
        with quiet_random(0), _hush(), torch.no_grad():
            program = torch.export.export(
                _Exported(subject, module), (inputs,), dynamic_shapes=(dynamic,), strict=False
            ).module()
            other = subject.inputs(count=3, seed=5)
            torch.manual_seed(3)
            found = {key: Stream(x, mask) for key, (x, mask) in program(other).items()}
    except Exception as error:
        came = told(error)
        if "onstraints violated" in came:
            came = "the traced program works for one batch size; something goes by the number x.shape[0]"
        raise Failed(wrong, came) from error
    gap = difference(_forward(subject, module, other), found)
    if gap:
        raise Failed("the exported program gives the same output", gap)


# Objectives


def check_objective_loss(subject: Subject) -> None:
    """The loss is one finite number, with nothing erased, with something erased and with everything erased.

    Rates are drawn from 0 on, so a batch in which nothing is erased comes up sooner or later, and one NaN ends the
    run.
    """
    module, inputs = subject.ready()
    for share in (None, 0.0, 1.0):
        loss = module(*subject.seen(module, inputs, subject.base, share))
        what = "a mixture" if share is None else "nothing" if share == 0 else "everything"
        if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.isfinite():
            came = f"{loss.item()}" if isinstance(loss, Tensor) and loss.numel() == 1 and loss.ndim == 0 else repr(loss)
            if isinstance(loss, Tensor) and loss.ndim:
                came = f"a tensor of shape {tuple(loss.shape)}"
            raise Failed(f"a finite loss of shape () where {what} is erased", came)


def check_objective_reaches(subject: Subject) -> None:
    """The loss has a gradient for something that the model made.

    An objective that trains nothing but itself does not change the model: its ablation shows no effect, and nobody
    knows why.
    """
    module, inputs = subject.ready()
    _update(subject, module, inputs)
    out, views, progress = subject.seen(module, inputs, subject.base)
    made = {"prediction": out.prediction, "fused": out.fused.x}
    for stage in ("encoded", "generic", "specific"):
        made |= {f"{stage} '{key}'": stream.x for key, stream in getattr(out, stage).items()}
    made = {name: value for name, value in made.items() if value.requires_grad}
    loss = module(out, views, progress)
    gradients = torch.autograd.grad(loss, list(made.values()), allow_unused=True) if loss.requires_grad else []
    if not any(g is not None and g.any() for g in gradients):
        raise Failed(f"a gradient for one of {', '.join(made)}", "none")


def check_objective_update(subject: Subject) -> None:
    """`update` changes buffers only: no parameter, nothing that the model made; and it keeps no graph.

    It runs between backward and the optimizer's step. A changed parameter would be stepped with a gradient of another
    point; a kept graph fills the memory over an epoch.
    """
    module, inputs = subject.ready()
    parameters = {name: p.detach().clone() for name, p in module.named_parameters()}
    names = set(module.state_dict())
    seen = subject.seen(module, inputs, subject.base)
    before = _values(seen[1])
    with quiet_random(1):
        module(*seen)
        try:
            with torch.no_grad():
                module.update(*seen)
        except Exception as error:
            raise Failed("update runs after a forward pass", told(error)) from error
    for name, parameter in module.named_parameters():
        if not torch.equal(parameters[name], parameter):
            raise Failed("update changes no parameter", f"'{name}' has changed")
    for name, value in _values(seen[1]).items():
        if not _same(before[name], value):
            raise Failed("update leaves what the model made as it was", f"{name} has changed")
    if set(module.state_dict()) != names:
        raise Failed("the state_dict keeps its keys", f"{', '.join(sorted(set(module.state_dict()) ^ names))}")
    for name, buffer in module.named_buffers():
        if buffer.requires_grad:
            raise Failed("memory without a graph", f"buffer '{name}' requires a gradient")


def check_objective_lean(subject: Subject) -> None:
    """An objective that declares `lean` gives the same loss without encoded streams and noisy features.

    Where all objectives of a recipe are lean, training makes neither, and an objective that looks for them all the
    same fails, or learns from nothing.
    """
    module, inputs = subject.ready()
    if not module.lean:
        raise NotApplicable("it does not declare lean")
    out, views, progress = subject.seen(module, inputs, subject.base)
    loss = module(out, views, progress)
    bare = {name: _bare(view) for name, view in views.items()}
    name = next(name for name, view in views.items() if view is out)
    try:
        without = module(bare[name], bare, progress)
    except Exception as error:
        raise Failed("what declares lean needs neither encoded streams nor noisy features", told(error)) from error
    if not torch.equal(loss, without):
        raise Failed(f"the same loss without them, {loss.item():.6g}", f"{without.item():.6g}")


def _bare(view: Outputs) -> Outputs:
    batch = view.batch
    if batch is not None and batch.clean is not None:
        batch = replace(batch, features={})
    return replace(view, encoded={}, batch=batch)


def check_gradient_reversal(subject: Subject) -> None:
    """An objective with an option `grl` hands back exactly -grl times the gradient of its loss to the generic features.

    With the sign or the factor wrong, the extractor helps the adversary instead of deceiving it, and all that shows is
    a somewhat lower score. The true gradient is measured by finite differences.
    """
    subject.ready()
    if "grl" not in _options(subject):
        raise NotApplicable("it has no option 'grl'")
    if subject.options.get("schedule", "constant") != "constant":
        raise NotApplicable("its strength follows a schedule")
    found = {}
    for strength in (1.0, 0.25):
        reversed_ = Subject(
            subject.kind, subject.component, options={**subject.options, "grl": strength}, beside=subject.beside
        )
        module = training(reversed_, reversed_.build(subject.base), subject.inputs())
        out, views, progress = reversed_.seen(module, subject.inputs(), subject.base)
        keys = list(out.generic)
        leaves = [out.generic[key].x.detach().requires_grad_() for key in keys]

        def loss(values: list[Tensor], module: Any = module, seen: Any = (out, views, progress)) -> Tensor:
            out, views, progress = seen
            generic = {key: replace(out.generic[key], x=x) for key, x in zip(keys, values, strict=True)}  # noqa: B023
            changed = replace(out, generic=generic)
            return module(changed, {**views, "here": changed}, progress)

        gradients = torch.autograd.grad(loss(leaves), leaves, allow_unused=True)
        found[strength] = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True)]
        size = torch.stack([g.norm() for g in found[strength]]).norm().item()
        if not size:
            raise Failed("a gradient for the generic features", "none")
        # Along the gradient itself the difference is largest, and least disturbed by rounding.
        step = 0.05 / size
        with torch.no_grad():
            up = loss([x + step * g for x, g in zip(leaves, found[strength], strict=True)]).item()
            down = loss([x - step * g for x, g in zip(leaves, found[strength], strict=True)]).item()
        slope = (up - down) / (2 * step) / size**2  # the true gradient over the one handed back
        if abs(slope * strength + 1) > 0.05:
            raise Failed(f"-{strength:g} times the true gradient with grl = {strength:g}", f"{1 / slope:.3g} times")
    for whole, quarter in zip(found[1.0], found[0.25], strict=True):
        gap = far(0.25 * whole, quarter, 1e-6)
        if gap:
            raise Failed("with grl = 0.25 exactly a quarter of the gradient with grl = 1", f"it differs by {gap}")


# Helpers


class _Bound:
    """A module with other weights."""

    def __init__(self, module: nn.Module, state: Any) -> None:
        self.module, self.state = module, state
        self.reads = getattr(module, "reads", ())

    def __call__(self, *args: Any) -> Any:
        return functional_call(self.module, self.state, args)


def _options(subject: Subject) -> dict[str, Any]:
    from mmrobust import registry

    return dict(registry.options_of(subject.spec))


def _forward(subject: Subject, module: Callable[..., Any], inputs: Inputs) -> Any:
    with torch.no_grad(), quiet_random(3):
        return subject.call(module, inputs)


def _each(subject: Subject, variants: list[Surroundings]) -> None:
    """Tries each variant; not applicable only where all are refused."""
    refused = []
    for around in variants:
        try:
            subject.try_in(around)
        except NotApplicable as error:
            refused.append(error)
    if refused and len(refused) == len(variants):
        raise refused[0]


def _update(subject: Subject, module: Any, inputs: Inputs) -> None:
    """Two steps and an epoch of an objective's memory."""
    out, views, progress = subject.seen(module, inputs, subject.base)
    with quiet_random(1), torch.no_grad():
        for epoch in (0, 0, 1, 2):
            now = replace(progress, epoch=epoch)
            module(out, views, now)
            module.update(out, views, now)


def _gaps(inputs: Inputs) -> list[Inputs]:
    """The input with holes: each modality masked or erased in some samples; then each masked in all samples."""
    keys = list(dict.fromkeys(key for streams in inputs.values() for key in streams))

    def holes(stream: Stream, masked: Tensor, erased: Tensor) -> Stream:
        gone = (masked | erased).view(-1, 1, 1)
        return replace(stream, x=stream.x.masked_fill(gone, 0), mask=stream.mask & ~masked.view(-1, 1))

    def every(f: Callable[[int, Stream], Stream]) -> Inputs:
        return {
            group: {key: f(keys.index(key), stream) for key, stream in streams.items()}
            for group, streams in inputs.items()
        }

    count = len(next(s for streams in inputs.values() for s in streams.values()).x)
    sample = torch.arange(count)
    last = sample == count - 1
    mixed = every(lambda i, s: holes(s, sample == 2 * i % count, (sample == (2 * i + 1) % count) | last))
    nothing = every(lambda i, s: holes(s, sample == 0, sample < 0))  # one sample without any modality
    missing = [every(lambda i, s, j=j: holes(s, (sample >= 0) & (i == j), sample < 0)) for j in range(len(keys))]
    return [mixed, nothing, *missing]


def _padded(stream: Stream, length: int) -> Stream:
    """The stream with NaN wherever it is not real, padded to `length`."""
    more = length - stream.x.shape[1]
    pad = nn.functional.pad
    mask = pad(stream.mask, (0, more))
    x = pad(stream.x, (0, 0, 0, more)).masked_fill(~mask.unsqueeze(-1), float("nan"))
    return Stream(x, mask, None if stream.times is None else pad(stream.times, (0, 0, 0, more)))


def _cut(inputs: Inputs, part: slice) -> Inputs:
    return {group: {key: _rows(s, part) for key, s in streams.items()} for group, streams in inputs.items()}


def _rows(stream: Stream, part: slice) -> Stream:
    return Stream(stream.x[part], stream.mask[part], None if stream.times is None else stream.times[part])


def _placed(stream: Stream, places: Tensor) -> Stream:
    return replace(stream, x=stream.x.take_along_dim(places.unsqueeze(-1), 1))


def _attributes(module: nn.Module) -> dict[str, object]:
    """What hangs on a module and its parts besides parameters, buffers and parts, by identity."""
    own = {"_parameters", "_buffers", "_modules", "training"}
    return {
        f"{path}.{name}".lstrip("."): (id(value), len(value) if isinstance(value, list | dict | set) else 0)
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if name not in own
    }


def _values(tree: Any, path: str = "") -> dict[str, Tensor | None]:
    """Every tensor in dicts, streams, batches and outputs, copied, by its path."""
    found: dict[str, Tensor | None] = {}
    if isinstance(tree, Tensor):
        return {path: tree.detach().clone()}
    if isinstance(tree, dict):
        items: Iterator[tuple[Any, Any]] = iter(tree.items())
    elif hasattr(tree, "__dataclass_fields__"):
        items = ((name, getattr(tree, name)) for name in tree.__dataclass_fields__)
    else:
        return {}
    for name, value in items:
        found |= _values(value, f"{path}.{name}".lstrip("."))
    return found


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


@contextmanager
def _hush() -> Iterator[None]:
    """Keeps torch's log of a failure that the check itself reports off the screen (and out of pytest's report)."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
