"""Windows of text as samples that a gate can choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxsrc.examples import PerExample
from jaxsrc.modules.significance import MEASURED, of_logits
from jaxsrc.protocol import PyTree
from jaxsrc.report import Report

if TYPE_CHECKING:
    from jaxsrc.text_experiment import TextExperiment

WINDOWS = 16_384  # spread evenly over the training text, so that their number is known before it is read


class TextExamples:
    """See `examples.Examples`. Loss and significance of a window are means over its tokens; its spread is the standard
    deviation of its token numbers. Alpha is the configuration's at the end of its schedule."""

    early = None

    def __init__(self, text: TextExperiment):
        self.text = text
        self.name = f"windows of {text.config.model.length} tokens"
        self.batch, self.steps = text.config.batch, text.config.steps
        self.epochs = 1.0
        self.length = text.config.model.length

    @property
    def count(self) -> int:
        return WINDOWS

    @property
    def resident_shapes(self) -> dict[str, Any]:
        shape = jax.ShapeDtypeStruct
        return {"tokens": shape((WINDOWS, self.length + 1), jnp.int32), "spread": shape((WINDOWS,), jnp.float32)}

    def resident(self) -> dict[str, Any]:
        text = self.text.text
        tokens = text.at(np.linspace(0, len(text.train) - self.length - 1, WINDOWS).astype(np.int64), self.length)
        return {"tokens": tokens, "spread": tokens.std(1).astype(np.float32)}

    def init(self, key: Array) -> PyTree:
        return self.text.init(key)[0]

    def losses(self, params: PyTree, rows: dict[str, Array], key: Array | None) -> PerExample:
        config = self.text.config
        tokens, targets = rows["tokens"][:, :-1], rows["tokens"][:, 1:]
        dropping = key if config.model.dropout > 0 else None
        logits = self.text.model(params)(tokens, gating=self.text.gating(self.text.carry), key=dropping)
        b, n, v = logits.shape
        measured = of_logits(logits.reshape(b * n, v), targets.reshape(-1)).reshape(b, n, len(MEASURED)).mean(1)
        right = (logits.argmax(-1) == targets).mean(1, dtype=jnp.float32)
        return PerExample(measured[:, 0], measured, right, jnp.zeros(b))

    def validate(self, params: PyTree) -> dict[str, float]:
        return self.text.validate(params, 0)

    def finish(self, params: PyTree, report: Report) -> None:
        self.text.finish(params, report)
