"""FDMER: Yang, Huang, Kuang, Du, Zhang (2022), "Disentangled representation learning for multimodal emotion
recognition".

Common and private encoders (the toolkit's `shared_mlp` and `per_modality_mlp`, or MISA's dense layers) are separated
by an adversary (the toolkit's `modality_adversary` with `explain: none` and `train_specific: true`: the discriminator
names the modality, of common features behind a gradient reversal layer, and of private ones as they are), kept
different by HSIC (`hsic`) and the common ones alike by `consistency`; a cross-modal attention over all of them (MISA's
`six_tokens`) makes the prediction.

The paper's text was not at hand, and no code of it is public, as far as we know; what is here follows its
abstract and the NORM-TR paper's and later papers' descriptions. The abstract has a common encoder and private ones, a
discriminator of modalities that guides both kinds adversarially, constraints of consistency and disparity by losses of
their own, and a cross-modal attention that learns adaptive weights. How it was read, for it does not say:

- consistency and disparity are the two constraints of Wang et al. (2020), "AM-GCN"; private features also differ from
  each other, as MISA's do; vectors have length one; AM-GCN sums squares over samples, here they are averaged;
- the private features' share of the adversary is to be recognised, not to hide;
- attention is that of a Transformer layer over the six features, not six weights of a sum;
- sizes, weights of losses and the learning rate are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from mmrobust.contracts import Context, Objective, Outputs, Progress
from mmrobust.errors import OptionError
from torch import Tensor


def hilbert_schmidt(x: Tensor, y: Tensor) -> Tensor:
    """HSIC of two batches of vectors with inner products as kernels: tr(R K_x R K_y) / (b - 1)^2, R = I - 1/b.

    Zero if and only if no coordinate of one is correlated with a coordinate of the other. It is computed as
    |X^T R Y|_F^2, which is the same number.

    Args:
        x: `b d`.
        y: `b e`.
    """
    count = max(1, x.shape[0] - 1)
    return ((x - x.mean(0)).T @ (y - y.mean(0))).square().sum() / count**2


class HSIC(Objective):
    """Private features differ from common ones, and from each other.

    The sum over modalities of HSIC(common, private), and over pairs of modalities of HSIC(private, private), on the
    batch's pooled features, each vector of length one (so that features cannot become independent by vanishing).

    Args:
        context: Shapes, task and settings of the model.

    Raises:
        OptionError: Generic or specific features are not there for each modality.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        for side, shapes in (("generic", context.generic), ("specific", context.specific)):
            if set(shapes) != set(context.modalities):
                raise OptionError("use", f"needs a {side} extractor that gives one stream for each modality")
        self.modalities = context.modalities

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        common = {m: F.normalize(out.generic[m].mean(), dim=-1, eps=1e-6) for m in self.modalities}
        private = {m: F.normalize(out.specific[m].mean(), dim=-1, eps=1e-6) for m in self.modalities}
        terms = [hilbert_schmidt(common[m], private[m]) for m in self.modalities]
        terms += [hilbert_schmidt(private[a], private[b]) for a, b in combinations(self.modalities, 2)]
        return torch.stack(terms).sum()


class Consistency(Objective):
    """Common features of all modalities see the same likeness between samples.

    With rows of length one, S_m = H_m H_m^T; the loss is the mean over pairs of modalities of the mean square of
    S_a - S_b.

    Args:
        context: Shapes, task and settings of the model.

    Raises:
        OptionError: There are fewer than two generic streams.
    """

    minimum = 2

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if len(context.generic) < 2:
            raise OptionError("use", "compares generic streams, and there are fewer than two; add a generic extractor")
        self.pairs = tuple(combinations(context.generic, 2))

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        rows = {key: F.normalize(stream.mean(), dim=-1, eps=1e-6) for key, stream in out.generic.items()}
        alike = {key: x @ x.T for key, x in rows.items()}
        return torch.stack([(alike[a] - alike[b]).square().mean() for a, b in self.pairs]).mean()
