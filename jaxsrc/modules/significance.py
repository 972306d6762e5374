"""How much a sample matters, from what a forward pass says of it or from what was remembered."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field

from jaxsrc.errors import UserError

MEASURED = ("loss", "entropy", "gradient", "uncertainty")  # the order of `of_logits`; spread comes from the sample alone
Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class SignificanceConfig:
    """Weights of the parts, of any sum: loss: -ln p_y; entropy: -sum p ln p; gradient: |p - y|, the length of the loss's
    gradient in the logits, a proxy of the whole gradient's (arXiv:1803.00942); uncertainty: p_y (1 - p_y), largest where
    the model wavers and small for labels that it is sure are wrong (arXiv:1704.07433); spread: standard deviation of the
    sample's own values (pixels).

    The published script weighs loss 0.7 and spread 0.3, the published package loss 0.7 and entropy 0.3.
    """

    loss: Weight = 0.7
    entropy: Weight = 0.0
    gradient: Weight = 0.0
    uncertainty: Weight = 0.0
    spread: Weight = 0.3


def check(config: SignificanceConfig) -> None:
    """UserError where nothing weighs anything."""
    if sum(asdict(config).values()) <= 0:
        raise UserError("gate.significance: expected weights with a sum above 0, got 0; weigh loss, for example")


def of_logits(logits: Float[Array, "b k"], labels: Int[Array, "b"]) -> Float[Array, "b 4"]:
    """The measured parts, in the order of `MEASURED`."""
    logs = jax.nn.log_softmax(logits.astype(jnp.float32))
    p = jnp.exp(logs)
    right = jnp.take_along_axis(logs, labels[:, None].astype(jnp.int32), 1)[:, 0]
    p_right = jnp.exp(right)
    squares = jnp.maximum((p * p).sum(1) - p_right**2 + (1 - p_right) ** 2, 0)
    return jnp.stack([-right, -(p * logs).sum(1), jnp.sqrt(squares), p_right * (1 - p_right)], 1)


def blend(
    measured: Float[Array, "c 4"], spread: Float[Array, "c"], config: SignificanceConfig
) -> Float[Array, "c"]:
    """s_i = sum_k w_k clip(x_ik / mean_i x_ik, 0, 2) / 2 / sum_k w_k, in [0, 1]: relative to the samples beside it."""
    parts = [*(measured[:, k] for k in range(len(MEASURED))), spread.astype(jnp.float32)]
    by_name = asdict(config)
    weights = [by_name[name] for name in (*MEASURED, "spread")]
    relative = lambda x: jnp.clip(x / jnp.maximum(x.mean(), 1e-12), 0, 2) / 2
    total = sum(w * relative(x) for w, x in zip(weights, parts, strict=True) if w)
    return jnp.asarray(total / sum(weights), jnp.float32)


def aged(
    measured: Float[Array, "c k"], age: Float[Array, "c"], horizon: int | float, unknown: Float[Array, "c"]
) -> Float[Array, "c k"]:
    """Memory that fades: the mean of what is known + (x - mean) exp(-age / horizon); never seen (`unknown` 1): the mean.

    age and horizon in the same unit.
    """
    known = (1 - unknown)[:, None]
    mean = (measured * known).sum(0) / jnp.maximum(known.sum(), 1)
    mean = jnp.where(known.sum() > 0, mean, 1.0)
    keep = jnp.exp(-age / horizon)[:, None] * known
    return mean + (measured - mean) * keep


def capped(scores: Float[Array, "c"], cap: int | float) -> Float[Array, "c"]:
    """Scores no larger than their quantile `cap`."""
    return jnp.minimum(scores, jnp.quantile(scores, cap)) if cap < 1 else scores


def doubtful(gradient: Float[Array, "c"], bound: int | float, share: int | float | Array) -> Bool[Array, "c"]:
    """Samples whose label the model contradicts: |p - y| above `bound`, at most the share `share` with the largest.

    |p - y|^2 = 1 - 2 p_y + sum_k p_k^2: 1 - 1/k where the model knows nothing, 2 where it is sure of another label. So what
    an unsure model gets wrong is kept, and a wrong label is left out for as long as it was not learned by heart.
    """
    return (gradient > bound) & (gradient > jnp.quantile(gradient, 1 - share))
