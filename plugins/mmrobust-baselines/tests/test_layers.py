"""Promise: recurrent networks read real steps alone, and alignment averages in relative time."""

from __future__ import annotations

import pytest
import torch
from mmrobust.contracts import Shape, Stream
from mmrobust.errors import OptionError
from small import streams
from torch import nn

from mmrobust_baselines.layers import Align, Block, compact, last, stretch
from mmrobust_baselines.recurrent import Recurrent, backwards


def some_stream() -> Stream:
    return streams({"m": Shape(3, 5)}, 6)["m"]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_bidirectional_stack_equals_torchs_packed_one(cell: str) -> None:
    ours = Recurrent(3, 4, cell=cell, layers=2, bidirectional=True)  # type: ignore[arg-type]
    theirs = (nn.LSTM if cell == "lstm" else nn.GRU)(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    for i in range(2):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(theirs, f"{name}_l{i}").data = getattr(ours.ahead[i], f"{name}_l0").data
            getattr(theirs, f"{name}_l{i}_reverse").data = getattr(ours.back[i], f"{name}_l0").data
    stream = some_stream()
    packed = nn.utils.rnn.pack_padded_sequence(stream.x, stream.mask.sum(1), batch_first=True, enforce_sorted=False)
    padded, state = theirs(packed)
    expected, _ = nn.utils.rnn.pad_packed_sequence(padded, batch_first=True, total_length=5)
    states, finals = ours(stream)
    torch.testing.assert_close(states.x, expected)
    hidden = state[0] if cell == "lstm" else state
    for i, final in enumerate(finals):
        torch.testing.assert_close(final, torch.cat([hidden[2 * i], hidden[2 * i + 1]], -1))


def test_padding_between_real_steps_changes_neither_states_nor_gradients() -> None:
    network = Recurrent(3, 4, layers=2, bidirectional=True, norm=True).double()
    stream = some_stream().map(torch.Tensor.double)
    spread = Stream(torch.full((6, 10, 3), 7.0, dtype=torch.double), torch.zeros(6, 10, dtype=torch.bool))
    spread.x[:, ::2], spread.mask[:, ::2] = stream.x, stream.mask
    results = []
    for given in (stream, spread):
        network.zero_grad()
        states, finals = network(given)
        (states.x.sin().sum() + torch.cat(finals, -1).cos().sum()).backward()
        assert states.mask.sum(1).tolist() == given.mask.sum(1).tolist()
        results.append([states.x[:, :5], *finals, *(p.grad for p in network.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_sample_without_any_real_step_has_zero_states() -> None:
    states, finals = Recurrent(3, 4)(Stream(torch.randn(2, 5, 3), torch.zeros(2, 5, dtype=torch.bool)))
    assert not states.x.any() and not finals[0].any() and finals[0].shape == (2, 4)


def test_where_padding_stands_does_not_matter() -> None:
    network = Recurrent(3, 4, bidirectional=True)
    stream = some_stream()
    front = Stream(stream.x.flip(1), stream.mask.flip(1))  # padding first, steps in reverse
    again = Stream(backwards(compact(front)).x, compact(front).mask)
    torch.testing.assert_close(network(again)[1][0], network(stream)[1][0])


def test_the_last_real_step_is_taken_and_zero_where_there_is_none() -> None:
    x = torch.arange(6.0).view(2, 3, 1)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert last(Stream(x, mask)).flatten().tolist() == [1.0, 0.0]


def test_stretching_averages_in_relative_time() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 99.0, 99.0], [1.0, 2.0, 3.0, 99.0, 99.0, 99.0]]).unsqueeze(-1)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 3 + [False] * 3])
    result = stretch(Stream(x, mask), 2).squeeze(-1)
    # Three steps in two: one and a half each.
    torch.testing.assert_close(result, torch.tensor([[1.5, 3.5], [(1 + 0.5 * 2) / 1.5, (0.5 * 2 + 3) / 1.5]]))
    torch.testing.assert_close(stretch(Stream(x, mask), 4)[0, :, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]))


def test_modalities_that_are_not_aligned_are_refused_or_stretched() -> None:
    shapes = {"a": Shape(3, 4), "b": Shape(3, 6)}
    with pytest.raises(OptionError, match="unaligned: stretch"):
        Align(shapes, False, "refuse")
    values, mask = Align(shapes, False, "stretch")(streams(shapes))
    assert [v.shape for v in values] == [(4, 4, 3), (4, 4, 3)] and mask.all()


def test_attention_to_itself_is_torch_s_encoder_layer() -> None:
    block = Block(8, 2, ratio=2.0, backend="manual").eval()
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
    torch.testing.assert_close(block(stream.x, stream.x, stream.mask)[stream.mask], expected[stream.mask])
