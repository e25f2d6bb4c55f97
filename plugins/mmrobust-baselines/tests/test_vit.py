"""Promise: the ViT sees all tokens but padding, and says what is missing where timm cannot be imported."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch
from mmrobust.contracts import Shape, Stream
from mmrobust.errors import OptionError
from small import context, streams

from mmrobust_baselines.vit import ViT

SHAPES = {"a": Shape(8, 3), "b": Shape(8, 4)}


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("timm"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OptionError, match=r"torchvision::nms.*pip install 'mmrobust-baselines\[timm\]'"):
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
        moved = {**specific, m: specific[m].map(lambda x: x + 1)}
        assert not torch.allclose(fusion(generic, moved, {}).x, out)
