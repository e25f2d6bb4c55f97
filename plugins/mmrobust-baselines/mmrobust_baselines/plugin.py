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
    add("encoder", "pooled_mlp", f"{here}.encoders:PooledMLP", summary="the mean step through an MLP (TFN, LMF)")
    add("encoder", "conv1d", f"{here}.encoders:Conv1d", summary="one convolution over time for each modality (MulT)")

    add("head", "mlp", f"{here}.heads:MLP", summary="an MLP over the pooled stream, bounded as an option (TFN)")
    add("head", "residual_mlp", f"{here}.heads:ResidualMLP", summary="an MLP with a residual connection (MulT)")
    add("head", "given", f"{here}.heads:Given", summary="the fused stream is the prediction (LMF)")

    add("fusion", "early_lstm", f"{here}.early:EarlyLSTM", summary="one LSTM over all features, step by step (EF-LSTM)")
    add("fusion", "tensor", f"{here}.tfn:TensorFusion", summary="the outer product of all modalities (TFN)")
    add("fusion", "low_rank", f"{here}.lmf:LowRank", summary="the outer product, contracted by rank-r factors (LMF)")

    misa = f"{here}.misa"
    add("generic_extractor", "shared_dense", f"{misa}:SharedDense", summary="one dense layer for all modalities (MISA)")
    add("specific_extractor", "private_dense", f"{misa}:PrivateDense", summary="a dense layer per modality (MISA)")
    add("fusion", "six_tokens", f"{misa}:SixTokens", summary="a Transformer over all pooled features (MISA)")
    add("objective", "cmd", f"{misa}:CMD", summary="generic features of all modalities have equal moments (MISA)")
    add("objective", "difference", f"{misa}:Difference", summary="generic and specific features are orthogonal (MISA)")
    add(
        "objective",
        "reconstruction",
        f"{misa}:Reconstruction",
        summary="reconstructs the encoded features (MISA)",
    )

    add("fusion", "concat_mlp", f"{here}.self_mm:ConcatMLP", summary="all vectors through one ReLU layer (Self-MM)")
    add(
        "objective",
        "unimodal_labels",
        f"{here}.self_mm:UnimodalLabels",
        summary="unimodal tasks with generated labels (Self-MM)",
    )

    add(
        "fusion",
        "crossmodal_pairs",
        f"{here}.mult:CrossmodalPairs",
        summary="a crossmodal Transformer for each ordered pair of modalities (MulT)",
    )

    mfm = f"{here}.mfm"
    add("generic_extractor", "mfn", f"{mfm}:MFN", summary="a memory fusion network over all modalities (MFM)")
    add("specific_extractor", "factor_lstm", f"{mfm}:FactorLSTM", summary="an LSTM to a latent factor (MFM)")
    add("fusion", "factor", f"{mfm}:Factor", summary="an MLP over the generic features alone (MFM)")
    add("objective", "generative", f"{mfm}:Generative", summary="reconstructs the raw features from the factors (MFM)")
    add("objective", "mmd", f"{mfm}:MMD", summary="features look like a standard normal (MFM)")

    tfr = f"{here}.tfr_net"
    add("encoder", "intra_inter", f"{tfr}:IntraInter", summary="Transformers within and between modalities (TFR-Net)")
    add(
        "generic_extractor",
        "temporal_attention",
        f"{tfr}:TemporalAttention",
        summary="self-attention over each modality's steps (TFR-Net)",
    )
    add("fusion", "gate_encoder", f"{tfr}:GateEncoder", summary="GRUs with convolutional gates (TFR-Net)")
    add(
        "objective",
        "feature_reconstruction",
        f"{tfr}:FeatureReconstruction",
        summary="reconstructs what noise erased from generic features (TFR-Net)",
    )

    mctn = f"{here}.mctn"
    add("fusion", "translation_chain", f"{mctn}:TranslationChain", summary="joint states of translators (MCTN)")
    add("objective", "translation", f"{mctn}:Translation", summary="translates the source into the others (MCTN)")

    iccn = f"{here}.iccn"
    add("fusion", "outer_cnn", f"{iccn}:OuterCNN", summary="convolutions over outer products with the text (ICCN)")
    add("objective", "cca", f"{iccn}:CCA", summary="canonical correlations of the fusion's vectors (ICCN)")

    add(
        "fusion", "message_hub", f"{here}.pmr:MessageHub", summary="modalities and a message reinforce each other (PMR)"
    )

    fdmer = f"{here}.fdmer"
    add("objective", "hsic", f"{fdmer}:HSIC", summary="generic and specific features are independent (FDMER)")
    add("objective", "consistency", f"{fdmer}:Consistency", summary="generic features agree on likeness (FDMER)")

    add("fusion", "word_shift", f"{here}.raven:WordShift", summary="words shifted by nonverbal behaviour (RAVEN)")

    vlad = f"{here}.scalevlad"
    add("encoder", "transformer", f"{vlad}:TransformerEncoder", summary="a Transformer for each modality (ScaleVLAD)")
    add("fusion", "multiscale_vlad", f"{vlad}:MultiscaleVLAD", summary="residuals to shared clusters (ScaleVLAD)")
    add(
        "objective",
        "shifted_clustering",
        f"{vlad}:ShiftedClustering",
        summary="predicts the clusters of the last epoch",
    )

    almt = f"{here}.almt"
    add("encoder", "tokens", f"{almt}:Tokens", summary="each modality as a few tokens of a Transformer (ALMT, LNLN)")
    add("fusion", "hyper_modality", f"{almt}:HyperModality", summary="language guides a hyper-modality (ALMT)")

    emt = f"{here}.emt"
    add(
        "fusion",
        "mutual_promotion",
        f"{emt}:MutualPromotion",
        summary="a global context and local steps promote each other (EMT-DLFR)",
    )
    add("objective", "attraction", f"{emt}:Attraction", summary="vectors of two views attract each other (EMT-DLFR)")
    add(
        "objective",
        "local_reconstruction",
        f"{emt}:LocalReconstruction",
        summary="reconstructs what noise erased from promoted steps (EMT-DLFR)",
    )

    lnln = f"{here}.lnln"
    add(
        "fusion",
        "dominant_correction",
        f"{lnln}:DominantCorrection",
        summary="incomplete language is corrected by a proxy of the others (LNLN)",
    )
    add("objective", "completeness", f"{lnln}:Completeness", summary="estimates how complete language is (LNLN)")
    add(
        "objective",
        "effectiveness",
        f"{lnln}:Effectiveness",
        summary="corrected language looks like complete language (LNLN)",
    )
    add(
        "objective",
        "token_reconstruction",
        f"{lnln}:TokenReconstruction",
        summary="reconstructs the tokens of the view without noise (LNLN)",
    )

    prmf = f"{here}.prmf"
    add("fusion", "proxy_modality", f"{prmf}:ProxyModality", summary="a proxy, weighed by certainty, attends (P-RMF)")
    add(
        "objective",
        "proxy_variational",
        f"{prmf}:ProxyVariational",
        summary="the distributions behind the proxy are a variational autoencoder's (P-RMF)",
    )

    add("fusion", "vit", f"{here}.vit:ViT", summary="timm's ViT blocks over all tokens (needs timm)")
