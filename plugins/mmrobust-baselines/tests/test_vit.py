"""Promise: the ViT sees all tokens but padding, and says what is missing where timm cannot be imported."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch
from mmrobust.contracts import Shape, Stream
from mmrobust.errors import OptionError
from mmrobust.nn.attention import use_attention
from small import context, streams

from mmrobust_baselines.layers import joined
from mmrobust_baselines.vit import ViT

SHAPES = {"a": Shape(8, 3), "b": Shape(8, 4)}


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("timm"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OptionError, match=r"torchvision::nms.*pip install timm"):
        ViT(context(SHAPES), heads=2)


def test_padding_is_not_seen_and_every_stream_is() -> None:
    try:
        fusion = ViT(context(SHAPES, generic=SHAPES), depth=1, heads=2).eval()
    except OptionError as error:
        pytest.skip(str(error))
    specific, generic = streams(SHAPES), streams(SHAPES, seed=1)
    out = fusion(generic, specific, {}).x
    assert out.shape == (4, 1, 8)
    spoilt = {m: Stream(s.x.masked_fill(~s.mask.unsqueeze(-1), 7.0), s.mask) for m, s in specific.items()}
    torch.testing.assert_close(fusion(generic, spoilt, {}).x, out)
    for m in SHAPES:
        moved = {**specific, m: specific[m].map(torch.cos)}  # a layer norm would not see a constant added
        assert not torch.allclose(fusion(generic, moved, {}).x, out)


@pytest.mark.parametrize("backend", ["auto", "manual", "timm"])
def test_it_gives_what_timm_s_blocks_give(backend: str) -> None:
    try:
        fusion = ViT(context(SHAPES, generic=SHAPES), depth=2, heads=2).eval()
    except OptionError as error:
        pytest.skip(str(error))
    from timm.models.vision_transformer import Block

    reference = [Block(8, 2, qkv_bias=True).eval() for _ in range(2)]
    for theirs, ours in zip(reference, fusion.blocks, strict=True):
        theirs.load_state_dict(ours.state_dict())
    specific, generic = streams(SHAPES), streams(SHAPES, seed=1)
    with use_attention(backend):
        out = fusion(generic, specific, {}).x[:, 0]
    ordered = joined(generic, specific)
    x = torch.cat([fusion.token.expand(4, -1, -1), *(fusion._token(key, s) for key, s in ordered.items())], 1)
    mask = torch.cat([torch.ones(4, 1, dtype=torch.bool), *(s.mask for s in ordered.values())], 1)[:, None, None]
    for block in reference:
        x = block(x, attn_mask=mask)
    torch.testing.assert_close(out, fusion.norm(x[:, 0]), atol=1e-5, rtol=1e-5)
