"""A vision transformer's run beside its twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsrc.data.images import CLASSES
from jaxsrc.image_experiment import SCALE, ImageExamples
from jaxsrc.models.vit import ViTConfig
from jaxsrc.protocol import PyTree
from torch_bridge.exportable import Exportable, Flexible, Inputs, record
from torch_bridge.maps import vit as vit_map
from torch_bridge.twins.vit import ViTTwin


@dataclass(frozen=True)
class Pictures:
    """What the export asks of a run on pictures. graph: of a `ViT`; mean, deviation: of the pixels in [0, 1];
    held_out: how many -> (pixels uint8[n, h, w, c], labels int[n]) that training has not seen."""

    config: ViTConfig
    graph: Any
    side: int
    channels: int
    classes: int
    mean: float
    deviation: float
    held_out: Callable[[int], tuple[np.ndarray, np.ndarray]]


def of_pictures(pictures: Pictures, params: PyTree) -> Exportable:
    """pixels float32[b, h, w, c] in [0, 255] -> logits [b, classes]."""
    c = pictures
    twin = ViTTwin(c.config, c.side, c.channels, c.classes, c.mean, c.deviation)
    kept = {k: v for k, v in jax.device_get(params).items() if k != vit_map.EXIT}
    twin.load_state_dict(vit_map.weight_map(c.config).to_torch(kept, twin.state_dict()))

    def model(p: PyTree, pixels: jax.Array, **more) -> jax.Array:
        return nnx.merge(c.graph, p)((pixels / 255 - c.mean) / c.deviation, **more)[0]

    run = jax.jit(model)

    def samples(count: int) -> list[tuple[Inputs, np.ndarray]]:
        pixels, labels = c.held_out(count)
        return [({"pixels": x[None].astype(np.float32)}, y[None]) for x, y in zip(pixels, labels, strict=True)]

    return Exportable(
        name="vit",
        twin=twin.eval(),
        inputs=("pixels",),
        output="logits",
        jax=lambda i: np.asarray(run(params, jnp.asarray(i["pixels"]))),
        samples=samples,
        scores=lambda i, out: out,
        flexible=(Flexible("pixels", 0, "batch", 64),),
        classes=c.classes,
        record=lambda i: record(lambda taps: model(params, jnp.asarray(i["pixels"]), taps=taps)),
        metadata={"sheaf.model": "vit"},
    )


def of_images(examples: ImageExamples, params: PyTree) -> Exportable:
    """Of a run on digits or CIFAR-10; its samples are spread over the test pictures."""
    c = examples.config

    def held_out(count: int) -> tuple[np.ndarray, np.ndarray]:
        test = examples.data.test
        at = np.linspace(0, len(test.labels) - 1, count).round().astype(int)
        return test.images[at], test.labels[at]

    mean, deviation = SCALE[c.data.source]
    sizes = (examples.side, examples.channels, CLASSES)
    return of_pictures(Pictures(c.model, examples.graph, *sizes, mean, deviation, held_out), params)
