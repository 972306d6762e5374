"""Pieces of the twins, written so that coremltools 9.0 converts them to the same numbers.

Three of its faults are avoided here: `gelu(approximate='tanh')` becomes the exact one on one route, `rms_norm` moves its epsilon
and fails on zero rows, and a hand-written one overflows in float16 from about 256 on.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Tap = Callable[[str, Tensor], Tensor]


def no_tap(name: str, value: Tensor) -> Tensor:
    """Looks at nothing."""
    return value


def gelu_tanh(x: Tensor) -> Tensor:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), which is fused to one operation again."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def rms_norm(x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon): the LayerNorm of (x, -x), whose mean is zero and whose variance is that mean."""
    return functional.layer_norm(torch.cat([x, -1 * x], -1), (2 * x.shape[-1],), eps=epsilon)[..., : x.shape[-1]]


def layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-5)


def causal_mask(length: int) -> Tensor:
    """0 where a query may look, -30000 elsewhere (within float16); a row longer than any input, or slices alias the buffer."""
    return torch.triu(torch.full((length + 1, length + 1), -30000.0), 1)


class Attention(nn.Module):
    """Multi-head self-attention from plain products and a softmax, so that every target runs the same program."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None, tap: Tap, name: str) -> Tensor:
        b, n, d = x.shape
        part = lambda y: y.reshape(b, n, self.heads, d // self.heads).transpose(1, 2)
        q, k, v = part(self.q(x)), part(self.k(x)), part(self.v(x))
        # queries are scaled and not the scores, which float16 would then round twice
        scores = torch.matmul(q * (d // self.heads) ** -0.5, k.transpose(-1, -2))
        scores = scores if mask is None else scores + mask
        heads = torch.matmul(torch.softmax(scores, -1), v).transpose(1, 2)
        heads = tap(f"{name}.heads", heads)
        return tap(f"{name}.out", self.o(heads.reshape(b, n, d)))
