"""An optimizer for a network that learns beside the model, with a step and a learning rate of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["OwnAdam"]


class OwnAdam(nn.Module):
    """Adam (Kingma and Ba, 2015) over a network whose parameters the model's optimizer leaves alone.

    Its moments are buffers, so that a checkpoint keeps them and a resumed training goes on with the same bits. The
    network's parameters require no gradient from then on.

    Args:
        network: What learns.
        betas: Decays of the two moments.
        eps: What keeps a step finite.
    """

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, network: nn.Module, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        super().__init__()
        size = sum(p.requires_grad_(False).numel() for p in network.parameters())
        self.betas, self.eps = betas, eps
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("square", torch.zeros(size))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def step(self, network: nn.Module, loss: Callable[[Callable[..., Tensor]], Tensor], lr: Tensor | float) -> None:
        """Moves the network's parameters, in place, one step down.

        Args:
            network: The one that this was made for.
            loss: Gives the loss, 0-d, of a function that is the network.
            lr: The learning rate.
        """
        weights = {name: p.detach().requires_grad_() for name, p in network.named_parameters()}
        with torch.enable_grad():
            value = loss(lambda *inputs: functional_call(network, weights, inputs))
            gradients = torch.autograd.grad(value, list(weights.values()))
        gradient = torch.cat([g.flatten() for g in gradients])
        self.count += 1
        self.mean.lerp_(gradient, 1 - self.betas[0])
        self.square.lerp_(gradient.square(), 1 - self.betas[1])
        mean, square = (m / (1 - b**self.count) for m, b in zip((self.mean, self.square), self.betas, strict=True))
        move = lr * mean / (square.sqrt() + self.eps)
        for p, own in zip(network.parameters(), move.split([p.numel() for p in network.parameters()]), strict=True):
            p.sub_(own.view_as(p))
