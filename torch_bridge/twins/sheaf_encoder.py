"""The sheaf solver's encoder in torch: stalks of a task's cells to the keys that the closed-form extension regresses on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from jaxsrc.errors import UserError
from jaxsrc.models.sheaf_solver import STALK, SheafSolverConfig
from jaxsrc.solver.readout import COLORS
from jaxsrc.solver.sections import SOURCES
from torch_bridge.twins.parts import Tap, gelu_tanh, no_tap, rms_norm

FLOOR = 1e-3  # of the degrees, as in jaxsrc.modules.sheaf


def shift(x: Tensor, axis: int, step: int) -> Tensor:
    """x one cell ahead (1) or behind (-1) along an axis, zero beyond the border."""
    size = x.shape[axis]
    blank = x.narrow(axis, 0, 1) * 0
    kept = x.narrow(axis, max(step, 0), size - 1)
    return torch.cat([kept, blank] if step > 0 else [blank, kept], axis)


class Edges(NamedTuple):
    """Diagonal maps of the edges along one axis [p, h, w, s]; valid [p, h, w, 1]."""

    near: Tensor
    far: Tensor
    valid: Tensor
    axis: int


def diffused(edges: list[Edges], x: Tensor) -> Tensor:
    """D^-1/2 L D^-1/2 x on sections [p, h, w, s, c] of the sheaf with these maps."""
    degree = sum((e.near**2 * e.valid + shift(e.far**2 * e.valid, e.axis, -1) for e in edges), torch.zeros_like(edges[0].near))
    scale = torch.rsqrt(degree + FLOOR).unsqueeze(-1)
    scaled = x * scale
    total = torch.zeros_like(x)
    for e in edges:
        near, far, valid = e.near.unsqueeze(-1), e.far.unsqueeze(-1), e.valid.unsqueeze(-1)
        edge = (far * shift(scaled, e.axis, 1) - near * scaled) * valid
        total = total + shift(far * edge, e.axis, -1) - near * edge
    return total * scale


class Layer(nn.Module):
    """One diffusion step, long-range means, and a pointwise network; see jaxsrc.models.sheaf_solver."""

    def __init__(self, config: SheafSolverConfig):
        super().__init__()
        d, self.stalk = config.width, config.stalk
        self.maps = nn.Linear(2 * d, 2 * config.stalk)
        self.inner, self.outer = nn.Linear(d, d), nn.Linear(d, d)
        self.long = nn.Linear(4 * d, d) if config.long_range else None
        self.condition = nn.Linear(d, 2 * d)  # `code` is taken: a traced module keeps its source there
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def edges(self, y: Tensor, mask: Tensor) -> list[Edges]:
        i, s = y.shape[-1], self.stalk
        own = torch.matmul(y, self.maps.weight[:, :i].transpose(0, 1)) + self.maps.bias
        other = torch.matmul(y, self.maps.weight[:, i:].transpose(0, 1))
        found = []
        for index, axis in enumerate((1, 2)):
            a, b = own[..., index * s : (index + 1) * s], other[..., index * s : (index + 1) * s]
            valid = mask * shift(mask, axis, 1)
            found.append(Edges(1 + a + shift(b, axis, 1), 1 + shift(a, axis, 1) + b, valid, axis))
        return found

    def means(self, y: Tensor, mask: Tensor, flat: list[Tensor]) -> Tensor:
        """Means over row, column, grid and near component, side by side."""
        found = []
        for axes in ((2,), (1,), (1, 2)):
            count = torch.clamp(mask.sum(axes, keepdim=True), min=1.0)
            found.append((y.sum(axes, keepdim=True) / count) * torch.ones_like(y))
        for _ in range(2):
            total, degree = y, torch.ones_like(mask)
            for axis, e in zip((1, 2), flat, strict=True):
                total = total + e * shift(y, axis, 1) + shift(e * y, axis, -1)
                degree = degree + e + shift(e, axis, -1)
            y = total / degree
        return torch.cat([*found, y], -1)

    def forward(self, x: Tensor, code: Tensor, mask: Tensor, flat: list[Tensor]) -> Tensor:
        y = rms_norm(x) * mask
        section = self.inner(y).reshape(*y.shape[:-1], self.stalk, y.shape[-1] // self.stalk)
        x = x - self.outer(gelu_tanh(diffused(self.edges(y, mask), section).reshape(y.shape)))
        if self.long is not None:
            x = x + gelu_tanh(self.long(self.means(y, mask, flat)))
        z = scale_shift(self.condition(code), rms_norm(x))
        return (x + self.down(gelu_tanh(self.up(z)))) * mask


def scale_shift(both: Tensor, x: Tensor) -> Tensor:
    scale, moved = both.chunk(2, -1)
    return x * (1 + scale) + moved


class SheafEncoderTwin(nn.Module):
    """keys [p, h, w, k] of a task's cells; all inputs float, [p, h, w, ...].

    stalks [.., STALK]; targets: indicators of the demonstrations' colours [p - 1, h, w, v]; changed [p - 1, h, w, 1]: cells
    whose colour is not their first source's; mask, down, right [p, h, w, 1]: cells, and edges between cells of one colour.
    """

    def __init__(self, config: SheafSolverConfig):
        super().__init__()
        if config.maps != "diagonal":
            raise UserError(f"expected diagonal restriction maps for a twin, got {config.maps}; train with model.maps=diagonal")
        d = config.width
        self.embed = nn.Linear(STALK, d)
        self.pair_in, self.pair_out = nn.Linear(d + COLORS + SOURCES + 1, d), nn.Linear(d, d)
        self.code_out, self.code_in = nn.Linear(2 * d, d), nn.Linear(d, 2 * d)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.layers)])
        width = d * (config.layers + 1)
        self.gate, self.key = nn.Linear(d, width), nn.Linear(width, config.keys)
        self.tap: Tap = no_tap

    def task_code(self, embedded: Tensor, targets: Tensor, changed: Tensor, mask: Tensor) -> Tensor:
        pair = torch.cat([gelu_tanh(embedded), targets, changed], -1)
        u = self.pair_out(gelu_tanh(self.pair_in(pair)))
        mean = lambda w: (u * w).sum((0, 1, 2)) / (w.sum((0, 1, 2)) + 1e-3)
        code = torch.cat([mean(mask), mean(mask * changed)], -1).reshape(1, -1)
        return rms_norm(gelu_tanh(self.code_out(code)))

    def forward(self, stalks: Tensor, targets: Tensor, changed: Tensor, mask: Tensor, down: Tensor, right: Tensor) -> Tensor:
        known = targets.shape[0]
        embedded = self.embed(stalks)
        code = self.tap("code", self.task_code(embedded[:known], targets, changed, mask[:known]))
        x = scale_shift(self.code_in(code), gelu_tanh(embedded)) * mask
        sections = [rms_norm(x)]
        for i, layer in enumerate(self.layers):
            x = self.tap(f"layer{i}", layer(x, code, mask, [down, right]))
            sections.append(rms_norm(x))
        joint = torch.cat(sections, -1) * torch.sigmoid(2.0 + self.gate(code))
        return self.tap("keys", rms_norm(self.key(joint)) * mask)
