"""The depth transformer's twin in the form that converts: plain products, no running maximum, tables instead of angles."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from jaxsrc.data.expression_text import FIRST_DIGIT
from jaxsrc.models.depth_transformer import DepthTransformerConfig
from torch_bridge.twins.depth_transformer import Attention, Block, FeedForward, TorchDepthTransformer, rotate
from torch_bridge.twins.parts import Tap, causal_mask, no_tap


class DepthTwin(TorchDepthTransformer):
    """tokens int[b, n] -> logits [b, n, v]; two_way int[b] (the rewrite track's): tokens at a row's start that see each other.

    length: most tokens of a row; the same tensors by the same names as its base. tap: sees, and may replace, the values that
    `Taps` names in JAX.
    """

    def __init__(self, config: DepthTransformerConfig, vocabulary: int, length: int):
        super().__init__(config, vocabulary)
        rows = length + 1  # one more than any input, or slices alias the buffers
        angles = self.angles(rows)
        cos, sin = angles if angles is not None else (torch.zeros(rows, 1, 0), torch.zeros(rows, 1, 0))
        for name, value in (("cos", cos), ("sin", sin), ("mask", causal_mask(length)), ("at", torch.arange(rows))):
            self.register_buffer(name, value, persistent=False)
        self.tap: Tap = no_tap

    def runs(self, tokens: Tensor) -> Tensor:
        """`places_of` by as many shifts as there are places: a digit's place is how many digits in a row end with it."""
        digit = ((tokens >= FIRST_DIGIT) & (tokens < FIRST_DIGIT + 10)).to(torch.int32)
        unbroken, place = digit, digit
        for _ in range(self.config.places - 1):
            unbroken = digit * functional.pad(unbroken, (1, 0))[:, : tokens.shape[1]]
            place = place + unbroken
        return place

    def attend(self, part: Attention, x: Tensor, mask: Tensor, name: str) -> Tensor:
        b, n, d = x.shape
        q, k, v = (y(x).reshape(b, n, part.heads, d // part.heads) for y in (part.q_proj, part.k_proj, part.v_proj))
        if self.config.positions == "rotary":
            cos, sin = cast(Tensor, self.cos)[:n], cast(Tensor, self.sin)[:n]
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        scores = torch.matmul(q * (d // part.heads) ** -0.5, k.transpose(-1, -2)) + mask
        heads = self.tap(f"{name}.heads", torch.matmul(torch.softmax(scores, -1), v).transpose(1, 2))
        return self.tap(f"{name}.out", part.out_proj(heads.reshape(b, n, d)))

    def feed(self, part: nn.Module, x: Tensor, name: str) -> Tensor:
        if isinstance(part, FeedForward):
            return self.tap(f"{name}.out", part.fc2(self.tap(f"{name}.hidden", functional.gelu(part.fc1(x)))))
        return part(x, self.tap, name)

    def forward(self, tokens: Tensor, two_way: Tensor | None = None) -> Tensor:  # type: ignore[override]
        n = tokens.shape[1]
        mask = cast(Tensor, self.mask)[:n, :n]
        if two_way is not None:
            seen = cast(Tensor, self.at)[:n].reshape(1, 1, 1, -1) < two_way.reshape(-1, 1, 1, 1)
            mask = mask * (1 - seen.to(mask.dtype))
        x = self.token_embedding(tokens)
        if self.config.places:
            x = x + self.place_embedding(self.runs(tokens))
        x = self.tap("embedding", x)
        for loop in range(self.config.loops):
            for i, one in enumerate(self.blocks):
                block = cast(Block, one)
                name = f"layer{i}" if self.config.loops == 1 else f"loop{loop}.layer{i}"
                x = x + self.attend(block.attn, block.ln1(x), mask, f"{name}.attention")
                x = self.tap(f"{name}.middle", x)
                x = x + self.feed(block.ff, block.ln2(x), f"{name}.feedforward")
                x = self.tap(f"{name}.output", x)
        x = self.tap("final", self.ln_f(x))
        return self.tap("logits", torch.matmul(x, self.token_embedding.weight.transpose(0, 1)))
