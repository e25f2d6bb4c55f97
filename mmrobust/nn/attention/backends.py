"""The ways to compute scaled dot-product attention, and what each of them needs.

All take query `b h s d`, key and value `b h t d` and mask `b t` (True where a key is real; None if all are), give `b h
s d`, and give exactly zero for a sample that has no real key, so that a wholly absent modality never makes a NaN.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Run = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Case(NamedTuple):
    """What of a call decides who can run it; None where it is not known yet.

    Attributes:
        device: Type of the device: `cpu`, `cuda`, ...
        dtype: What is computed in.
        queries: Steps s of the query.
        keys: Steps t of key and value.
        width: Width d of one head.
        masked: Whether there is a mask.
        backward: Whether a gradient will be asked for.
    """

    device: str
    dtype: torch.dtype = torch.float32
    queries: int | None = None
    keys: int | None = None
    width: int | None = None
    masked: bool = True
    backward: bool = True

    def __str__(self) -> str:
        parts = [f"{self.queries} queries x {self.keys} keys"] if self.queries is not None else []
        parts += [f"heads {self.width} wide"] if self.width is not None else []
        parts += [str(self.dtype).removeprefix("torch."), self.device]
        return ", ".join(parts)


@dataclass(frozen=True)
class Backend:
    """One way to compute attention.

    Attributes:
        run: Computes it.
        why_not: Why it cannot run a case, in plain words; None where it can.
        summary: What it is.
    """

    run: Run
    why_not: Callable[[Case], str | None]
    summary: str


# ---------------------------------------------------------------------------------------------------- written out


def manual(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention as in Vaswani et al. (2017), equation 1, written out."""
    out = torch.einsum("bhst,bhtd->bhsd", _softmax(query, key, mask), value)
    return out if mask is None else out * mask.any(1)[:, None, None, None]


def weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Attention weights, `b h s t`: rows sum to one, or are zero where no key may be seen."""
    rows = _softmax(query, key, mask)
    return rows if mask is None else rows * mask.any(1)[:, None, None, None]


def _softmax(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    scores = torch.einsum("bhsd,bhtd->bhst", query, key) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + hiding(mask, scores.dtype)  # added, not filled in, which has no backward pass
    return scores.softmax(-1)


def hiding(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores so that keys which are not real get no weight, `b 1 1 t`, from `b t`.

    A low finite number instead of -inf: a row without keys stays finite, forward and backward. Half of the lowest, so
    that the sum stays finite in float16 as well.
    """
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min / 2)[:, None, None]


def _always(case: Case) -> None:
    return None


# ------------------------------------------------------------------------------------------------- torch's kernels


def _fillable(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The mask with every key for a sample that has none, `b 1 1 t`, and which samples have none, `b 1 1 1`.

    Some kernels give NaN, or NaN gradients, for a row without keys; so it sees all of them, and is zeroed after.
    """
    none = ~mask.any(1)[:, None, None, None]
    return mask[:, None, None, :] | none, none


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Torch's `scaled_dot_product_attention`, which picks one of its kernels itself."""
    if mask is None:
        return F.scaled_dot_product_attention(query, key, value)
    seen, none = _fillable(mask)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen).masked_fill(none, 0)


def flash(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """FlashAttention (Dao, 2023) as torch has it."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        # On a GPU this kernel takes no mask.
        run = sdpa if mask is None or query.device.type == "cpu" else masked_by_a_feature
        return run(query, key, value, mask)


def masked_by_a_feature(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """`sdpa` for kernels that take no mask: the mask is one more feature of query and key.

    A mask over keys adds the same row to the scores of every query, which is a product of one feature: a constant in
    the query, and 0 or far below it in the key. Heads get wider, up to the next multiple of 8, which the kernel would
    copy them to otherwise; nothing is materialised, and no weight of a masked key is above 0 (its score is more than
    2^18 lower for heads up to 1024 wide).
    """
    if mask is None:
        return sdpa(query, key, value, None)
    far = 2.0**12  # exact in every number format, and so is its square where scores are summed
    none = ~mask.any(1)[:, None, None, None]
    width = query.shape[-1]
    more = 8 - width % 8
    constant = F.pad(query.new_full((1,), far), (0, more - 1))
    hidden = torch.zeros_like(mask, dtype=key.dtype).masked_fill(~mask, -far)
    mask_feature = F.pad(hidden.unsqueeze(-1), (0, more - 1)).unsqueeze(1)
    out = F.scaled_dot_product_attention(
        torch.cat([query, constant.expand(*query.shape[:-1], more)], -1),
        torch.cat([key, mask_feature.expand(*key.shape[:-1], more)], -1),
        F.pad(value, (0, more)),
        scale=width**-0.5,
    )
    return out[..., :width].masked_fill(none, 0)


def efficient(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Memory-efficient attention (Rabe and Staats, 2021) as torch has it."""
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return sdpa(query, key, value, mask)


def cudnn(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The fused attention of cuDNN."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return sdpa(query, key, value, mask)


HALVES = (torch.float16, torch.bfloat16)


def _gpu(case: Case) -> str | None:
    return None if case.device == "cuda" else f"it is a kernel of NVIDIA GPUs, and this runs on '{case.device}'"


def _halves(case: Case) -> str | None:
    if case.dtype in HALVES:
        return None
    return f"it has no kernel for {_name(case.dtype)} on a GPU, only for bf16 and fp16 (train.precision)"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _flash_why_not(case: Case) -> str | None:
    if case.device == "cpu":
        return None
    wide = None if case.width is None else case.width + case.masked
    if wide is not None and wide > 256:
        return f"its heads are at most 256 wide, one less with a mask; here they are {case.width}"
    return _gpu(case) or _halves(case) or _refused("flash", case._replace(masked=False, width=wide))


def _efficient_why_not(case: Case) -> str | None:
    if case.dtype == torch.float64:
        return _gpu(case) or "it has no kernel for float64"
    return _gpu(case) or _refused("efficient", case)


def _cudnn_why_not(case: Case) -> str | None:
    if case.width is not None and case.width % 8:
        return _gpu(case) or f"the width of its heads is a multiple of 8; here it is {case.width}"
    return _gpu(case) or _halves(case) or _refused("cudnn", case)


@functools.cache
def _refused(kernel: str, case: Case) -> str | None:
    """What torch itself says of a kernel on the GPU that is here."""
    if not torch.cuda.is_available():
        return "no GPU is found"
    sizes = (1, 1, case.queries or 64, case.width or 32), (1, 1, case.keys or 64, case.width or 32)
    query, key = (torch.empty(size, dtype=case.dtype, device="cuda", requires_grad=case.backward) for size in sizes)
    mask = torch.ones(1, 1, 1, sizes[1][2], dtype=torch.bool, device="cuda") if case.masked else None
    parameters = torch.backends.cuda.SDPAParams(query, key, key, mask, 0.0, False, False)
    if getattr(torch.backends.cuda, f"can_use_{kernel}_attention")(parameters, False):
        return None
    device = torch.cuda.get_device_name()
    return f"torch {torch.__version__} cannot run it on {device} for {case}{', masked' if case.masked else ''}"


# ------------------------------------------------------------------------------------------------------------ timm


def timm(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The attention layer of timm between our projections: fused or not as `TIMM_FUSED_ATTN` says."""
    from timm.layers import use_fused_attn  # pyright: ignore

    layer = _timm_layer(query.shape[1], query.shape[3], use_fused_attn())
    joined = rearrange(torch.stack((query, key, value)), "three b h s d -> b s (three h d)")
    if mask is None:
        out = layer(joined)
    else:
        seen, none = _fillable(mask)
        out = layer(joined, attn_mask=seen).masked_fill(none[:, 0], 0)
    return rearrange(out, "b s (h d) -> b h s d", h=query.shape[1])


@functools.cache
def _timm_layer(heads: int, width: int, fused: bool) -> nn.Module:
    """The layer without projections of its own; it reads its switch when it is built, hence `fused` in the key."""
    from timm.layers import Attention  # pyright: ignore

    with torch.device("meta"):
        layer: Any = Attention(heads * width, heads)
    layer.qkv = layer.proj = nn.Identity()
    return layer.eval()


def _timm_why_not(case: Case) -> str | None:
    if problem := _timm_missing():
        return problem
    if case.queries != case.keys:
        return f"timm's layer is self-attention, and here {case.queries} queries meet {case.keys} keys"
    return None


@functools.cache
def _timm_missing() -> str | None:
    try:
        from timm.layers import Attention  # noqa: F401  # pyright: ignore
    except (ImportError, RuntimeError, OSError) as error:  # timm imports torchvision, which fails in many ways
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"timm cannot be imported ({cause}); pip install timm"
    return None


# ------------------------------------------------------------------------------------------------------------ flex

_BLOCK = 128


def flex(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """FlexAttention (Dong et al., 2024), compiled on first use, which skips every block of keys that is masked."""
    from torch.nn.attention.flex_attention import flex_attention

    run = flex_attention if torch.compiler.is_compiling() else _compiled_flex()
    if mask is None:
        return run(query, key, value)
    out = run(query, key, value, block_mask=block_mask(mask, query.shape[2]))
    return out.masked_fill(~mask.any(1)[:, None, None, None], 0)


def block_mask(mask: Tensor, queries: int) -> Any:
    """Which blocks of keys FlexAttention reads, from a mask `b t`; a `BlockMask`.

    `create_block_mask` would evaluate all `b s t` pairs to find out; a mask over keys alone needs `b t`.
    """
    from torch.nn.attention.flex_attention import BlockMask

    keys = mask.shape[1]
    blocks = F.pad(mask, (0, -keys % _BLOCK)).unflatten(1, (-1, _BLOCK))
    rows = -(-queries // _BLOCK)

    def listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
        """How many blocks, `b 1 rows`, and which, `b 1 rows blocks`, the chosen ones first."""
        order = chosen.int().argsort(dim=1, descending=True, stable=True).int()
        return (
            chosen.sum(1, dtype=torch.int32)[:, None, None].expand(-1, 1, rows).contiguous(),
            order[:, None, None, :].expand(-1, 1, rows, -1).contiguous(),
        )

    whole = blocks.all(-1)
    return BlockMask.from_kv_blocks(
        *listed(blocks.any(-1) & ~whole),
        *listed(whole),
        BLOCK_SIZE=_BLOCK,
        mask_mod=lambda b, h, q, k: mask[b, k],
        seq_lengths=(queries, keys),
    )


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _flex_why_not(case: Case) -> str | None:
    if case.device not in ("cpu", "cuda"):
        return f"FlexAttention is used on CPUs and NVIDIA GPUs, and this runs on '{case.device}'"
    if case.dtype not in (torch.float32, *HALVES):
        return f"FlexAttention has no kernel for {_name(case.dtype)}"
    if case.device == "cpu":
        if case.backward:
            return "FlexAttention has no backward pass on a CPU; it serves evaluation alone"
        if "CXX" not in os.environ and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
            return "FlexAttention is compiled on first use, and there is no C++ compiler (g++)"
        return None
    if case.width is not None and case.width < 16:
        return f"FlexAttention's heads are at least 16 wide on a GPU; here they are {case.width}"
    if find_spec("triton") is None:
        return "FlexAttention is compiled on first use, and triton is not installed"
    return None


BACKENDS: dict[str, Backend] = {
    "manual": Backend(manual, _always, "written out: einsum and softmax"),
    "sdpa": Backend(sdpa, _always, "torch's scaled_dot_product_attention, which picks a kernel itself"),
    "flash": Backend(flash, _flash_why_not, "torch's FlashAttention kernel"),
    "efficient": Backend(efficient, _efficient_why_not, "torch's memory-efficient kernel"),
    "cudnn": Backend(cudnn, _cudnn_why_not, "cuDNN's kernel"),
    "timm": Backend(timm, _timm_why_not, "timm's attention layer; TIMM_FUSED_ATTN switches its fused path"),
    "flex": Backend(flex, _flex_why_not, "FlexAttention; skips blocks of masked keys"),
}
