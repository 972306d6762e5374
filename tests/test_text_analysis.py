"""The second model under analysis: the gated language model's pieces are the model, its brackets are counted, questions run."""

import jax
import numpy as np
import pytest

from jaxsrc import analyze
from jaxsrc.analysis.ablate import make_scan, replacements
from jaxsrc.analysis.lens import contributions
from jaxsrc.analysis.subject import score, values
from jaxsrc.analysis.text_material import TextMaterial, nesting
from jaxsrc.data.text import TextDataConfig
from jaxsrc.errors import UserError
from jaxsrc.models.gated_lm import GatedLMConfig
from jaxsrc.modules.gated_units import AlphaConfig
from jaxsrc.modules.taps import Taps
from jaxsrc.text_experiment import TextConfig, TextExperiment
from jaxsrc.train import main as train
from tests.small_models import moved

MODEL = "{kind: gated_lm, length: 40, width: 16, layers: 2, heads: 2, unit: paGELU, alpha: {kind: learnable, value: 0.4}}"
SOURCE = "".join(f"x{i} = f(a[{i % 7}], (b, g(c[{i % 5}], {{{i}}})))\nprint(x{i}, y)\nfor z in w: pass\n" for i in range(400))


def bytes_of(text):
    return np.frombuffer(text.encode(), np.uint8)[None].astype(np.int64)


def test_brackets_are_counted_from_the_start_of_the_window():
    assert nesting(bytes_of("a(b[c])d")).tolist() == [[0, 1, 1, 2, 2, 1, 0, 0]]
    assert nesting(bytes_of(")]x({")).tolist() == [[0, 0, 0, 1, 2]]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "a.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(scope="module")
def made(source):
    config = GatedLMConfig(
        length=40, width=16, layers=2, heads=2, unit="paGELU", alpha=AlphaConfig(kind="learnable", value=0.4), gate_norm=True
    )
    experiment = TextExperiment(TextConfig(data=TextDataConfig(source=str(source), held_out=0.5), model=config, batch=2))
    return TextMaterial(experiment), moved(jax.jit(experiment.init)(jax.random.key(0))[0])


def test_the_pieces_are_the_model_and_its_taps_have_the_models_names(made):
    material, params = made
    rows = material.scored(6).rows
    model = material.experiment.model(params)
    np.testing.assert_allclose(material.subject.forward(params, rows), model(rows.tokens), atol=1e-5)
    taps, ours = Taps(), Taps()
    model(rows.tokens, taps=taps)
    material.subject.forward(params, rows, ours)
    assert taps.names[1:] == ours.names[1:]  # the embedding alone has another name


def test_the_scan_of_a_gated_model_is_the_loop(made):
    material, params = made
    rows = material.scored(6).rows
    assert rows.asked.sum() == 6 and rows.asked[:, -1].all()
    new = replacements(material.subject, params, rows, "resample")
    loss, _, without, _ = make_scan(material.subject)(params, rows, new)
    np.testing.assert_allclose(loss, score(material.subject.forward(params, rows), rows)[0], atol=1e-5)
    for layer in range(2):
        name = f"block{layer}"
        edits = [{f"{name}.attention.heads": lambda v, u=u, i=layer: v.at[:, :, u].set(new[0][i][:, :, u])} for u in range(2)]
        edits.append({f"{name}.feedforward.out": lambda v, i=layer: new[1][i]})
        for unit, edit in enumerate(edits):
            alone, _ = score(material.subject.forward(params, rows, Taps(edits=edit)), rows)
            np.testing.assert_allclose(without[3 * layer + unit], alone, atol=1e-5)


def test_the_parts_add_up_to_the_logits_with_the_biases_of_attention(made):
    material, params = made
    _, parts, whole = contributions(material.subject, params, material.scored(6).rows)
    np.testing.assert_allclose(parts.sum(0), whole, atol=2e-3 * float(np.abs(whole).max()))


def test_pairs_differ_in_one_bracket_and_in_the_one_that_closes_it(made):
    material, _ = made
    pairs = material.pairs(5)
    clean, corrupt = (np.asarray(p.tokens) for p in (pairs.clean, pairs.corrupt))
    assert ((clean != corrupt).sum(1) == 1).all() and set(clean[:, 8]) <= set(b"([")
    closers = np.asarray(pairs.clean.labels)[:, -1]
    assert all({o, c} in ({*b"()"}, {*b"[]"}) for o, c in zip(clean[:, 8], closers, strict=True))


def test_depth_is_probed_on_shallow_windows_and_on_deeper_ones(made):
    material, params = made
    (fit, test, deeper), classes = material.probed(8, False)
    assert classes == deeper.labels.max() + 1 > 3 > fit.labels.max() >= test.labels.max()
    kept = values(material.subject, params, fit.rows, ["block0.output"])["block0.output"]
    assert np.asarray(kept)[fit.where].shape == (len(fit.labels), 16)


def test_every_question_is_put_to_a_trained_run(source, tmp_path):
    out = tmp_path / "text"
    few = ["experiment.steps=4", "optim.warmup_steps=1", "experiment.batch=4", f"experiment.model={MODEL}"]
    data = f"experiment.data={{source: {source}, held_out: 0.5, windows: 4}}"
    assert train(["configs/text_laptop.yaml", *few, data, "experiment.prompt=''", "--device", "cpu", "--out", str(out)]) == 0
    assert analyze.main([str(out), "report", "--items", "12", "--device", "cpu"]) == 0
    page = (out / "report.html").read_text()
    for words in ("ablation, mean", "12 windows", "probe, exact depth", "logit lens", "direct logit attribution", "patching"):
        assert words in page
    with pytest.raises(UserError, match=r"study's data|on its data"):
        analyze.main([str(out), "study", "--device", "cpu"])
