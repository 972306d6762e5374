"""From weights to a verified package: every mutation is caught, every quantisation has its bar, bad input is one line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxsrc import train
from jaxsrc.errors import RunError, UserError
from tests.small_models import small_encoder, small_lm, text_file
from torch_bridge import coreml, export, verify
from torch_bridge.coreml import Options
from torch_bridge.mil_eval import DATA, Package
from torch_bridge.twins import gated_units


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


def shadow_of(made, twin, path):
    """A float32 package of another twin than the model's, as a faulty export would make it."""
    import dataclasses

    faulty = dataclasses.replace(made, twin=twin)
    options = Options("float32")
    coreml.save(coreml.convert(faulty, made.samples(1)[0][0], options), faulty, options, path)
    return Package(path)


def transposed(twin):
    weight = twin.blocks[0].attention.o.weight
    weight.copy_(weight.T.clone())


def swapped(twin):
    unit = twin.blocks[1].feedforward.unit
    value = unit.value.weight.clone()
    unit.value.weight.copy_(unit.gate.weight)
    unit.gate.weight.copy_(value)


def unbiased(twin):
    twin.blocks[0].attention.v.bias.zero_()


def other_epsilon(twin):
    twin.norm.eps = 1e-6


def moved_alpha(twin):
    twin.blocks[1].feedforward.unit.alpha.shift += 0.01 / 0.25  # 0.01 of alpha near its middle


MUTATIONS = [transposed, swapped, unbiased, other_epsilon, moved_alpha]


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda f: f.__name__)
def test_a_faulty_package_fails(folder, mutate):
    import copy

    _, _, made = small_lm(folder)
    twin = copy.deepcopy(made.twin)
    with torch.no_grad():
        mutate(twin)
    checks = verify.check_shadow(made, shadow_of(made, twin, folder / f"{mutate.__name__}.mlpackage"), made.samples(2))
    assert [c.passed for c in checks] == [True, False, False], checks


def test_the_approximate_gelu_for_the_exact_one_fails(folder, monkeypatch):
    from torch_bridge.twins.parts import gelu_tanh

    _, _, made = small_lm(folder)
    with monkeypatch.context() as patched:
        patched.setattr(gated_units.functional, "gelu", gelu_tanh)
        package = shadow_of(made, made.twin, folder / "gelu.mlpackage")
    assert [c.passed for c in verify.check_shadow(made, package, made.samples(2))] == [True, False, False]


def test_a_run_is_exported_with_open_axes_and_altered_packages_are_found(folder, capsys):
    data = text_file(folder)
    run = folder / "run"
    overrides = [
        f"experiment.data={{source: {data.source}}}",
        "experiment.model={length: 16, width: 32, layers: 1, heads: 2, unit: paMishU, alpha: {kind: learnable, value: 0.3}}",
        *("experiment.batch=2", "experiment.steps=4", "optim.warmup_steps=1", "train.best=''", "runtime.device=cpu"),
    ]
    assert train.run(train.plan_of("configs/text_laptop.yaml", overrides), run, quiet=True)[0] == 0
    out = folder / "model.mlpackage"
    options = ["--seq", "range", "--batch", "range", "--target", "iOS18", "--samples", "3"]
    assert export.main([str(run), "--out", str(out), *options]) == 0
    said = capsys.readouterr().out
    assert "length 1, 2, 7, 15, 16" in said and "FAILED" not in said and "float32 package against the float64 twin" in said
    package = Package(out)
    assert package.metadata["sheaf.run"] == "text_laptop" and json.loads(package.metadata["sheaf.metrics"])
    assert package.inputs[0].ranges == ((1, 64), (1, 16))
    kept = json.loads((folder / "model.mlpackage.json").read_text())
    assert kept["sha256"] == package.digest() and all(c["passed"] is not False for c in kept["checks"])
    assert export.main(["--check", str(out)]) == 0
    with pytest.raises(UserError, match="which exists"):
        export.main([str(run), "--out", str(out)])
    weights = out / DATA / "weights" / "weight.bin"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(bytes(changed))
    with pytest.raises(UserError, match=r"got another weight\.bin"):
        export.main(["--check", str(out)])
    assert not list(folder.glob(".export-*"))


def test_few_bits_are_never_silently_accepted(folder):
    _, _, made = small_lm(folder)
    out = folder / "few.mlpackage"
    options = Options(quantize="palettize", bits=2)
    with pytest.raises(RunError, match=r"nothing written; add --accept"):
        export.export(made, out, options, samples=2)
    assert not out.exists()
    kept = export.export(made, out, options, samples=2, accept=True)
    assert out.exists() and kept["operations"]["constexpr_lut_to_dense"] > 0


def test_a_wrong_twin_is_never_accepted(folder):
    _, _, made = small_lm(folder)
    with torch.no_grad():
        made.twin.blocks[0].attention.q.bias += 0.5
    with pytest.raises(UserError, match=r"at block0\.attention"):
        export.export(made, folder / "wrong.mlpackage", Options(quantize="int8"), samples=2, accept=True)
    assert not (folder / "wrong.mlpackage").exists()


def test_int8_is_smaller_and_within_its_bar(folder):
    _, _, made = small_lm(folder, hidden=256)
    half = export.export(made, folder / "half.mlpackage", Options(), samples=2)
    small = export.export(made, folder / "int8.mlpackage", Options(quantize="int8"), samples=2, accept=True)
    assert small["operations"]["constexpr_affine_dequantize"] > 4
    assert small["bytes"] < 0.75 * half["bytes"]
    error = next(c["value"] for c in small["checks"] if c["name"] == "relative error")
    assert error < 0.05


def test_the_encoder_is_exported(folder):
    kept = export.export(small_encoder(), folder / "encoder.mlpackage", Options(), samples=2)
    assert all(c["passed"] is not False for c in kept["checks"])


def test_trained_gates_reach_the_package(folder):
    experiment, params, made = small_lm(folder, unit="paGLU", gate_norm=False)
    inputs, _ = made.samples(1)[0]
    package = shadow_of(made, made.twin, folder / "gates.mlpackage")
    gating = experiment.config.model.gating(1.0)
    closed = jax.tree.map(lambda x: x, params)
    for block in closed["blocks"].values():
        block["feedforward"]["unit"]["shift"] = jnp.full_like(block["feedforward"]["unit"]["shift"], -20.0)
    found = package.run(inputs)["logits"]
    tokens = jnp.asarray(inputs["tokens"])
    assert np.abs(found - experiment.model(params)(tokens, gating=gating)).max() < 1e-5
    assert np.abs(found - experiment.model(closed)(tokens, gating=gating)).max() > 1e-2


@pytest.mark.parametrize(
    "options,message",
    [
        (Options(target="iOS14"), "expected one of iOS15"),
        (Options(quantize="int4"), "expected --target iOS18"),
        (Options(quantize="int8", target="iOS15"), "expected --target iOS16 or later"),
        (Options(quantize="palettize", bits=5), "expected 2, 4, 6 or 8"),
        (Options(sequence="range"), "an open length, got sheaf_encoder"),
    ],
)
def test_what_cannot_be_is_refused_first(options, message):
    with pytest.raises(UserError, match=message):
        options.check(small_encoder())


def test_names_of_outputs_are_checked(folder):
    with pytest.raises(UserError, match=r"ends in \.mlpackage"):
        export.check_out(folder / "model.mlmodel", False)
    with pytest.raises(UserError, match="expected RUN and --out"):
        export.main([])
    with pytest.raises(UserError, match="expected a run folder"):
        export.main([str(folder / "nothing"), "--out", str(folder / "x.mlpackage")])


def test_a_missing_library_names_the_install_command(monkeypatch, folder):
    import sys

    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(UserError, match=r'got no coremltools; pip install "sheaf\[bridge\]"'):
        export.main([str(folder), "--out", str(folder / "x.mlpackage")])
