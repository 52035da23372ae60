import numpy as np

from cryorestore.outliers import FEWEST, find_outliers


def test_a_value_beyond_the_limit_is_told_with_its_distance():
    values = np.array([*range(-7, 8), 100], float)  # median 0.5, median absolute deviation 4
    reasons = find_outliers({"level": values}, np.zeros(16, int), outlier_sigma=5.0)
    assert [bool(reason) for reason in reasons] == [False] * 15 + [True]
    assert reasons[-1] == "outlier: level 100 is +16.8 robust sigmas from its micrograph's median 0.5"
    assert find_outliers({"level": values}, np.zeros(16, int), outlier_sigma=17.0) == [""] * 16


def test_each_group_has_its_own_median():
    values = np.concatenate([np.arange(20.0), 1000 + np.arange(20.0)])
    order = np.random.default_rng(1).permutation(40)
    groups = np.repeat([4, 9], 20)
    assert find_outliers({"level": values[order]}, groups[order], outlier_sigma=4.0) == [""] * 40
    assert any(find_outliers({"level": np.append(values[:20], 1000)}, np.zeros(21, int), outlier_sigma=4.0))


def test_few_particles_and_equal_values_are_not_judged():
    few = np.append(np.arange(FEWEST - 2.0), 1e6)
    assert not any(find_outliers({"level": few}, np.zeros(FEWEST - 1, int), outlier_sigma=4.0))
    assert not any(find_outliers({"level": np.append(np.ones(50), 2.0)}, np.zeros(51, int), outlier_sigma=4.0))


def test_nan_is_no_outlier_and_counts_for_nothing():
    values = np.array([*range(-7, 8), np.nan, 100], float)
    reasons = find_outliers({"level": values}, np.zeros(17, int), outlier_sigma=5.0)
    assert [bool(reason) for reason in reasons] == [False] * 16 + [True]


def test_the_first_of_several_reasons_is_kept():
    values = {"level": np.append(np.arange(15.0), 500), "spread": np.append(np.arange(15.0), 900)}
    assert "level 500" in find_outliers(values, np.zeros(16, int), outlier_sigma=5.0)[-1]
