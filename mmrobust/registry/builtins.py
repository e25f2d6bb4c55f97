"""The built-in components, offered through the same hook as everyone else's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmrobust.registry.hooks import hookimpl

if TYPE_CHECKING:
    from mmrobust.registry.catalogue import Registrar

MMROBUST_API = 1


@hookimpl
def mmrobust_register(registry: Registrar) -> None:
    """Registers what mmrobust itself brings."""
    add = registry.add
    components = "mmrobust.components"

    add(
        "dataset",
        "synthetic_affect",
        "mmrobust.data.synthetic:SyntheticAffect",
        summary="made-up affect data whose best possible scores are known",
    )
    add("dataset", "mmsa", "mmrobust.data.mmsa:MMSA", summary="MMSA's pickle layout: MOSI, MOSEI, SIMS")
    add("dataset", "mult", "mmrobust.data.mult:MulT", summary="MulT's pickle layout: IEMOCAP, MOSI, MOSEI")
    add("dataset", "arrays", "mmrobust.data.arrays:Arrays", summary="any features, from one .npz or safetensors file")

    add(
        "noise",
        "window_erase",
        f"{components}.noise:WindowErase",
        summary="erases one window of steps, in every modality or in one",
    )
    add("noise", "frame_drop", f"{components}.noise:FrameDrop", summary="drops single steps at random")

    add("encoder", "linear", f"{components}.encoder:Linear", summary="one linear layer for each modality")
    add("encoder", "none", f"{components}.encoder:Identity", summary="leaves the features as they are")
    add("encoder", "each", f"{components}.encoder:Each", summary="another encoder for each modality")

    generic = f"{components}.generic_extractor"
    add("generic_extractor", "shared_mlp", f"{generic}:SharedMLP", summary="one MLP that all modalities share")
    add("generic_extractor", "identity", f"{generic}:Identity", summary="the encoded features themselves")
    add("generic_extractor", "none", f"{generic}:Nothing", summary="no generic features")

    specific = f"{components}.specific_extractor"
    add("specific_extractor", "per_modality_mlp", f"{specific}:PerModalityMLP", summary="an MLP for each modality")
    add("specific_extractor", "identity", f"{specific}:Identity", summary="the encoded features themselves")
    add("specific_extractor", "none", f"{specific}:Nothing", summary="no specific features")

    fusion = f"{components}.fusion"
    add(
        "fusion",
        "cross_attention",
        f"{fusion}:CrossAttention",
        summary="a Transformer whose queries are generic and whose keys and values are specific",
    )
    add("fusion", "concat", f"{fusion}:Concat", summary="mean over the steps, then everything side by side")

    add(
        "head", "mean_pool_linear", f"{components}.head:MeanPoolLinear", summary="mean over the steps, one linear layer"
    )

    discriminator = f"{components}.discriminator"
    add("discriminator", "linear", f"{discriminator}:Linear", summary="one linear layer")
    add("discriminator", "mlp", f"{discriminator}:MLP", summary="a small MLP")

    objective = f"{components}.objective"
    add("objective", "task", f"{objective}:TaskLoss", summary="the loss of the prediction")
    add(
        "objective",
        "modality_adversary",
        f"{objective}:ModalityAdversary",
        summary="makes generic features hide their modality (D1)",
    )
    add("objective", "noise_adversary", f"{objective}:NoiseAdversary", summary="makes generic features hide noise (D2)")
