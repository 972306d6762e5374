"""Pictures as an experiment: a vision transformer on digits or CIFAR-10, through whichever gate."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from jaxsrc.data import images
from jaxsrc.data.image_augment import AugmentConfig, augment
from jaxsrc.data.images import CLASSES, ImageDataConfig, Images
from jaxsrc.errors import UserError
from jaxsrc.examples import EarlyHead, PerExample
from jaxsrc.models.vit import ViT, ViTConfig, check
from jaxsrc.modules.significance import of_logits
from jaxsrc.protocol import PyTree
from jaxsrc.report import Report
from jaxsrc.scoring import wilson

SCALE = {"digits": (0.5, 0.5), "cifar10": (0.4734, 0.2516)}  # mean and deviation of the pixels, which lie in [0, 1]
ROWS = 256  # pictures that a validation computes at a time


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """batch: pictures that a step trains on; epochs: of the data set, as the gate sees them; steps: instead of the epochs, if
    not 0; smoothing: share of the label spread over all classes."""

    kind: Literal["image"] = "image"
    data: ImageDataConfig = field(default_factory=ImageDataConfig)
    model: ViTConfig = field(default_factory=ViTConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    batch: Annotated[int, Field(ge=1)] = 64
    epochs: Annotated[float, Field(gt=0)] = 20.0
    steps: Annotated[int, Field(ge=0)] = 0
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ImageExamples:
    """See `examples.Examples`. Pictures are read on the first batch or validation."""

    def __init__(self, config: ImageConfig):
        self.config = config
        self.side, self.channels = images.shape(config.data)
        check(config.model, self.side)
        if config.augment.crop >= self.side or config.augment.cutout > self.side:
            raise UserError(f"augment: expected crop and cutout below the pictures' {self.side} pixels; lower them")
        self.name = f"{config.data.source} pictures"
        self.batch, self.epochs, self.steps = config.batch, config.epochs, config.steps
        self.graph = nnx.graphdef(nnx.eval_shape(lambda: self._make(nnx.Rngs(0))))
        layers = config.model.exit_layer
        self.early = EarlyHead(layers / config.model.layers, self._early_measured) if layers else None

    def _make(self, rngs: nnx.Rngs) -> ViT:
        return ViT(self.config.model, self.side, self.channels, CLASSES, rngs)

    @property
    def count(self) -> int:
        return images.size(self.config.data)

    @property
    def resident_shapes(self) -> dict[str, Any]:
        n, shape = self.count, jax.ShapeDtypeStruct
        return {
            "images": shape((n, self.side, self.side, self.channels), jnp.uint8),
            "labels": shape((n,), jnp.int32),
            "spread": shape((n,), jnp.float32),
        }

    @cached_property
    def data(self) -> Images:
        return images.load(self.config.data)

    def resident(self) -> dict[str, Any]:
        train = self.data.train
        spread = np.concatenate([x.std((1, 2, 3), dtype=np.float32) / 255 for x in np.array_split(train.images, 20)])
        return {"images": train.images, "labels": train.labels.astype(np.int32), "spread": spread}

    def init(self, key: Array) -> PyTree:
        return nnx.to_pure_dict(nnx.state(self._make(nnx.Rngs(key)), nnx.Param))

    def model(self, params: PyTree) -> ViT:
        return nnx.merge(self.graph, params)

    def scaled(self, pixels: Array, dtype: Any) -> Float[Array, "b h w c"]:
        """Pixels with mean 0 and deviation 1 over the data set, in the parameters' type."""
        mean, deviation = SCALE[self.config.data.source]
        return ((pixels.astype(jnp.float32) / 255 - mean) / deviation).astype(dtype)

    def losses(self, params: PyTree, rows: dict[str, Array], key: Array | None) -> PerExample:
        model, labels = self.model(params), rows["labels"]
        x = self.scaled(rows["images"], jax.tree.leaves(params)[0].dtype)
        mixed, inside = None, None
        if key is not None:
            outside, inside = jax.random.split(key)
            mixed = augment(x, self.config.augment, outside)
            x = mixed.images
        logits, early = model(x, key=inside)
        target = jax.nn.one_hot(labels, CLASSES)
        if mixed is not None and self.config.augment.mixup:
            target = mixed.share[:, None] * target + (1 - mixed.share[:, None]) * target[mixed.partner]
        if key is not None and self.config.smoothing:
            target = optax.smooth_labels(target, self.config.smoothing)
        cross = partial(optax.softmax_cross_entropy, labels=target)
        right = (logits.argmax(-1) == labels).astype(jnp.float32)
        nothing = jnp.zeros(len(labels))
        return PerExample(cross(logits), of_logits(logits, labels), right, nothing if early is None else cross(early))

    def _early_measured(self, params: PyTree, rows: dict[str, Array]) -> Float[Array, "b 4"]:
        x = self.scaled(rows["images"], jax.tree.leaves(params)[0].dtype)
        return of_logits(self.model(params).early(x), rows["labels"])

    @cached_property
    def _test(self) -> Any:
        """Compiled sums of loss and of right answers over the test pictures, padded to whole blocks."""
        test = self.data.test
        n = len(test.labels)
        blocks = -(-n // ROWS)
        index = np.arange(blocks * ROWS).reshape(blocks, ROWS)
        pixels, labels = jax.device_put(test.images), jax.device_put(test.labels.astype(np.int32))

        def whole(params: PyTree, pixels: Array, labels: Array) -> tuple[Array, Array]:
            def block(at: Array) -> tuple[Array, Array]:
                rows = jnp.minimum(at, n - 1)
                found = self.losses(params, {"images": pixels[rows], "labels": labels[rows]}, None)
                inside = at < n
                return jnp.where(inside, found.loss, 0), inside & (found.right > 0)

            loss, right = jax.lax.map(block, index)
            return loss.sum() / n, right.reshape(-1)[:n]

        run = jax.jit(whole)
        return lambda params: run(params, pixels, labels)

    def scores(self, params: PyTree) -> tuple[float, Bool[np.ndarray, "n"]]:
        """Mean test loss, and which test pictures the model has right."""
        loss, right = self._test(params)
        return float(loss), np.asarray(right)

    def validate(self, params: PyTree) -> dict[str, float]:
        loss, right = self.scores(params)
        return {"val/accuracy": float(right.mean()), "val/loss": loss}

    def finish(self, params: PyTree, report: Report) -> None:
        loss, right = self.scores(params)
        low, high = wilson(int(right.sum()), len(right))
        noise = self.config.data.label_noise
        report.note(f"data: {self.data.note}" + (f"; {noise:.0%} of the training labels are wrong on purpose" if noise else ""))
        report.table(
            "test",
            ("pictures", "right", "accuracy", "95 % interval", "loss"),
            [(len(right), int(right.sum()), float(right.mean()), f"{low:.4f} - {high:.4f}", loss)],
        )
