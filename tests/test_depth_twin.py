"""The torch twin: the same logits, layers and gradients on the same weights; state_dicts there and back, the study's too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jaxsrc.errors import UserError
from jaxsrc.models.depth_transformer import DepthTransformer, DepthTransformerConfig
from jaxsrc.modules.taps import Taps
from torch_bridge.maps.depth_transformer import depth_transformer_map, from_study, to_study
from torch_bridge.twins.depth_transformer import TorchDepthTransformer
from torch_bridge.weights import flatten

PILOT = DepthTransformerConfig()
SMALL = DepthTransformerConfig(width=32, layers=2, heads=2, hidden=48, places=4, loops=2)


def pair(config, vocabulary=35):
    """(our graph, parameters, the twin with the same numbers)."""
    model = DepthTransformer(config, vocabulary, nnx.Rngs(0))
    graph, params = nnx.graphdef(model), nnx.to_pure_dict(nnx.state(model, nnx.Param))
    params = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    twin = TorchDepthTransformer(config, vocabulary).eval()
    twin.load_state_dict(depth_transformer_map(config).to_torch(params, twin.state_dict()))
    return graph, params, twin


def tokens(vocabulary=35, seed=0):
    return np.random.default_rng(seed).integers(1, vocabulary, (4, 20))


@pytest.mark.parametrize("config", [PILOT, SMALL], ids=["pilot", "looped with places"])
def test_logits_and_gradients_agree(config):
    graph, params, twin = pair(config)
    table = depth_transformer_map(config)
    x, y = tokens(), tokens(seed=1)

    def loss(p):
        logits = nnx.merge(graph, p)(jnp.asarray(x, jnp.int32))[0]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(y)[..., None], -1)
        return -picked.mean(), logits

    with jax.default_matmul_precision("highest"):
        (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    theirs = twin(torch.from_numpy(x))
    assert np.abs(np.asarray(logits) - theirs.detach().numpy()).max() <= 1e-5
    torch.nn.functional.cross_entropy(theirs.flatten(0, 1), torch.from_numpy(y).flatten()).backward()
    grads = {n: p.grad for n, p in twin.named_parameters()}
    theirs_here = flatten(table.to_jax(grads, params))
    largest = max(np.abs(g).max() for g in theirs_here.values())
    for path, g in flatten(gradient).items():
        assert np.abs(np.asarray(g) - theirs_here[path]).max() <= 1e-5 * largest, path


def test_every_layer_agrees():
    graph, params, twin = pair(PILOT)
    x = tokens()
    taps = Taps(keep=[f"layer{i}.output" for i in range(4)])
    nnx.merge(graph, params)(jnp.asarray(x, jnp.int32), taps=taps)
    found = []
    for block in twin.blocks:
        block.register_forward_hook(lambda m, i, o: found.append(o.detach().numpy()))
    twin(torch.from_numpy(x))
    for i in range(4):
        assert np.abs(np.asarray(taps.kept[f"layer{i}.output"]) - found[i]).max() <= 1e-5


def test_there_and_back_keeps_every_number_also_by_the_studys_names():
    _, params, twin = pair(PILOT)
    study = to_study(twin.state_dict(), PILOT)
    assert study["blocks.0.attn.qkv_proj.weight"].shape == (384, 128) and "lm_head.weight" in study
    back = depth_transformer_map(PILOT).to_jax(from_study(study), params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert sum(p.numel() for p in twin.parameters()) == 664_192
    study["lm_head.weight"] = study["lm_head.weight"] + 1
    with pytest.raises(UserError, match="tie"):
        from_study(study)
