"""The interpreter of saved packages: its operations against torch, its reader against packed bits, its refusals."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from jaxsrc.errors import UserError
from torch_bridge import coreml, mil_ops
from torch_bridge.exportable import Exportable
from torch_bridge.mil_blob import unpack_bits
from torch_bridge.mil_eval import DATA, Package

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("bits,signed", [(1, False), (2, False), (4, False), (4, True), (6, False), (8, False)])
def test_packed_integers_are_unpacked(bits, signed):
    values = RNG.integers(0, 1 << bits, 13)
    stream = np.concatenate([(v >> np.arange(bits)) & 1 for v in values]).astype(np.uint8)
    packed = np.packbits(stream, bitorder="little")
    wanted = np.where(values >= 1 << (bits - 1), values - (1 << bits), values) if signed else values
    np.testing.assert_array_equal(unpack_bits(packed, bits, 13, signed), wanted)


@pytest.mark.parametrize("stride,padding,groups", [(1, 0, 1), (2, 1, 1), (1, 1, 2)])
def test_convolution_is_torchs(stride, padding, groups):
    x, w, b = RNG.normal(size=(2, 4, 7, 6)), RNG.normal(size=(6, 4 // groups, 3, 3)), RNG.normal(size=6)
    args = {"x": x, "weight": w, "bias": b, "strides": [stride] * 2, "pad_type": "custom", "pad": [padding] * 4, "groups": groups}
    wanted = functional.conv2d(*map(torch.from_numpy, (x, w, b)), stride, padding, 1, groups)
    np.testing.assert_allclose(mil_ops.conv(args), wanted, atol=1e-12)


def test_activations_and_norms_are_torchs():
    x = RNG.normal(size=(3, 4, 8))
    t = torch.from_numpy(x)
    both = lambda name, wanted, **more: np.testing.assert_allclose(mil_ops.OPS[name]({"x": x, **more}), wanted, atol=1e-12)
    both("gelu", functional.gelu(t), mode="EXACT")
    both("gelu", functional.gelu(t, approximate="tanh"), mode="TANH_APPROXIMATION")
    both("silu", functional.silu(t))
    both("softplus", functional.softplus(t))
    both("softmax", torch.softmax(t, 1), axis=1)
    g, b = RNG.normal(size=8), RNG.normal(size=8)
    wanted = functional.layer_norm(t, (8,), torch.from_numpy(g), torch.from_numpy(b), 1e-3)
    both("layer_norm", wanted, axes=[-1], gamma=g, beta=b, epsilon=1e-3)
    q, k, v = (torch.from_numpy(RNG.normal(size=(2, 3, 5, 4))) for _ in range(3))
    mask = torch.ones(5, 5).tril().bool()
    args = {"query": q.numpy(), "key": k.numpy(), "value": v.numpy(), "attn_mask": mask.numpy()}
    np.testing.assert_allclose(mil_ops.attention(args), functional.scaled_dot_product_attention(q, k, v, mask), atol=1e-12)


def test_slices_follow_their_masks():
    x = np.arange(24).reshape(2, 3, 4)
    args = {"x": x, "begin": [1, 0, 1], "end": [9, 2, 0], "end_mask": [False, False, True], "squeeze_mask": [True, False, False]}
    np.testing.assert_array_equal(mil_ops.slice_by_index(args), x[1, 0:2, 1:])
    np.testing.assert_array_equal(mil_ops.slice_by_size({"x": x, "begin": [0, 1, 2], "size": [2, -1, 1]}), x[:, 1:, 2:3])
    np.testing.assert_array_equal(mil_ops.reshape({"x": x, "shape": [0, -1]}), x.reshape(2, 12))
    np.testing.assert_array_equal(mil_ops.band_part({"x": x, "lower": -1, "upper": 0})[0], np.tril(x[0]))


class Rows(torch.nn.Module):
    """The norm that a twin uses, and a plain product."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(48, 64)

    def forward(self, x):
        from torch_bridge.twins.parts import rms_norm

        return self.linear(rms_norm(x))


@pytest.fixture(scope="module")
def made():
    return Exportable("rows", Rows().eval(), ("x",), "y", lambda i: i["x"], lambda n: [], lambda i, o: o)


@pytest.fixture(scope="module")
def package(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "rows.mlpackage"
    model = coreml.convert(made, {"x": np.zeros((3, 48), np.float32)}, coreml.Options("float16"))
    coreml.save(model, made, coreml.Options("float16"), path)
    return path


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 300.0, 2000.0])
def test_zero_and_large_rows_come_out_finite_and_right_in_half_precision(made, package, scale):
    x = (scale * RNG.normal(size=(3, 48))).astype(np.float32)
    wanted = made.torch({"x": x}, torch.float64)
    found = Package(package).run({"x": x}, "rounded")["y"]
    assert np.isfinite(found).all()
    assert np.abs(found - wanted).max() <= 5e-3 * max(np.abs(wanted).max(), 1e-3)


def test_the_package_names_what_it_takes_and_gives(package):
    found = Package(package)
    assert [i.name for i in found.inputs] == ["x"] and found.outputs == ["y"]
    assert found.metadata["sheaf.precision"] == "float16" and found.operations["linear"] == 1


def test_what_core_ml_would_refuse_is_refused(package):
    found = Package(package)
    for inputs, message in (
        ({"x": np.zeros((4, 48), np.float32)}, r"expected a shape within .* got \(4, 48\)"),
        ({"x": np.zeros((3, 48), np.int32)}, "expected floats, got int32"),
        ({"z": np.zeros((3, 48), np.float32)}, "expected inputs x, got z"),
    ):
        with pytest.raises(UserError, match=message):
            found.run(inputs)


def test_damage_is_named(package, tmp_path):
    import shutil

    copy = tmp_path / "rows.mlpackage"
    shutil.copytree(package, copy)
    weights = copy / DATA / "weights" / "weight.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="it is damaged"):
        Package(copy).run({"x": np.zeros((3, 48), np.float32)})
    (copy / DATA / "model.mlmodel").write_bytes(b"\xff\xff\xff")
    with pytest.raises(UserError, match="damaged"):
        Package(copy)
    with pytest.raises(UserError, match=r"expected an \.mlpackage"):
        Package(tmp_path)
