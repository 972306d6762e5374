"""From weights to a verified package: every mutation is caught, every quantisation has its bar, bad input is one line."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxsrc import train
from jaxsrc.errors import RunError, UserError
from jaxsrc.modules.gated_feedforward import GateConfig
from tests.small_models import ALPHA, small_depth, small_encoder, small_lm, small_vit, text_file
from torch_bridge import coreml, export, verify
from torch_bridge.coreml import Options
from torch_bridge.mil_blob import type_name
from torch_bridge.mil_eval import DATA, Package


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module", autouse=True)
def each_conversion_once():
    """Most tests export the same model with other bits: what the converter made of it is kept between them."""
    kept, whole = {}, coreml.uncompressed

    def uncompressed(made, example, options):
        key = (id(made), dataclasses.replace(options, quantize="none", bits=4))
        if key not in kept:
            kept[key] = (made, whole(made, example, options))  # made is kept too, or its id could be given away again
        return kept[key][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coreml, "uncompressed", uncompressed)
        yield


@pytest.fixture(scope="module")
def lm(folder):
    """(experiment, parameters, exportable) of a gated language model."""
    return small_lm(folder, hidden=256)


@pytest.fixture(scope="module")
def shadow(lm, folder):
    """Its float32 package, saved and loaded again."""
    made, options = lm[2], Options("float32")
    path = folder / "shadow.mlpackage"
    coreml.save(coreml.convert(made, made.samples(1)[0][0], options), made, options, path)
    return path


def transposed(constants):
    constants["blocks_0_attention_o_weight"] = constants["blocks_0_attention_o_weight"].T


def swapped(constants):
    value, gate = (f"blocks_1_feedforward_unit_{part}_weight" for part in ("value", "gate"))
    constants[value], constants[gate] = constants[gate], constants[value]


def unbiased(constants):
    constants["blocks_0_attention_v_bias"] = np.zeros_like(constants["blocks_0_attention_v_bias"])


def moved_alpha(constants):
    # alpha folds into two constants, itself and one less it
    alpha = next(n for n in constants if n.startswith("alpha"))
    rest = next(n for n, v in constants.items() if np.shape(v) == (256,) and np.allclose(v, 1 - constants[alpha], atol=1e-6))
    constants[alpha], constants[rest] = constants[alpha] + 0.01, constants[rest] - 0.01


def other_epsilon(package):
    """Flax's default in every norm."""
    for op in package.block.operations:
        if op.type == "layer_norm":
            package._constants[op.inputs["epsilon"].arguments[0].name] = np.float32(1e-6)


def approximate_gelu(package):
    for op in package.block.operations:
        if op.type == "gelu":
            package._constants[op.inputs["mode"].arguments[0].name] = "TANH_APPROXIMATION"


MUTATIONS = [transposed, swapped, unbiased, moved_alpha, other_epsilon, approximate_gelu]


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda f: f.__name__)
def test_a_faulty_package_fails(lm, shadow, mutate):
    made, package = lm[2], Package(shadow)
    mutate(package if mutate in (other_epsilon, approximate_gelu) else package._constants)
    checks = verify.check_shadow(made, package, made.samples(2))
    assert [c.passed for c in checks] == [True, False, False], checks


def test_the_same_package_without_a_fault_passes(lm, shadow):
    made = lm[2]
    assert all(c.passed for c in verify.check_shadow(made, Package(shadow), made.samples(2)))


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


def test_few_bits_are_never_silently_accepted(lm, folder):
    made, out = lm[2], folder / "few.mlpackage"
    options = Options(quantize="palettize", bits=2)
    with pytest.raises(RunError, match=r"nothing written; add --accept"):
        export.export(made, out, options, samples=2)
    assert not out.exists()
    kept = export.export(made, out, options, samples=2, accept=True)
    assert out.exists() and kept["operations"]["constexpr_lut_to_dense"] > 0


def test_float32_scores_are_an_option_that_the_refusal_names(lm, folder, monkeypatch):
    made, kinds = lm[2], {}
    example = made.samples(1)[0][0]
    for scores in ("float16", "float32"):
        options, path = Options(scores=scores), folder / f"scores_{scores}.mlpackage"
        coreml.save(coreml.convert(made, example, options), made, options, path)
        package = Package(path)
        assert package.metadata["sheaf.precision"] == "float16" and package.metadata["sheaf.scores"] == scores
        kinds[scores] = [(op.type, type_name(op.outputs[0].type)) for op in package.block.operations]
    softmax = lambda scores: {kind for name, kind in kinds[scores] if name == "softmax"}
    assert softmax("float16") == {"FLOAT16"} and softmax("float32") == {"FLOAT32"}
    assert [kind for name, kind in kinds["float32"] if name == "matmul"].count("FLOAT32") == 2  # one product of scores a layer
    assert {kind for name, kind in kinds["float32"] if name in ("linear", "layer_norm")} == {"FLOAT16"}
    monkeypatch.setitem(verify.RELATIVE, "float16", 1e-9)
    with pytest.raises(RunError, match=r"relative error; nothing written; --scores float32"):
        export.export(made, folder / "half_refused.mlpackage", Options(), samples=1)


def test_a_wrong_twin_is_never_accepted(lm, folder):
    made = dataclasses.replace(lm[2], twin=copy.deepcopy(lm[2].twin))
    with torch.no_grad():
        made.twin.blocks[0].attention.q.bias += 0.5
    with pytest.raises(UserError, match=r"at block0\.attention"):
        export.export(made, folder / "wrong.mlpackage", Options(quantize="int8"), samples=2, accept=True)
    assert not (folder / "wrong.mlpackage").exists()


def test_int8_is_smaller_and_within_its_bar(lm, folder):
    half = export.export(lm[2], folder / "half.mlpackage", Options(), samples=2)
    small = export.export(lm[2], folder / "int8.mlpackage", Options(quantize="int8"), samples=2)
    assert small["operations"]["constexpr_affine_dequantize"] > 4
    assert small["bytes"] < 0.75 * half["bytes"]
    error = next(c["value"] for c in small["checks"] if c["name"] == "relative error")
    assert 1e-3 < error <= verify.RELATIVE["int8"]


def depth():
    """Every part that converts in its own way: two readings, rotary angles, places, loops, gated units."""
    return small_depth(gate=GateConfig(unit="paMishU", alpha=ALPHA), layers=1, places=3, loops=2)


def pictures():
    """A class token, registers, post-norm, an early head that stays behind."""
    return small_vit(norm="post", pooling="class", registers=2, exit_layer=1, activation="gelu_tanh")


@pytest.mark.parametrize(
    "model,options",
    [
        (small_encoder, Options()),
        (depth, Options(sequence="range", batch="range")),
        (pictures, Options(batch="range", target="iOS18")),
    ],
    ids=["sheaf_encoder", "depth_transformer", "vit"],
)
def test_the_other_models_are_exported(folder, model, options):
    made = model()
    kept = export.export(made, folder / f"{made.name}.mlpackage", options, samples=2)
    assert all(c["passed"] is not False for c in kept["checks"])
    assert {"twin against JAX", "float32 package against the float64 twin"} <= {c["name"] for c in kept["checks"]}


def test_trained_gates_reach_the_package(lm, shadow):
    experiment, params, made = lm
    inputs, _ = made.samples(1)[0]
    gating = experiment.config.model.gating(1.0)
    closed = jax.tree.map(lambda x: x, params)
    for block in closed["blocks"].values():
        block["feedforward"]["unit"]["shift"] = jnp.full_like(block["feedforward"]["unit"]["shift"], -20.0)
    found = Package(shadow).run(inputs)["logits"]
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


def test_marks_that_attend_to_the_nearest_match_have_no_twin():
    with pytest.raises(UserError, match=r"expected softmax marking for a twin, got nearest; train with"):
        small_depth(marking="nearest")


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
    with pytest.raises(UserError, match=r'got no coremltools; install them with scripts/setup bridge'):
        export.main([str(folder), "--out", str(folder / "x.mlpackage")])
