"""Promise: recurrent networks read real steps alone, and alignment averages in relative time."""

from __future__ import annotations

import pytest
import torch
from mmrobust.contracts import Shape, Stream
from mmrobust.errors import OptionError
from small import streams
from torch import nn

from mmrobust_baselines.layers import Align, Block, Dropout, compact, last, stretch
from mmrobust_baselines.recurrent import Recurrent, _packed, backwards


def ragged() -> Stream:
    return streams({"m": Shape(3, 5)}, 6)["m"]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_bidirectional_stack_equals_torchs_packed_one(cell: str) -> None:
    ours = Recurrent(3, 4, cell=cell, layers=2, bidirectional=True)  # type: ignore[arg-type]
    theirs = (nn.LSTM if cell == "lstm" else nn.GRU)(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    for i in range(2):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(theirs, f"{name}_l{i}").data = getattr(ours.ahead[i], f"{name}_l0").data
            getattr(theirs, f"{name}_l{i}_reverse").data = getattr(ours.back[i], f"{name}_l0").data
    stream = ragged()
    packed = nn.utils.rnn.pack_padded_sequence(stream.x, stream.mask.sum(1), batch_first=True, enforce_sorted=False)
    padded, state = theirs(packed)
    expected, _ = nn.utils.rnn.pad_packed_sequence(padded, batch_first=True, total_length=5)
    states, finals = ours(stream)
    torch.testing.assert_close(states.x, expected)
    hidden = state[0] if cell == "lstm" else state
    for i, final in enumerate(finals):
        torch.testing.assert_close(final, torch.cat([hidden[2 * i], hidden[2 * i + 1]], -1))


@pytest.mark.parametrize("norm", [False, True])
def test_packed_and_padded_steps_give_the_same_states_and_gradients(norm: bool) -> None:
    network = Recurrent(3, 4, layers=2, bidirectional=True, norm=norm).double()
    stream = ragged()
    mask = stream.mask.clone()
    mask[0, 1] = False  # padding between real steps
    mask[3] = False  # nothing at all
    results = []
    for read in (network._packed, network._padded):
        x = stream.x.double().requires_grad_()
        network.zero_grad()
        states, finals = read(Stream(x, mask).zeroed())
        (states.x.sin().sum() + torch.cat(finals, -1).cos().sum()).backward()
        assert states.mask.sum(1).tolist() == mask.sum(1).tolist()
        results.append([states.x, *finals, x.grad, *(p.grad for p in network.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_batch_without_any_real_step_has_zero_states() -> None:
    network = Recurrent(3, 4)
    for read in (network._packed, network._padded):
        states, finals = read(Stream(torch.randn(2, 5, 3), torch.zeros(2, 5, dtype=torch.bool)))
        assert not states.x.any() and not finals[0].any() and finals[0].shape == (2, 4)


def test_only_a_large_lstm_is_packed() -> None:
    assert Recurrent(768, 128)._large(torch.zeros(64, 50, 768)) and not Recurrent(20, 32)._large(torch.zeros(64, 9, 20))
    assert not Recurrent(768, 128, cell="gru")._large(torch.zeros(64, 50, 768))


def test_the_gradient_of_an_lstm_is_that_of_finite_differences() -> None:
    network = nn.LSTM(3, 2).double()
    x = torch.randn(6, 3, dtype=torch.double, requires_grad=True)
    weights = tuple(network.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: _packed(network, x, [3, 2, 1]), (x, *weights))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    layer = Dropout(share)
    x = torch.ones(1001, 501)
    y = layer(x)
    assert abs((y == 0).float().mean().item() - share) < 0.005
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - share) if share < 1 else 0))
    assert not torch.equal(y, layer(x)) or share in (0.0, 1.0)
    assert torch.equal(layer.eval()(x), x)


def test_dropout_is_drawn_anew_from_the_same_seed() -> None:
    layer, x = Dropout(0.4), torch.randn(7, 3, requires_grad=True)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(layer(x))
    assert torch.equal(*results)
    (gradient,) = torch.autograd.grad(results[0].sum(), x)
    assert torch.equal(gradient == 0, results[0] == 0)


def test_where_padding_stands_does_not_matter() -> None:
    network = Recurrent(3, 4, bidirectional=True)
    stream = ragged()
    front = Stream(stream.x.flip(1), stream.mask.flip(1))  # padding first, steps in reverse
    again = Stream(backwards(compact(front)).x, compact(front).mask)
    torch.testing.assert_close(network(again)[1][0], network(stream)[1][0])


def test_the_last_real_step_is_found_and_zero_where_there_is_none() -> None:
    x = torch.arange(6.0).view(2, 3, 1)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert last(Stream(x, mask)).flatten().tolist() == [1.0, 0.0]


def test_stretching_averages_in_relative_time() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 99.0, 99.0], [1.0, 2.0, 3.0, 99.0, 99.0, 99.0]]).unsqueeze(-1)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 3 + [False] * 3])
    found = stretch(Stream(x, mask), 2).squeeze(-1)
    # Three steps in two: one and a half each.
    torch.testing.assert_close(found, torch.tensor([[1.5, 3.5], [(1 + 0.5 * 2) / 1.5, (0.5 * 2 + 3) / 1.5]]))
    torch.testing.assert_close(stretch(Stream(x, mask), 4)[0, :, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]))


def test_modalities_that_are_not_aligned_are_refused_or_stretched() -> None:
    shapes = {"a": Shape(3, 4), "b": Shape(3, 6)}
    with pytest.raises(OptionError, match="unaligned: stretch"):
        Align(shapes, False, "refuse")
    values, mask = Align(shapes, False, "stretch")(streams(shapes))
    assert [v.shape for v in values] == [(4, 4, 3), (4, 4, 3)] and mask.all()


def test_attending_to_itself_is_self_attention_as_torch_has_it() -> None:
    block = Block(8, 2, 2.0, 0.0, "manual").eval()
    theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "relu", batch_first=True, norm_first=True).eval()
    ours = block.attention
    theirs.self_attn.in_proj_weight.data = torch.cat([ours.query.weight, ours.key_value.weight]).data
    theirs.self_attn.in_proj_bias.data = torch.cat([ours.query.bias, ours.key_value.bias]).data
    theirs.self_attn.out_proj.load_state_dict(ours.out.state_dict())
    theirs.norm1.load_state_dict(block.norm.state_dict())
    theirs.norm2.load_state_dict(block.norm_feed.state_dict())
    theirs.linear1.load_state_dict(block.feed[0].state_dict())
    theirs.linear2.load_state_dict(block.feed[3].state_dict())
    stream = streams({"m": Shape(8, 5)}, 4)["m"]
    expected = theirs(stream.x, src_key_padding_mask=~stream.mask)
    for source in (None, stream.x):
        found = block(stream.x, source, stream.mask)
        torch.testing.assert_close(found[stream.mask], expected[stream.mask])
