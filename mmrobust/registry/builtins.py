"""The built-in components, offered through the same hook as everyone else's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmrobust.registry.hooks import hookimpl

if TYPE_CHECKING:
    from mmrobust.registry.plugin import Registrar

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
        summary="synthetic affect data whose best possible scores are known",
    )
    add("dataset", "mmsa", "mmrobust.data.mmsa:MMSA", summary="MMSA's pickle layout: MOSI, MOSEI, SIMS")
    add("dataset", "mult", "mmrobust.data.mult:MulT", summary="MulT's pickle layout: IEMOCAP, MOSI, MOSEI")
    add("dataset", "arrays", "mmrobust.data.arrays:Arrays", summary="any features, from one .npz or safetensors file")

    noise = f"{components}.noise"
    add(
        "noise",
        "window_erase",
        f"{noise}.erasing:WindowErase",
        summary="erases windows of steps, in every modality or in one",
    )
    add("noise", "frame_drop", f"{noise}.erasing:FrameDrop", summary="drops single steps at random")
    add("noise", "modality_drop", f"{noise}.erasing:ModalityDrop", summary="drops whole modalities")
    add("noise", "feature_dropout", f"{noise}.erasing:FeatureDropout", summary="sets single features to zero")
    add("noise", "gaussian", f"{noise}.additive:Gaussian", summary="adds white noise at a signal-to-noise ratio")
    add("noise", "babble", f"{noise}.additive:Babble", summary="mixes in another sample at a signal-to-noise ratio")
    add("noise", "spikes", f"{noise}.additive:Spikes", summary="adds heavy-tailed spikes")
    add("noise", "shuffle", f"{noise}.timing:Shuffle", summary="shuffles the steps within windows")
    add("noise", "time_shift", f"{noise}.timing:TimeShift", summary="shifts a modality in time against the others")
    add("noise", "freeze", f"{noise}.timing:Freeze", summary="repeats the last good step")
    add("noise", "saturation", f"{noise}.sensor:Saturation", summary="clips what goes beyond a sensor's range")
    add("noise", "quantization", f"{noise}.sensor:Quantization", summary="rounds to a few levels")
    add("noise", "tfr_net", f"{noise}.protocols:TFRNet", summary="TFR-Net's missing steps, bit for bit")
    add("noise", "mmsa", f"{noise}.protocols:MMSA", summary="MMSA's missing steps, bit for bit")
    add("noise", "lnln", f"{noise}.protocols:LNLN", summary="LNLN's missing steps, bit for bit")
    add("noise", "sequence", f"{noise}.composed:Sequence", summary="several noises, one after the other")
    add("noise", "one_of", f"{noise}.composed:OneOf", summary="one of several noises, drawn for each sample")

    add("encoder", "linear", f"{components}.encoder:Linear", summary="one linear layer for each modality")
    add("encoder", "none", f"{components}.encoder:Identity", summary="leaves the features as they are")
    add("encoder", "each", f"{components}.encoder:Each", summary="another encoder for each modality")

    generic = f"{components}.generic_extractor"
    add("generic_extractor", "shared_mlp", f"{generic}:SharedMLP", summary="one MLP that all modalities share")
    add("generic_extractor", "mean_mlp", f"{generic}:MeanMLP", summary="the mean of what one shared MLP gives")
    add("generic_extractor", "constant", f"{generic}:Constant", summary="one vector for every step, learned or zero")
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
    add("head", "modality_pool", f"{components}.head:ModalityPool", summary="mean of each modality, one linear layer")

    discriminator = f"{components}.discriminator"
    add("discriminator", "linear", f"{discriminator}:Linear", summary="one linear layer")
    add("discriminator", "mlp", f"{discriminator}:MLP", summary="a small MLP")

    objective = f"{components}.objective"
    add("objective", "task", f"{objective}:TaskLoss", summary="the loss of the prediction")
    add(
        "objective",
        "modality_adversary",
        f"{components}.adversary:ModalityAdversary",
        summary="makes generic features hide their modality from a trained D1",
    )
    add(
        "objective",
        "noise_adversary",
        f"{components}.adversary:NoiseAdversary",
        summary="makes generic features hide noise from a trained D2",
    )
    add(
        "objective",
        "modality_discriminant",
        f"{components}.discriminant:ModalityDiscriminant",
        summary="makes generic features hide their modality from the best linear D1, in closed form",
    )
    add(
        "objective",
        "noise_discriminant",
        f"{components}.discriminant:NoiseDiscriminant",
        summary="makes generic features hide noise from the best linear D2, in closed form",
    )
