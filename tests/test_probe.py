"""Probes: scikit-learn's accuracies, closed-form ridge, look-ups; patching finds the token that was changed; questions run."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from jaxsrc.analysis.depth_subject import characters_of, depth_rows, depth_subject, matched
from jaxsrc.analysis.lens import contributions
from jaxsrc.analysis.patch import patch
from jaxsrc.analysis.probe import logistic, look_up, probe_sites, ridge
from jaxsrc.analysis.probing import by_expression, erase, probe_depth
from jaxsrc.data.expressions import expression
from jaxsrc.depth_data import DepthDataConfig
from jaxsrc.depth_experiment import DepthConfig, DepthExperiment
from jaxsrc.models.depth_transformer import DepthTransformerConfig

TINY = DepthTransformerConfig(width=16, layers=2, heads=2, hidden=16, length=40, dropout=0.0)


def experiment(track="direct"):
    return DepthExperiment(DepthConfig(track=track, model=TINY, data=DepthDataConfig(examples=50)))


def clusters(n, d, k, seed=0, spread=1.5):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(k, d))
    labels = rng.integers(0, k, n)
    return (centres[labels] + spread * rng.normal(size=(n, d))).astype(np.float32), labels


def test_logistic_regression_is_scikit_learns():
    for k in (2, 3, 4):
        x, y = clusters(600, 8, k)
        xt, yt = clusters(400, 8, k, seed=1)
        theirs = LogisticRegression(max_iter=1000).fit(x, y)
        w, b = logistic(jnp.asarray(x), jnp.asarray(y), k, tolerance=1e-6)
        gap = abs(float((np.asarray(xt @ w + b).argmax(1) == yt).mean()) - theirs.score(xt, yt))
        assert gap <= 0.005
        p = np.asarray(jax.nn.softmax(xt @ w + b))
        np.testing.assert_allclose(p, theirs.predict_proba(xt), atol=5e-3)


def test_ridge_is_scikit_learns_and_sites_are_probed_apart():
    x, y = clusters(300, 6, 3)
    target = np.eye(3, dtype=np.float32)[y]
    w, b = ridge(jnp.asarray(x), jnp.asarray(target), 2.0)
    theirs = Ridge(alpha=2.0).fit(x, target)
    np.testing.assert_allclose(w, theirs.coef_.T, atol=1e-4)
    np.testing.assert_allclose(b, theirs.intercept_, atol=1e-4)
    noise = np.random.default_rng(5).normal(size=x.shape).astype(np.float32)
    guess, _ = probe_sites(jnp.asarray(np.stack([x, noise])), jnp.asarray(y), jnp.asarray(np.stack([x, noise])), classes=3)
    right = (np.asarray(guess) == y).mean(1)
    assert right[0] > 0.65 > 0.5 > right[1]


def test_look_ups_and_intervals_over_expressions():
    labels = np.array([0, 1, 1, 0])
    assert look_up(["a", "b", "b", "a"], labels, ["b", "a", "c"], 2).tolist() == [1, 0, 0]
    low, high = by_expression(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1]))
    assert (low, high) == (0.0, 1.0)


def test_characters_carry_their_depth_in_every_track():
    for track in ("direct", "steps", "rewrite"):
        found = characters_of(experiment(track), [expression("(12+3)*4"), expression("1+1")], False, 2)
        assert found.labels.tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
        assert found.where.sum() == 11 and found.place[:3].tolist() == [1, 2, 3]


def test_every_probe_figure_has_its_controls_and_erasing_runs():
    made = experiment("rewrite")
    subject = depth_subject(made)
    params, other = (made.init(jax.random.key(i))[0] for i in (0, 1))
    fit, test, deeper = made.tests(1, 30), made.tests(2, 20, seed=1), made.tests(3, 10)
    sets = [characters_of(made, part, True, 2) for part in (fit, test, deeper)]
    lines, controls = probe_depth(subject, params, other, sets, classes=2, kind="ridge")
    assert len(lines) == 3 + 4 and all(len(line) == 8 for line in lines) and len(controls) == 6
    assert controls["test: token and position"] < 1 and set(controls) > {"test: majority", "deeper: token"}
    assert all(0 <= float(line[1]) <= 100 for line in lines)
    assert len(erase(subject, params, characters_of(made, fit, False, 2), depth_rows(made, test))) == 3


def test_patching_recovers_everything_at_the_changed_token_of_the_first_layer():
    made = experiment()
    subject, params = depth_subject(made), jax.tree.map(lambda x: 8 * x, made.init(jax.random.key(3))[0])
    pairs = matched(made.tests(1, 200), 12)
    assert all(len(a.text) == len(b.text) and sum(x != y for x, y in zip(a.text, b.text, strict=True)) == 1 for a, b in pairs)
    at = next(i for i, (x, y) in enumerate(zip(pairs[0][0].text, pairs[0][1].text, strict=True)) if x != y)
    clean, corrupt = (depth_rows(made, [p[i] for p in pairs]) for i in (0, 1))
    n = min(clean.tokens.shape[1], corrupt.tokens.shape[1])
    cut = lambda rows: jax.tree.map(lambda x: x[:, :n] if x.ndim == 2 else x, rows)
    short = cut(clean), cut(corrupt)
    shown = jax.tree.map(lambda x: x, short[1])
    # only the prompt differs: the answers that both read are the clean ones
    same = type(shown)(
        short[0].tokens.at[:, at + 1].set(shown.tokens[:, at + 1]), shown.labels, short[0].asked & shown.asked, shown.prefix
    )
    found = patch(subject, params, short[0], same)
    assert np.isclose(found.recovered[0, at + 1], 1.0, atol=1e-3) and np.abs(found.recovered[0, at + 2 :]).max() < 1e-3


def test_the_parts_add_up_to_the_logits():
    for track in ("direct", "rewrite"):
        made = experiment(track)
        params = jax.tree.map(lambda x: 5 * x, made.init(jax.random.key(0))[0])
        _, parts, whole = contributions(depth_subject(made), params, depth_rows(made, made.tests(1, 10)))
        np.testing.assert_allclose(parts.sum(0), whole, atol=2e-3 * float(jnp.abs(whole).max()))
