"""The fusion holds what mmrobust asks of every fusion, equals the paper's equations, and its recipe builds."""

from pathlib import Path

import torch

import mmrobust
from mmrobust.contracts import Stream
from mmrobust.testing import Subject, parametrize_with_checks

RECIPE = Path(__file__).parents[1] / "recipes" / "gated.yaml"


@parametrize_with_checks("fusion", "mmrobust-gated/gated")
def test_conformance(check):
    check()


def test_it_is_the_gated_multimodal_unit():
    """h = sum of sigmoid(V_i [x_1, ..., x_k]) * tanh(W_i x_i), written out for one sample."""
    subject = Subject("fusion", "mmrobust-gated/gated", options={"width": 3})
    fusion, inputs = subject.build().eval(), subject.inputs(count=1)
    with torch.no_grad():
        out = fusion(inputs["generic"], inputs["specific"], {}).x[0, 0]
        x = {f"{side}_{m}": s.x[0][s.mask[0]].mean(0) for side in inputs for m, s in inputs[side].items()}
        everything = torch.cat([x[key] for key in fusion.project])
        h = torch.zeros(3)
        for key, value in x.items():
            w, v = fusion.project[key], fusion.gate[key]
            z = 1 / (1 + torch.exp(-(v.weight @ everything + v.bias)))
            h += z * torch.tanh(w.weight @ value + w.bias)
    torch.testing.assert_close(out, h)


def test_a_closed_gate_silences_its_stream():
    subject = Subject("fusion", "mmrobust-gated/gated", options={"width": 3})
    fusion, inputs = subject.build().eval(), subject.inputs()
    key = "speech"
    torch.nn.init.constant_(fusion.gate[f"generic_{key}"].weight, 0)
    torch.nn.init.constant_(fusion.gate[f"generic_{key}"].bias, -100)
    for gate in fusion.gate.values():  # the other gates do not look at it
        gate.weight.data[:, :16] = 0
    stream = inputs["generic"][key]
    other = {**inputs["generic"], key: Stream(stream.x + 5, stream.mask)}
    with torch.no_grad():
        before = fusion(inputs["generic"], inputs["specific"], {}).x
        after = fusion(other, inputs["specific"], {}).x
    torch.testing.assert_close(before, after)


def test_recipe_builds():
    recipe = mmrobust.load_recipe(RECIPE, ["data.train=64", "data.valid=16", "data.test=16"])
    built = mmrobust.build(recipe)
    assert type(built.model.fusion).__name__ == "Gated"
    assert built.context.fused is None or built.model.fusion.shape.width == 64
