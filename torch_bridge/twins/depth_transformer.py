"""The depth transformer in torch, with the names that the step-free arithmetic study gave its tensors where they exist."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jaxsrc.models.depth_transformer import DepthTransformerConfig
from torch_bridge.twins.gated_units import feedforward


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (i, i + d/2) of x [b, n, h, d] turned by the angles whose cosine and sine are [n, 1, d/2]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    """Causal self-attention without biases."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None, keep: Tensor | None = None) -> Tensor:
        """keep: [h], by what each head's output is multiplied, for ablation."""
        b, n, width = x.shape
        q, k, v = (part(x).view(b, n, self.heads, -1) for part in (self.q_proj, self.k_proj, self.v_proj))
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0)
        if keep is not None:
            y = y * keep[None, :, None, None]
        return self.out_proj(y.transpose(1, 2).reshape(b, n, width))


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.fc1, self.fc2, self.dropout = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(F.gelu(self.fc1(x))))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, c: DepthTransformerConfig):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(c.width), nn.LayerNorm(c.width)
        self.attn = Attention(c.width, c.heads, c.dropout)
        plain = c.gate is None
        self.ff = FeedForward(c.width, c.hidden, c.dropout) if plain else feedforward(c.gate, c.width, c.hidden)
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None, keep: Tensor | None = None) -> Tensor:
        """keep: [h + 1], the heads and then the feed-forward block."""
        x = x + self.dropout(self.attn(self.ln1(x), angles, None if keep is None else keep[:-1]))
        y = self.dropout(self.ff(self.ln2(x)))
        return x + (y if keep is None else y * keep[-1])


class TorchDepthTransformer(nn.Module):
    """tokens int64[b, n] -> logits [b, n, v]; causal, so without the two-way prefix of the rewrite track's marks."""

    def __init__(self, config: DepthTransformerConfig, vocabulary: int):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(vocabulary, config.width)
        if config.places:
            self.place_embedding = nn.Embedding(config.places + 1, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.ln_f = nn.LayerNorm(config.width)

    def angles(self, n: int) -> tuple[Tensor, Tensor] | None:
        c = self.config
        if c.positions == "none":
            return None
        d = c.width // c.heads
        theta = torch.arange(n)[:, None] * 10_000.0 ** (-torch.arange(0, d, 2, dtype=torch.float32) / d)
        return theta.cos()[:, None], theta.sin()[:, None]

    def places(self, tokens: Tensor) -> Tensor:
        """As `places_of` of the model."""
        from jaxsrc.data.expression_text import FIRST_DIGIT

        at = torch.arange(tokens.shape[1])
        digit = (tokens >= FIRST_DIGIT) & (tokens < FIRST_DIGIT + 10)
        other = torch.where(digit, -1, at).cummax(1).values
        return (at - other).clamp(max=self.config.places)

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """keep: [layers, heads + 1] of multipliers, for ablation."""
        x = self.token_embedding(tokens)
        if self.config.places:
            x = x + self.place_embedding(self.places(tokens))
        x, angles = self.dropout(x), self.angles(tokens.shape[1])
        for _ in range(self.config.loops):
            for i, block in enumerate(self.blocks):
                x = block(x, angles, None if keep is None else keep[i])
        return self.ln_f(x) @ self.token_embedding.weight.T
