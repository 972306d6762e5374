"""Weight maps cover both sides exactly, keep every number, and name all problems at once."""

import numpy as np
import pytest
import torch

from jaxsrc.errors import UserError
from torch_bridge.weights import CONV, Row, WeightMap, linear

MAP = WeightMap([*linear("0", "first"), Row("1.weight", "norm.scale"), Row("1.bias", "norm.bias"), *linear("2", "last")])


def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))


def like():
    zeros = lambda *s: np.zeros(s, np.float32)
    return {
        "first": {"kernel": zeros(3, 4), "bias": zeros(4)},
        "norm": {"scale": zeros(4), "bias": zeros(4)},
        "last": {"kernel": zeros(4, 2), "bias": zeros(2)},
    }


def test_both_directions_keep_every_number_and_the_function():
    net = module()
    params = MAP.to_jax(net.state_dict(), like())
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    y = x @ params["first"]["kernel"] + params["first"]["bias"]
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
    y = (y * params["norm"]["scale"] + params["norm"]["bias"]) @ params["last"]["kernel"] + params["last"]["bias"]
    np.testing.assert_allclose(y, net(torch.from_numpy(x)).detach().numpy(), atol=1e-5)
    back = MAP.to_torch(params, net.state_dict())
    assert all(torch.equal(back[k], v) for k, v in net.state_dict().items())


def test_a_convolution_kernel_is_turned_there_and_back():
    w = np.random.default_rng(1).normal(size=(5, 2, 3, 4))
    assert CONV.to_jax(w).shape == (3, 4, 2, 5)
    np.testing.assert_array_equal(CONV.to_torch(CONV.to_jax(w)), w)


def test_every_problem_is_named_at_once():
    state = dict(module().state_dict())
    state["extra"] = state.pop("2.bias")
    target = like()
    target["first"]["kernel"] = np.zeros((4, 3), np.float32)
    with pytest.raises(UserError) as caught:
        MAP.to_jax(state, target)
    text = str(caught.value)
    assert "torch tensor 2.bias: expected by the map, absent" in text
    assert "torch tensor extra: not in the map" in text
    assert "first.kernel: expected shape (4, 3), got (3, 4)" in text
