from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jstc.data.sampling import epoch_order, num_steps, spread, stratified


@given(
    labels=st.lists(st.integers(0, 5), min_size=2, max_size=200),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
)
def test_stratified_parts_are_disjoint_whole_and_balanced(
    labels: list[int], fraction: float, seed: int
) -> None:
    array = np.array(labels)
    rest, chosen = stratified(array, fraction, seed=seed)
    assert sorted([*rest, *chosen]) == list(range(len(labels)))
    assert len(rest) and len(chosen)
    share = len(chosen) / len(labels)
    for label, size in zip(*np.unique(array, return_counts=True), strict=True):
        # one image more or less than its share, or two where that spares a class's last image
        assert abs((array[chosen] == label).sum() - share * size) < 2


def test_stratified_works_with_one_image_per_class() -> None:
    rest, chosen = stratified(np.arange(100), 0.2, seed=0)
    other = stratified(np.arange(100), 0.2, seed=1)[1]
    assert (len(rest), len(chosen)) == (80, 20)
    assert list(chosen) != list(other)


def test_stratified_spares_the_last_image_of_a_class() -> None:
    labels = np.array([0] * 10 + [1])
    assert all(10 in stratified(labels, 0.5, seed=seed)[0] for seed in range(20))


def test_epoch_order_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    first = epoch_order(50, seed=0, epoch=0)
    assert sorted(first) == list(range(50))
    assert list(first) == list(epoch_order(50, seed=0, epoch=0))
    assert list(first) != list(epoch_order(50, seed=0, epoch=1))
    assert list(first) != list(epoch_order(50, seed=1, epoch=0))


@pytest.mark.parametrize(("images", "batch", "steps"), [(10, 3, 3), (9, 3, 3), (2, 3, 1), (1, 1, 1)])
def test_num_steps_drops_an_incomplete_batch_unless_it_is_the_only_one(
    images: int, batch: int, steps: int
) -> None:
    assert num_steps(images, batch) == steps


def test_spread_covers_every_class_of_a_sorted_split() -> None:
    labels = np.repeat(np.arange(10), 100)
    counts = np.bincount(labels[spread(1000, 50)])
    assert list(counts) == [5] * 10
    assert list(spread(4, None)) == list(spread(4, 9)) == [0, 1, 2, 3]
