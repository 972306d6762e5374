"""Text: windows of tokens in, the gated language model trained to say the next one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from pydantic import Field

from jaxsrc.data.text import Text, TextDataConfig, decoder, encoder, read_text
from jaxsrc.errors import UserError
from jaxsrc.models.gated_lm import GatedLM, GatedLMConfig, generate
from jaxsrc.modules.gated_feedforward import GatedFeedForward
from jaxsrc.modules.gated_units import Gating, GatingKinds
from jaxsrc.protocol import Metrics, PyTree, Stage
from jaxsrc.report import Report
from jaxsrc.sweep_config import SweepConfig
from jaxsrc.text_examples import TextExamples


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """batch: windows a step; steps: of training; sweep: train a grid of units, alphas, learning rates and seeds in one
    program instead of one run; prompt: what the sample at the end goes on from."""

    kind: Literal["text"] = "text"
    data: TextDataConfig = field(default_factory=TextDataConfig)
    model: GatedLMConfig = field(default_factory=GatedLMConfig)
    batch: Annotated[int, Field(ge=1)] = 16
    steps: Annotated[int, Field(ge=0)] = 1000
    prompt: str = "def "
    sweep: SweepConfig | None = None


class Scores(NamedTuple):
    """Sums over targets: nats, how many targets, how many right; float32[] on the device, float64[w] by window."""

    nats: Any
    targets: Any
    right: Any


def next_token(logits: Float[Array, "b n v"], targets: Int[Array, "b n"], weights: Float[Array, "b n"]) -> Scores:
    """Cross-entropy of the targets that weigh 1; padding weighs 0 and counts nowhere."""
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    right = (logits.argmax(-1) == targets).astype(jnp.float32)
    return Scores((nats * weights).sum(), weights.sum(), (right * weights).sum())


def measures(nats: float, targets: float, right: float, bytes_per_token: float) -> dict[str, float]:
    """Loss in nats a token, bits a byte, perplexity a token, accuracy; score is minus the bits, since larger is better."""
    loss = nats / targets
    bits = loss / math.log(2) / bytes_per_token
    perplexity = math.exp(min(loss, 700.0))
    return {"loss": loss, "bits_per_byte": bits, "perplexity": perplexity, "accuracy": right / targets, "score": -bits}


class TextExperiment:
    """See `protocol.Experiment`. The text is read on the first batch or validation.

    kinds: what the parameters serve (a sweep's units and alphas); chosen: the unit and alpha of this run as data, as the
    configuration says where None. The carry counts the steps, which scheduled alphas follow.
    """

    def __init__(self, config: TextConfig, kinds: GatingKinds | None = None, chosen: Gating | None = None):
        config.model.check()
        self.config, self.chosen = config, chosen
        self.graph = nnx.graphdef(nnx.eval_shape(lambda: GatedLM(config.model, nnx.Rngs(0), kinds)))
        self.kinds = kinds
        # the end of the training; no array of JAX before the runtime has started
        self.carry: PyTree = {"step": np.int32(max(config.steps, 1))}
        self.stages: Sequence[Stage] = [Stage(f"text, {config.model.length} tokens", config.steps, self._batch_at)]

    @cached_property
    def text(self) -> Text:
        c = self.config
        found = read_text(c.data, c.model.length)
        if found.vocabulary > c.model.vocabulary:
            raise UserError(
                f"experiment.model.vocabulary: expected at least the tokenizer's {found.vocabulary}, got "
                f"{c.model.vocabulary}; set it to that"
            )
        return found

    def _batch_at(self, seed: int, step: int) -> dict[str, np.ndarray]:
        return {"tokens": self.text.batch_at(seed, step, self.config.batch, self.config.model.length)}

    def abstract_batch(self, stage: int) -> dict[str, Any]:
        return {"tokens": jax.ShapeDtypeStruct((self.config.batch, self.config.model.length + 1), jnp.int32)}

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        model = GatedLM(self.config.model, nnx.Rngs(key), self.kinds)
        return nnx.to_pure_dict(nnx.state(model, nnx.Param)), {"step": jnp.int32(0)}

    def model(self, params: PyTree) -> GatedLM:
        return nnx.merge(self.graph, params)

    @property
    def progress(self) -> float:
        """The share of the training that is over, which scheduled alphas follow."""
        return int(self.carry["step"]) / max(self.config.steps, 1)

    def gating(self, carry: PyTree) -> Gating | None:
        """Unit and alpha at this point of the training."""
        progress = jnp.asarray(carry["step"], jnp.float32) / max(self.config.steps, 1)
        if self.chosen is not None:
            return dataclasses.replace(self.chosen, progress=progress)
        return self.config.model.gating(progress)

    def loss(
        self, params: PyTree, carry: PyTree, batch: PyTree, key: Array, *, train: bool
    ) -> tuple[Array, tuple[Metrics, PyTree]]:
        tokens = batch["tokens"]
        dropping = key if train and self.config.model.dropout > 0 else None
        logits = self.model(params)(tokens[:, :-1], gating=self.gating(carry), key=dropping)
        scores = next_token(logits, tokens[:, 1:], jnp.ones(tokens[:, 1:].shape))
        metrics = {"loss": (scores.nats, scores.targets), "accuracy": (scores.right, scores.targets)}
        return scores.nats / scores.targets, (metrics, {"step": carry["step"] + 1})

    @cached_property
    def _score(self) -> Any:
        def score(params: PyTree, carry: PyTree, tokens: Array, weights: Array) -> Scores:
            logits = self.model(params)(tokens[:, :-1], gating=self.gating(carry))
            return jax.vmap(lambda x, t, w: next_token(x[None], t[None], w[None]))(logits, tokens[:, 1:], weights)

        return jax.jit(score)

    def by_window(self, score: Callable[[np.ndarray, np.ndarray], Scores], limit: int) -> Scores:
        """What `score` finds of the validation windows, float64[*r, w]; it is called with (tokens [b, n + 1], weights [b, n]),
        always of one shape, and gives [*r, b]. limit: windows, 0 for all."""
        tokens, weights = self.text.windows(self.config.model.length, limit)
        b, count = self.config.batch, len(tokens)
        tokens, weights = (np.pad(x, ((0, -count % b), (0, 0))) for x in (tokens, weights))
        found = [jax.device_get(score(tokens[i : i + b], weights[i : i + b])) for i in range(0, count, b)]
        return Scores(*(np.concatenate(part, -1).astype(np.float64)[..., :count] for part in zip(*found, strict=True)))

    def window_scores(self, params: PyTree, limit: int) -> Scores:
        """Scores of the validation windows, float64[w] each."""
        return self.by_window(lambda tokens, weights: self._score(params, self.carry, tokens, weights), limit)

    def take(self, carry: PyTree) -> None:
        """See `protocol.Carried`."""
        self.carry = carry

    def examples(self) -> TextExamples:
        """See `examples.Gateable`."""
        return TextExamples(self)

    def validate(self, params: PyTree, stage: int) -> dict[str, float]:
        s = self.window_scores(params, self.config.data.windows)
        found = measures(float(s.nats.sum()), float(s.targets.sum()), float(s.right.sum()), self.text.bytes_per_token)
        return {f"val/{k}": v for k, v in found.items()}

    def sample(self, params: PyTree, prompt: str, tokens: int, seed: int = 0, temperature: float = 0.8) -> str:
        """Text that goes on from a prompt, with the key-value cache; bytes only, or through the tokenizer's file."""
        ids = self._encoded(prompt)
        if not len(ids):
            raise UserError("expected a prompt of at least one token, got none; give some text")
        run = jax.jit(
            lambda p, c, t, k: generate(
                self.model(p), t, tokens, k, temperature=temperature, top_k=40, gating=self.gating(c)
            )
        )
        found = run(params, self.carry, jnp.asarray(ids[None], jnp.int32), jax.random.key(seed))
        return decoder(self.config.data.tokenizer)(np.asarray(found[0]))

    def _encoded(self, prompt: str) -> np.ndarray:
        """As the text that was trained on."""
        return encoder(self.config.data.tokenizer)[0](prompt.encode())

    def continuation(self, params: PyTree) -> str | None:
        """What goes on from the configuration's prompt; None where there is none, or it fills the model's length."""
        prompt = self.config.prompt
        room = self.config.model.length - len(self._encoded(prompt))
        return self.sample(params, prompt, min(room, 200)) if prompt and room > 0 else None

    def alphas(self, params: PyTree) -> list[tuple[str, float, float, float]]:
        """(layer, mean, least, largest alpha) where alpha does not depend on the input."""
        data = self.gating(self.carry)
        rows = []
        for i, block in enumerate(self.model(params).blocks):
            feed = block.feedforward
            if data is not None and isinstance(feed, GatedFeedForward) and "entropy" not in feed.kinds.modes:
                alpha = feed.unit.alpha(data, jnp.zeros((1, self.config.model.width)))
                rows.append((f"block {i}", float(alpha.mean()), float(alpha.min()), float(alpha.max())))
        return rows

    def finish(self, params: PyTree, report: Report) -> None:
        t = self.text
        report.note(f"text: {t.name}, {len(t.train):,} training and {len(t.valid):,} validation tokens")
        rows = self.alphas(params)
        if rows:
            report.table("alpha by layer", ("layer", "mean", "least", "largest"), rows)
        written = self.continuation(params)
        if written is not None:
            report.note(f"sample: {written!r}")
        report.note(f"next: python -m jaxsrc.evaluate {report.run}")
