"""TRM here and in torch: forward, loss, gradients and optimiser steps are the same numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxsrc.errors import UserError
from jaxsrc.hybrid_data import HybridDataConfig
from jaxsrc.hybrid_experiment import HybridConfig, HybridExperiment, TableConfig
from jaxsrc.models.grid_decoder import GridDecoderConfig
from jaxsrc.optim import OptimConfig, make_optimizer
from jaxsrc.state import init_state
from jaxsrc.step import train_step
from tests.small_models import moved
from torch_bridge.maps.grid_decoder import bare, read_checkpoint, weight_map
from torch_bridge.twins.grid_decoder import GridDecoderTwin
from torch_bridge.twins.trm_training import Training, stablemax_nats

BAR = 1e-5  # relative, float32
MODEL = GridDecoderConfig(side=5, slots=2, width=32, heads=2, inner=48, h_cycles=2, l_cycles=2, halt_steps=3, explore=0.0)
DATA = HybridDataConfig(train=2, validate=1, views=2)


def experiment(**change):
    model = dataclasses.replace(MODEL, **change)
    data = dataclasses.replace(DATA, max_side=model.side)
    return HybridExperiment(HybridConfig(data=data, model=model, batch=4, steps=20, table=TableConfig(rate=1e-2)))


def batches(count, made, seed=0):
    """Random grids, so that the rows differ; duplicate puzzles among them."""
    rng = np.random.default_rng(seed)
    s = made.config.model.cells
    for _ in range(count):
        ints = lambda high, *shape: rng.integers(0, high, shape)
        yield {
            "sample": np.zeros(4, np.int32), "inputs": ints(12, 4, s).astype(np.int8), "labels": ints(12, 4, s).astype(np.int8),
            "puzzle": ints(5, 4).astype(np.int32), "shift": np.zeros((4, 2), np.int32),
        }  # fmt: skip


def both(made, seed=0):
    """The same weights, off their start, on both sides."""
    params, carry = jax.jit(made.init)(jax.random.key(seed))
    params, carry = moved(params, seed, 0.02), carry | {"table": moved(carry["table"], 1)}
    twin = GridDecoderTwin(made.config.model, len(carry["table"]))
    like = {"params": params, "table": carry["table"], "start": carry["start"]}
    twin.load_state_dict(weight_map(made.config.model).to_torch(like, twin.state_dict()))
    return params, carry, twin


def close(ours, theirs, what):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, what
    worst = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-12)
    assert worst <= BAR, f"{what}: {worst:.2e}"


VARIANTS = [{}, {"mixer": "tokens", "h_cycles": 1}, {"positions": "learned", "remat": False, "unroll": True, "slots": 1}]


@pytest.mark.parametrize("change", VARIANTS, ids=str)
def test_forward_loss_and_gradients_are_torchs(change):
    made = experiment(**change)
    params, carry, twin = both(made)
    batch = next(batches(1, made))
    with jax.default_matmul_precision("highest"):
        run = jax.jit(jax.value_and_grad(lambda p: made.loss(p, carry, batch, jax.random.key(0), train=True), has_aux=True))
        (loss, (_, after)), gradient = run(params)
    training = Training(twin, 4, 1.0, (0.9, 0.95), 0.0, 0.0, 0.0)
    training.optimizer.step = lambda closure=None: None
    theirs = training.step({k: torch.from_numpy(v) for k, v in batch.items()})
    assert abs(float(loss) - theirs) <= BAR * abs(theirs)
    close(after["latents"]["y"], training.y, "y")
    close(after["latents"]["z"], training.z, "z")
    like = {"params": gradient, "table": carry["table"], "start": carry["start"]}
    mapped = weight_map(made.config.model).to_torch(like, twin.state_dict())
    for name, p in twin.named_parameters():
        close(mapped[name], p.grad, f"gradient of {name}")


@pytest.mark.parametrize("count", [1, 20])
def test_training_steps_are_torchs(count):
    made = experiment()
    params, carry, twin = both(made)
    optim = OptimConfig(
        kind="adam_atan2", learning_rate=1e-3, warmup_steps=0,
        schedule="constant", weight_decay=0.1, b2=0.95, clip_norm=0.0, ema=0.99
    )
    optimizer = make_optimizer(optim, 100)
    state = init_state(made, optimizer, 0, ema=True, scaled=False)
    state = dataclasses.replace(
        state, params=params, opt_state=optimizer.init(params), ema=jax.tree.map(jnp.copy, params), carry=carry
    )
    step = jax.jit(train_step(made, optimizer, jnp.dtype(jnp.float32), optim.ema))
    training = Training(twin, 4, 1e-3, (0.9, 0.95), 0.1, 1e-2, 0.1)
    halted = 0
    with jax.default_matmul_precision("highest"):
        for batch in batches(count, made, 1):
            state, metrics = step(state, batch)
            theirs = training.step({k: torch.from_numpy(v) for k, v in batch.items()})
            ours = jax.device_get(metrics).rows()[0]["loss"][0]
            assert abs(ours - theirs) <= BAR * abs(theirs)
            np.testing.assert_array_equal(np.asarray(state.carry["halted"]), training.halted.numpy())
            halted += int(training.halted.sum())
    assert count == 1 or halted >= 4  # rows took new data on the way
    like = {"params": state.params, "table": state.carry["table"], "start": state.carry["start"]}
    mapped = weight_map(made.config.model).to_torch(like, twin.state_dict())
    for name, value in twin.state_dict().items():
        close(mapped[name], value, f"{name} after {count} steps")


def test_an_official_checkpoint_is_read_under_its_wrapped_names(tmp_path):
    made = experiment()
    params, carry, twin = both(made)
    path = tmp_path / "step_1"
    torch.save({f"_orig_mod.model.inner.{k}": v for k, v in twin.state_dict().items()}, path)
    like = {"params": params, "table": carry["table"], "start": carry["start"]}
    found = read_checkpoint(path, made.config.model, jax.tree.map(jnp.zeros_like, like))
    jax.tree.map(np.testing.assert_array_equal, found, like)
    state = bare(dict(twin.state_dict()))
    del state["lm_head.weight"]
    torch.save(state, path)
    with pytest.raises(UserError, match=r"lm_head\.weight: expected by the map, absent"):
        read_checkpoint(path, made.config.model, like)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="expected a TRM checkpoint"):
        read_checkpoint(path, made.config.model, like)


def test_stablemax_needs_no_float64():
    from jaxsrc.modules.stablemax import stablemax_cross_entropy

    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(400, 12)) * 10.0 ** rng.uniform(-3, 4, (400, 1))).astype(np.float32)
    labels = rng.integers(0, 12, 400)
    wanted = stablemax_nats(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()
    found = stablemax_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    gradient = jax.grad(lambda x: stablemax_cross_entropy(x, jnp.asarray(labels)).sum())(jnp.asarray(logits))
    assert np.isfinite(gradient).all()
