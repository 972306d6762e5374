"""A gated language model's run beside its twin."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np

from jaxsrc.protocol import PyTree
from jaxsrc.text_experiment import TextExperiment
from torch_bridge.exportable import Exportable, Flexible, Inputs, record
from torch_bridge.maps import gated_lm as gated_lm_map
from torch_bridge.twins.gated_lm import GatedLMTwin


def of_text(experiment: TextExperiment, params: PyTree) -> Exportable:
    """tokens int32[b, n] -> logits [b, n, vocabulary]; a scheduled alpha as it was at the experiment's step."""
    config, progress = experiment.config.model, experiment.progress
    twin = GatedLMTwin(config, progress)
    table = gated_lm_map.weight_map(config)
    twin.load_state_dict(table.to_torch(jax.device_get(params), twin.state_dict()))
    gating = config.gating(progress)
    run = jax.jit(lambda p, t: experiment.model(p)(t, gating=gating))

    def samples(count: int) -> list[tuple[Inputs, np.ndarray]]:
        tokens, weights = experiment.text.windows(config.length, count)
        labels = np.where(weights > 0, tokens[:, 1:], -1)
        return [({"tokens": t[None, :-1]}, y) for t, y in zip(tokens[:count], labels, strict=False)]

    alphas = {f"alpha of {layer}": f"{mean:.6g}" for layer, mean, *_ in experiment.alphas(params)}
    return Exportable(
        name="gated_lm",
        twin=twin.eval(),
        inputs=("tokens",),
        output="logits",
        jax=lambda inputs: np.asarray(run(params, jnp.asarray(inputs["tokens"]))),
        samples=samples,
        scores=lambda inputs, out: out.reshape(-1, out.shape[-1]),
        flexible=(Flexible("tokens", 1, "length", config.length), Flexible("tokens", 0, "batch", 64)),
        causal=True,
        classes=config.vocabulary,
        record=lambda i: record(lambda t: experiment.model(params)(jnp.asarray(i["tokens"]), gating=gating, taps=t)),
        metadata={"sheaf.model": "gated_lm", "sheaf.alphas": json.dumps(alphas)},
    )
