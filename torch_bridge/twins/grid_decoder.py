"""TRM in eager torch, under the names of its official checkpoints, without conditioning."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from jaxsrc.models.grid_decoder import GridDecoderConfig
from jaxsrc.modules.recursive_block import inner_width


def rms(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + 1e-5) in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


class Table(nn.Module):
    """A matrix under the name that the source gives to embeddings."""

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.embedding_weight = nn.Parameter(torch.randn(rows, width) * width**-0.5)


class Rows(nn.Module):
    """The puzzle table: a buffer, since no gradient of the whole is ever made."""

    weights: Tensor

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.register_buffer("weights", torch.zeros(rows, width))


class SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up_proj = nn.Linear(width, 2 * hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(functional.silu(gate) * up)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv_proj(x).view(b, n, 3 * self.heads, d // self.heads).transpose(1, 2).chunk(3, 1)
        if turn is not None:
            cos, sin = turn
            half = lambda y: torch.cat((-y[..., y.shape[-1] // 2 :], y[..., : y.shape[-1] // 2]), -1)
            q, k = q * cos + half(q) * sin, k * cos + half(k) * sin
        out = functional.scaled_dot_product_attention(q, k, v)
        return self.o_proj(out.transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    def __init__(self, config: GridDecoderConfig):
        super().__init__()
        c = config
        self.tokens = c.mixer == "tokens"
        if self.tokens:
            self.mlp_t = SwiGLU(c.tokens, inner_width(c.tokens, c.expansion))
        else:
            self.self_attn = Attention(c.width, c.heads)
        self.mlp = SwiGLU(c.width, c.inner or inner_width(c.width, c.expansion))

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        if self.tokens:
            x = x.transpose(1, 2)
            x = rms(x + self.mlp_t(x)).transpose(1, 2)
        else:
            x = rms(x + self.self_attn(x, turn))
        return rms(x + self.mlp(x))


class Level(nn.Module):
    def __init__(self, config: GridDecoderConfig):
        super().__init__()
        self.layers = nn.ModuleList([Block(config) for _ in range(config.layers)])

    def forward(self, x: Tensor, inject: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + inject
        for layer in self.layers:
            x = layer(x, turn)
        return x


class GridDecoderTwin(nn.Module):
    """(tokens int[b, s], puzzle rows [b, d], y, z) -> (y, z without gradient, logits [b, s, v], halting logit [b])."""

    H_init: Tensor
    L_init: Tensor

    def __init__(self, config: GridDecoderConfig, puzzles: int):
        super().__init__()
        c = self.config = config
        self.embed_tokens = Table(c.vocabulary, c.width)
        self.lm_head = nn.Linear(c.width, c.vocabulary, bias=False)
        self.q_head = nn.Linear(c.width, 2)
        self.puzzle_emb = Rows(puzzles, c.width)
        if c.positions == "learned":
            self.embed_pos = Table(c.tokens, c.width)
        self.L_level = Level(c)
        self.register_buffer("H_init", torch.randn(c.width))
        self.register_buffer("L_init", torch.randn(c.width))

    def turn(self) -> tuple[Tensor, Tensor] | None:
        """cos and sin [n, d] of all positions; None without rotary positions."""
        c = self.config
        if c.positions != "rope":
            return None
        dim = c.width // c.heads
        f = 1.0 / (10000.0 ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
        angle = torch.outer(torch.arange(c.tokens, dtype=torch.float32), f).repeat(1, 2)
        return angle.cos(), angle.sin()

    def forward(self, tokens: Tensor, rows: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c = self.config
        room = c.slots * c.width - rows.shape[-1]
        slots = functional.pad(rows, (0, room)).view(-1, c.slots, c.width)
        x = torch.cat((slots, functional.embedding(tokens, self.embed_tokens.embedding_weight)), 1)
        if c.positions == "learned":
            x = 0.5**0.5 * (x + self.embed_pos.embedding_weight)
        x, turn = math.sqrt(c.width) * x, self.turn()
        with torch.no_grad():
            for _ in range(c.h_cycles - 1):
                for _ in range(c.l_cycles):
                    z = self.L_level(z, y + x, turn)
                y = self.L_level(y, z, turn)
        for _ in range(c.l_cycles):
            z = self.L_level(z, y + x, turn)
        y = self.L_level(y, z, turn)
        return y.detach(), z.detach(), self.lm_head(y)[:, c.slots :].float(), self.q_head(y[:, 0]).float()[:, 0]
