"""Random crops, mirror images, cut-outs and mixtures of pictures, on the device and by key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """crop: pixels that a picture may be shifted by, edges mirrored; flip: left and right; cutout: side of a square set to
    the mean, 0 for none (arXiv:1708.04552); mixup: alpha of the Beta distribution of mixtures, 0 for none
    (arXiv:1710.09412)."""

    crop: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    cutout: Annotated[int, Field(ge=0)] = 0
    mixup: Annotated[float, Field(ge=0)] = 0.0


class Mixed(NamedTuple):
    """images [b, h, w, c]; a row's label counts `share`, that of row `partner` the rest."""

    images: Array
    partner: Int[Array, "b"]
    share: Float[Array, "b"]


def shift(images: Float[Array, "b h w c"], by: int, key: Array) -> Float[Array, "b h w c"]:
    """Each picture moved by up to `by` pixels either way, mirrored at its edges."""
    b, h, w, _ = images.shape
    wide = jnp.pad(images, ((0, 0), (by, by), (by, by), (0, 0)), mode="reflect")
    corner = jax.random.randint(key, (b, 2), 0, 2 * by + 1)
    cut = lambda x, at: jax.lax.dynamic_slice(x, (at[0], at[1], 0), (h, w, x.shape[-1]))
    return jax.vmap(cut)(wide, corner)


def cut_out(images: Float[Array, "b h w c"], side: int, key: Array) -> Float[Array, "b h w c"]:
    """A square of `side` pixels, its centre anywhere in the picture, set to zero, the mean of normalised pictures."""
    b, h, w, _ = images.shape
    centre = jax.random.randint(key, (b, 2), 0, jnp.array([h, w]))
    low = centre - side // 2
    rows, columns = jnp.arange(h)[None], jnp.arange(w)[None]
    inside = lambda at, start: (at >= start) & (at < start + side)
    hole = inside(rows, low[:, :1])[:, :, None] & inside(columns, low[:, 1:])[:, None, :]
    return jnp.where(hole[..., None], 0, images)


def augment(images: Float[Array, "b h w c"], config: AugmentConfig, key: Array) -> Mixed:
    """All that the configuration asks for, each picture drawn on its own; mixtures pair rows at random."""
    b = len(images)
    moved, mirrored, holes, mixed, pairs = jax.random.split(key, 5)
    if config.crop:
        images = shift(images, config.crop, moved)
    if config.flip:
        turn = jax.random.bernoulli(mirrored, 0.5, (b, 1, 1, 1))
        images = jnp.where(turn, images[:, :, ::-1], images)
    if config.cutout:
        images = cut_out(images, config.cutout, holes)
    if not config.mixup:
        return Mixed(images, jnp.arange(b), jnp.ones(b))
    share = jax.random.beta(mixed, config.mixup, config.mixup, (b,))
    share = jnp.maximum(share, 1 - share).astype(jnp.float32)
    partner = jax.random.permutation(pairs, b)
    weight = share[:, None, None, None].astype(images.dtype)
    return Mixed(weight * images + (1 - weight) * images[partner], partner, share)
