"""The task's loss; the objectives that work against it are in `adversary` and `discriminant`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrobust.contracts import Context, Objective, Outputs, Progress
from mmrobust.errors import OptionError


class TaskLoss(Objective):
    """L_er: how wrong the prediction is (paper, equation 8).

    Cross-entropy for classes, squared error for a regression; several yes-or-no decisions are cross-entropies over
    two logits each, as MulT trains on IEMOCAP. The paper's equation 9 has one L_er and does not say which input it
    reads; here each view that lists `task` is trained for it. List it in one view only, or in a view without noise,
    for the other readings.

    Args:
        context: What mmrobust provides.
        loss: `auto` for the paper's, or `mse`, `mae`, `huber` for a regression.
        regression: What `auto` is for a regression, for recipes that serve every task.
        smoothing: Label smoothing of the cross-entropy.

    Raises:
        OptionError: A regression loss for a task that is none.
    """

    def __init__(
        self,
        context: Context,
        *,
        loss: Literal["auto", "mse", "mae", "huber"] = "auto",
        regression: Literal["mse", "mae", "huber"] = "mse",
        smoothing: float = 0.0,
    ) -> None:
        super().__init__(context)
        self.kind = context.task.kind
        if loss != "auto" and self.kind != "regression":
            raise OptionError("loss", f"'{loss}' is for a regression, and this task is a {self.kind}; leave it at auto")
        self.loss = regression if loss == "auto" else loss
        self.smoothing = smoothing

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None and out.batch.label is not None
        label = out.batch.label
        if self.kind == "regression":
            functions = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.smooth_l1_loss}
            # In fp32 at least: bf16 would round the labels.
            dtype = torch.promote_types(out.prediction.dtype, torch.float32)
            return functions[self.loss](out.prediction.squeeze(-1).to(dtype), label.to(dtype))
        logits = out.prediction
        if self.kind == "multilabel":
            logits, label = logits.reshape(-1, 2), label.reshape(-1)
        return F.cross_entropy(logits, label, label_smoothing=self.smoothing)
