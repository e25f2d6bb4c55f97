"""The entry point: which components this distribution offers. Nothing heavy is imported here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmrobust import hookimpl

if TYPE_CHECKING:
    from mmrobust.registry import Registrar

MMROBUST_API = 1


@hookimpl
def mmrobust_register(registry: Registrar) -> None:
    """Offers the parts of every model."""
    add = registry.add
    here = "mmrobust_baselines"

    add("encoder", "lstm", f"{here}.encoders:LSTM", summary="an LSTM or GRU for each modality (LF-LSTM, TFN, MISA)")
    add(
        "encoder", "pooled_mlp", f"{here}.encoders:PooledMLP", summary="the mean step through an MLP (TFN, LMF, LF-DNN)"
    )
    add("encoder", "conv1d", f"{here}.encoders:Conv1d", summary="one convolution over time for each modality (MulT)")

    add("head", "mlp", f"{here}.heads:MLP", summary="an MLP over the pooled stream, bounded if asked (TFN)")
    add("head", "residual_mlp", f"{here}.heads:ResidualMLP", summary="an MLP with a residual connection (MulT)")
    add("head", "given", f"{here}.heads:Given", summary="the fused stream is the prediction already (LMF)")

    add("fusion", "early_lstm", f"{here}.early:EarlyLSTM", summary="one LSTM over all features, step by step (EF-LSTM)")
    add("fusion", "tensor", f"{here}.tfn:TensorFusion", summary="the outer product of all modalities (TFN)")
    add("fusion", "low_rank", f"{here}.lmf:LowRank", summary="the outer product, contracted by rank-r factors (LMF)")
