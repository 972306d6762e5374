"""The vision transformer: the published size, the early head, what it refuses, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxsrc.errors import UserError
from jaxsrc.models.vit import ViT, ViTConfig, check, patches
from jaxsrc.modules.taps import Taps
from jaxsrc.state import count, leaf_table

SMALL = ViTConfig(patch=2, width=16, layers=3, heads=2, hidden=32, exit_layer=1, registers=2)


def make(config, side=8, channels=1):
    model = ViT(config, side, channels, 10, nnx.Rngs(0))
    return nnx.graphdef(model), nnx.to_pure_dict(nnx.state(model, nnx.Param))


def test_the_original_has_the_published_parameters():
    config = ViTConfig(dropout=0.1, norm="post", activation="relu", pooling="class")
    shapes = nnx.eval_shape(lambda: ViT(config, 32, 3, 10, nnx.Rngs(0)))
    # embedding, class token, 65 places; 6 layers of attention and feed-forward with biases and two norms; norm and head
    layer = 4 * (256 * 256 + 256) + 2 * 256 * 512 + 512 + 256 + 4 * 256
    assert count(nnx.to_pure_dict(nnx.state(shapes, nnx.Param))) == 48 * 256 + 256 + 256 + 65 * 256 + 6 * layer + 512 + 2570


def test_patches_are_squares_row_by_row():
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert patches(image, 2)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize("config", [SMALL, ViTConfig(patch=2, width=16, layers=2, heads=2, hidden=32, norm="post", pooling="class")])
def test_logits_early_head_and_taps(config):
    graph, params = make(config)
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    model = nnx.merge(graph, params)
    taps = Taps(keep=["pooled", "layer0.output"])
    logits, early = model(images, taps=taps)
    taps.check()
    assert logits.shape == (3, 10) and logits.dtype == jnp.float32
    assert taps.kept["layer0.output"].shape == (3, 16 + model.first, 16)
    if config.exit_layer:
        np.testing.assert_allclose(model.early(images), early, atol=1e-5)
    else:
        assert early is None


def test_patches_may_move_together_with_their_places_only():
    """Without positions the mean of patches does not see their order; with them it does."""
    graph, params = make(ViTConfig(patch=2, width=16, layers=2, heads=2, hidden=32))
    image = jax.random.normal(jax.random.key(1), (1, 8, 8, 1))
    swapped = jnp.concatenate([image[:, 4:], image[:, :4]], 1)
    run = lambda p, x: nnx.merge(graph, p)(x)[0]
    assert np.abs(np.asarray(run(params, image) - run(params, swapped))).max() > 1e-4
    still = {**params, "positions": jnp.zeros_like(params["positions"])}
    np.testing.assert_allclose(run(still, image), run(still, swapped), atol=1e-5)


def test_dropout_needs_a_key():
    graph, params = make(ViTConfig(patch=2, width=16, layers=1, heads=2, hidden=32, dropout=0.5))
    image = jnp.ones((2, 8, 8, 1))
    model = nnx.merge(graph, params)
    np.testing.assert_array_equal(model(image)[0], model(image)[0])
    assert np.abs(np.asarray(model(image, key=jax.random.key(0))[0] - model(image)[0])).max() > 1e-4


def test_it_overfits_one_batch_with_one_compilation():
    graph, params = make(SMALL)
    images = jax.random.normal(jax.random.key(0), (16, 8, 8, 1))
    labels = jnp.arange(16) % 10
    optimizer, compiled = optax.adam(1e-2), []

    def loss(params):
        compiled.append(1)
        logits, early = nnx.merge(graph, params)(images)
        each = optax.softmax_cross_entropy_with_integer_labels
        return each(logits, labels).mean() + each(early, labels).mean()

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    for _ in range(60):
        params, state, value = step(params, state)
    assert float(value) < 0.1 and len(compiled) == 1


def test_the_parameter_tree_is_the_known_one():
    _, params = make(SMALL)
    table = leaf_table(params)
    assert table["embed.kernel"] == "float32[4,16]" and table["positions"] == "float32[18,16]"
    assert {n.split(".")[0] for n in table} == {"embed", "exit", "extra", "head", "layers", "positions"}
    assert len(table) == 2 + 1 + 1 + 3 * 16 + 2 * 4


@pytest.mark.parametrize(
    ("config", "side"),
    [(ViTConfig(patch=3), 8), (ViTConfig(width=30, heads=4), 32), (ViTConfig(layers=2, exit_layer=2), 32)],
)
def test_sizes_that_do_not_fit_are_refused(config, side):
    with pytest.raises(UserError, match=r"expected .* got"):
        check(config, side)
