"""Tests of paired answers and their corrections, against values worked out by hand and by scipy."""

import numpy as np
from scipy import stats

from jaxsrc.statistics import bootstrap, holm, mcnemar, rank_correlation, sign_flip


def test_mcnemar_counts_only_the_items_that_differ():
    first, second = np.zeros(30, bool), np.zeros(30, bool)
    first[:8], second[8:10] = True, True
    assert np.isclose(mcnemar(first, second), stats.binomtest(2, 10).pvalue) and mcnemar(first, first) == 1.0


def test_holm_by_hand():
    assert np.allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]) and holm([0.9, 0.8]) == [1.0, 1.0]


def test_random_signs_agree_with_all_signs():
    values = np.array([0.3, 1.2, -0.4, 0.8, 1.1, 0.9, 0.2, 0.7])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
    exact = (np.abs(values @ signs) >= abs(values.sum()) - 1e-9).mean()
    assert abs(sign_flip(values) - exact) < 0.01 and sign_flip(np.zeros(4)) == 1.0


def test_a_null_effect_is_found_at_its_rate_and_intervals_cover():
    rng = np.random.default_rng(0)
    found = [sign_flip(rng.normal(size=40), draws=400, seed=i) < 0.05 for i in range(200)]
    assert 0.01 < np.mean(found) < 0.10
    covered = [low < 0 < high for low, high in (bootstrap(rng.normal(size=60), seed=i) for i in range(200))]
    assert np.mean(covered) > 0.88


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=30), rng.integers(0, 5, 30).astype(float)
    assert np.isclose(rank_correlation(x, y), stats.spearmanr(x, y).statistic) and rank_correlation(x, x * 0) == 0.0
