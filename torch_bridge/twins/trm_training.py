"""TRM's training in eager torch: loss, halting carry, AdamATan2, the puzzle table's sign-SGD."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from torch_bridge.twins.grid_decoder import GridDecoderTwin


def stablemax_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """-log(s_label / sum s) with s = x + 1 or 1 / (1 - x), in float64 as the source computes it."""
    x = logits.double()
    s = torch.where(x < 0, 1 / (1 - x + 1e-30), x + 1)
    log = torch.log(s / s.sum(-1, keepdim=True))
    return -log.gather(-1, labels.long()[..., None])[..., 0]


class AdamATan2(torch.optim.Optimizer):
    """p <- p (1 - lr decay) - lr atan2(m, sqrt(v) / sqrt(1 - b2^t)) / (1 - b1^t)."""

    def __init__(self, params: Iterable[Tensor], lr: float, betas: tuple[float, float], weight_decay: float):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})
        self.made = 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.made += 1
        for group in self.param_groups:
            b1, b2 = group["betas"]
            first, root = 1 - b1**self.made, (1 - b2**self.made) ** 0.5
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["m"], state["v"] = torch.zeros_like(p), torch.zeros_like(p)
                state["m"].lerp_(p.grad, 1 - b1)
                state["v"].lerp_(p.grad.square(), 1 - b2)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(torch.atan2(state["m"], state["v"].sqrt() / root), alpha=-group["lr"] / first)


class Training:
    """One supervised step of every row a call; rows that halted take the new data, the others keep theirs."""

    def __init__(
        self, twin: GridDecoderTwin, batch: int, lr: float, betas: tuple[float, float], decay: float, table_rate: float,
        table_decay: float,
    ):
        c = twin.config
        self.twin, self.rate, self.table_decay = twin, table_rate, table_decay
        self.optimizer = AdamATan2(twin.parameters(), lr, betas, decay)
        self.y, self.z = (torch.zeros(batch, c.tokens, c.width) for _ in range(2))
        self.halted, self.steps = torch.ones(batch, dtype=torch.bool), torch.zeros(batch, dtype=torch.int64)
        self.row: dict[str, Tensor] = {}

    def step(self, batch: dict[str, Tensor]) -> float:
        """Loss before the update; no exploration."""
        twin, fresh = self.twin, self.halted
        pick = lambda new, old: torch.where(fresh.view(-1, *[1] * (new.ndim - 1)), new, old)
        self.row = {k: pick(v, self.row[k]) for k, v in batch.items()} if self.row else dict(batch)
        y, z = pick(twin.H_init.expand_as(self.y), self.y), pick(twin.L_init.expand_as(self.z), self.z)
        steps = torch.where(fresh, 0, self.steps) + 1
        inputs, labels, ids = self.row["inputs"].long(), self.row["labels"].long(), self.row["puzzle"].long()
        rows = twin.puzzle_emb.weights[ids].clone().requires_grad_()
        y, z, logits, halt = twin(inputs, rows, y, z)
        counted = labels > 0
        nats = torch.where(counted, stablemax_nats(logits, labels), 0.0).sum(1) / counted.sum(1).clamp(min=1)
        exact = torch.where(counted, logits.argmax(-1) == labels, True).all(1)
        halting = functional.binary_cross_entropy_with_logits(halt, exact.float(), reduction="sum")
        loss = (nats.sum() + 0.5 * halting) / len(labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if rows.grad is not None and self.rate:
            self._table(ids, rows.grad)
        self.y, self.z, self.steps = y, z, steps
        self.halted = (steps >= twin.config.halt_steps) | (halt.detach() > 0)
        return float(loss.detach())

    @torch.no_grad()
    def _table(self, ids: Tensor, gradient: Tensor) -> None:
        unique, back = ids.unique(return_inverse=True)
        summed = torch.zeros(len(unique), gradient.shape[1]).index_add_(0, back, gradient)
        table = self.twin.puzzle_emb.weights
        table[unique] = table[unique] * (1 - self.rate * self.table_decay) - self.rate * summed.sign()
