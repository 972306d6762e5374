"""Twins equal their models: every unit with its gradient, every layer by name, and the first that diverges is named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jaxsrc.errors import UserError
from jaxsrc.modules.gated_feedforward import ANY_UNITS, GateConfig, GatedFeedForward
from jaxsrc.modules.gated_units import AlphaConfig
from jaxsrc.modules.norm import rms_norm
from tests.small_models import ALPHA, moved, small_encoder, small_lm
from torch_bridge.maps.gated_lm import feedforward
from torch_bridge.parity import parity
from torch_bridge.twins.gated_units import GatedFeedForward as TwinFeedForward
from torch_bridge.twins.gated_units import alpha_point
from torch_bridge.twins.parts import gelu_tanh, no_tap
from torch_bridge.twins.parts import rms_norm as twin_rms_norm
from torch_bridge.weights import WeightMap


@pytest.mark.parametrize("unit", ANY_UNITS)
def test_a_unit_and_its_gradient_equal_the_twins(unit):
    alpha = ALPHA if unit != "paGRU" else AlphaConfig(kind="learnable", value=0.4)
    feed = GatedFeedForward(6, 8, nnx.Rngs(0), unit=unit, alpha=alpha, gate_norm=unit != "paGRU")
    graph, state = nnx.split(feed)
    state = moved(state, by=0.2)
    params = jax.device_get(nnx.to_pure_dict(state))
    twin = TwinFeedForward(6, 8, unit, alpha_point(alpha, 1.0), unit != "paGRU")
    gate = GateConfig(unit=unit, alpha=alpha, gate_norm=unit != "paGRU")
    rows = [dataclasses.replace(r, torch=r.torch[2:], path=r.path[2:]) for r in feedforward(gate, "f")]
    table = WeightMap(rows)
    twin.load_state_dict(table.to_torch(params, twin.state_dict()))
    x = np.random.default_rng(1).normal(size=(7, 6)).astype(np.float32)
    loss = lambda s, v: (nnx.merge(graph, s)(v) ** 2).mean()
    value, (by_params, by_x) = jax.jit(jax.value_and_grad(loss, (0, 1)))(state, jnp.asarray(x))
    inside = torch.from_numpy(x).requires_grad_()
    out = (twin(inside, no_tap, "f") ** 2).mean()
    out.backward()
    np.testing.assert_allclose(value, out.item(), rtol=1e-6)
    np.testing.assert_allclose(by_x, inside.grad.numpy(), atol=1e-6)
    gradients = {n: p.grad for n, p in twin.named_parameters()}
    ours = table.to_torch(jax.device_get(nnx.to_pure_dict(by_params)), gradients)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(ours[name], gradient, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("scale", [0.0, 0.02, 1.0, 500.0, 2000.0])
def test_the_twins_norm_holds_at_zero_and_at_large_rows(scale):
    x = scale * np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    found = twin_rms_norm(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, rms_norm(jnp.asarray(x)), atol=2e-6)


def test_the_twins_gelu_is_the_approximate_one():
    x = np.linspace(-6, 6, 101).astype(np.float32)
    np.testing.assert_allclose(gelu_tanh(torch.from_numpy(x)), jax.nn.gelu(x, approximate=True), atol=1e-6)


@pytest.mark.parametrize(
    "unit,kind", [("paGELU", "learnable"), ("paMishU", "entropy"), ("paGTU", "cosine"), ("paGRU", "fixed"), ("mlp", "fixed")]
)
def test_the_language_models_twin_agrees_layer_by_layer(tmp_path, unit, kind):
    _, _, made = small_lm(tmp_path, unit, AlphaConfig(kind=kind, value=0.3, low=0.1), gate_norm=unit == "paGELU")
    found = parity(made, made.samples(1)[0][0])
    names = [x.name for x in found.layers]
    assert names[0] == "embed" and names[-1] == "output logits" and "block1.attention.out" in names
    assert ("block0.feedforward.alpha" in names) == (unit != "mlp")
    found.require()


def test_the_encoders_twin_agrees():
    made = small_encoder()
    for inputs, _ in made.samples(2):
        parity(made, inputs).require()


def test_the_first_layer_that_diverges_is_named(tmp_path):
    _, _, made = small_lm(tmp_path)
    inputs = made.samples(1)[0][0]
    with torch.no_grad():
        made.twin.blocks[1].feedforward.down.bias[3] += 0.01
    found = parity(made, inputs)
    assert found.first is not None and found.first.name == "block1.feedforward.out"
    message = r"at block1\.feedforward\.out, the first that diverges \(block1\.feedforward\.hidden agrees"
    with pytest.raises(UserError, match=message):
        found.require()


def test_weights_reach_the_twin_exactly(tmp_path):
    experiment, params, made = small_lm(tmp_path)
    from torch_bridge.maps.gated_lm import weight_map

    back = weight_map(experiment.config.model).to_jax(made.twin.state_dict(), params)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), back, jax.device_get(params)))
    assert {"blocks.0.feedforward.unit.alpha.shift"} <= set(made.twin.state_dict())


def test_the_twins_schedule_is_the_models():
    from jaxsrc.modules.gated_feedforward import kinds_of
    from jaxsrc.modules.gated_units import alpha_of, gating

    for kind in ("cosine", "reversed", "linear", "fixed"):
        alpha = AlphaConfig(kind=kind, low=0.2, high=0.7, value=0.6)
        kinds = kinds_of("paGLU", alpha)
        for t in (0.0, 0.3, 1.0):
            ours = alpha_of(kinds, gating(kinds, "paGLU", alpha, t), jnp.zeros((1, 2)), None)
            np.testing.assert_allclose(ours, alpha_point(alpha, t).value, atol=1e-6)
