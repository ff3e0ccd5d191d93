from __future__ import annotations

import numpy as np
import pytest

from jstc.core.accuracy import Accuracy, difference, doubted, outdone, paired_difference, wilson


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(right: int, images: int, low: float, high: float) -> None:
    assert wilson(right, images) == pytest.approx((low, high), abs=5e-5)
    assert Accuracy(right / images, images).interval == pytest.approx((low, high), abs=5e-5)


def test_the_error_is_the_distance_of_the_further_end() -> None:
    assert Accuracy(1.0, 20).error == pytest.approx(0.1611, abs=5e-5)
    assert Accuracy(0.98, 599).error == pytest.approx(0.98 - wilson(0.98 * 599, 599)[0])
    assert Accuracy(0.98).error is None


@pytest.mark.parametrize(
    ("after", "before", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:873-890, table II, method 10
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((10, 10), (0, 20), 0.6791, 1.0),
    ],
)
def test_the_interval_of_a_difference_is_newcombes(
    after: tuple[int, int], before: tuple[int, int], low: float, high: float
) -> None:
    found = difference(Accuracy(after[0] / after[1], after[1]), Accuracy(before[0] / before[1], before[1]))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_without_a_number_of_images_a_difference_has_no_interval() -> None:
    found = difference(Accuracy(0.9, 100), Accuracy(0.8))
    assert found.value == pytest.approx(0.1)
    assert found.error is None


def test_pairs_are_surer_than_two_lots_of_images() -> None:
    paired = paired_difference(both=560, gained=12, lost=6, neither=21)
    apart = difference(Accuracy(572 / 599, 599), Accuracy(566 / 599, 599))
    assert paired.value == pytest.approx(apart.value)
    assert paired.error is not None
    assert apart.error is not None
    assert paired.error < 0.8 * apart.error


def test_answers_that_do_not_agree_beyond_chance_are_no_surer_as_pairs() -> None:
    paired = paired_difference(both=25, gained=25, lost=25, neither=25)
    apart = difference(Accuracy(0.5, 100), Accuracy(0.5, 100))
    assert (paired.low, paired.high) == pytest.approx((apart.low, apart.high))


@pytest.mark.parametrize("counts", [(0, 0, 0, 9), (9, 0, 0, 0), (0, 9, 0, 0), (0, 0, 9, 0)])
def test_counts_of_nothing_are_no_fault(counts: tuple[int, int, int, int]) -> None:
    both, gained, lost, neither = counts
    found = paired_difference(both=both, gained=gained, lost=lost, neither=neither)
    assert found.value == (gained - lost) / 9
    assert found.low is not None
    assert found.low <= found.value


@pytest.mark.parametrize("shares", [(0.93, 0.03, 0.02, 0.02), (0.5, 0.15, 0.05, 0.3)])
def test_the_interval_of_pairs_holds_the_truth_19_times_out_of_20(shares: tuple[float, ...]) -> None:
    drawn = np.random.default_rng(0).multinomial(600, shares, size=1000).tolist()
    found = [paired_difference(both=a, gained=b, lost=c, neither=d) for a, b, c, d in drawn]
    truth = shares[1] - shares[2]
    covered = sum((one.low or 0) <= truth <= (one.high or 0) for one in found) / len(found)
    assert 0.93 <= covered <= 0.98


@pytest.mark.parametrize(
    ("accuracy", "doubt"),
    [
        (Accuracy(0.0968, 599, chance=0.1, training=0.82), "chance"),
        (Accuracy(0.12, 599, chance=0.1), "chance"),  # 0.12 of 599 images may be 0.1 of all
        (Accuracy(0.13, 599, chance=0.1), None),
        (Accuracy(0.13, 30, chance=0.1), "chance"),
        (Accuracy(0.90, 599, chance=0.9), "chance"),  # always the most frequent class
        (Accuracy(0.3333, 599, chance=0.1, training=0.82), "training"),
        (Accuracy(0.65, 599, chance=0.01, training=0.99), None),  # it knows its training images better
        (Accuracy(0.95, 599, chance=0.1, training=0.5), None),  # mixed or augmented images in training
        (Accuracy(0.3333, 10, chance=0.02, training=0.82), None),  # of so few images, it may be 0.6
        (Accuracy(0.0968, 599), None),  # unknown chance: nothing is said
        (Accuracy(0.0968, chance=0.1), None),
    ],
)
def test_what_nothing_follows_from(accuracy: Accuracy, doubt: str | None) -> None:
    assert accuracy.doubt == doubt


def test_texts_have_the_sampling_error_in_them() -> None:
    assert Accuracy(0.9816, 599).text == "98.16 % ±1.4"
    assert Accuracy(0.9816, 50_000).text == "98.16 % ±0.12"
    assert Accuracy(0.9816).text == "98.16 %"
    assert difference(Accuracy(0.9816, 599), Accuracy(0.9866, 599)).text == "-0.50 ±1.6 points"
    assert difference(Accuracy(0.9, 599), Accuracy(0.9, 599)).text == "0.00 ±3.4 points"
    assert difference(Accuracy(0.9), Accuracy(0.9)).text == "0.00 points"


def test_a_doubt_is_told_with_its_figures() -> None:
    chance = Accuracy(0.0968, 599, chance=0.1018, training=0.8247)
    assert doubted("The target network", chance) == (
        "The target network scores 9.68 % ±2.6 on the test split, where guessing reaches 10.18 %: nothing "
        "follows from a comparison with it."
    )
    broken = doubted("The slim network", Accuracy(0.3333, 599, chance=0.1, training=0.82))
    assert broken is not None
    assert "33.33 % ±3.9 on the test split and 82.00 % on the images that it was trained on" in broken
    assert doubted("The slim network", Accuracy(0.98, 599, chance=0.1, training=0.99)) is None


@pytest.mark.parametrize(
    ("slim", "alone", "told"),
    [
        (0.94, 0.82, True),
        (0.84, 0.82, False),  # may be the images
        (0.82, 0.94, False),
        (0.94, 0.10, False),  # that is at chance, and said to be
    ],
)
def test_a_gain_that_cannot_be_is_the_target_networks_fault(slim: float, alone: float, told: bool) -> None:
    found = outdone(Accuracy(slim, 599, chance=0.1), Accuracy(alone, 599, chance=0.1), epochs=6)
    assert (found is not None) == told
    if found is not None:
        assert found.startswith("The target network trained alone is not at its best after 6 epochs: ")
        assert " 12.00 ±" in found


def test_a_gain_of_a_point_may_be_one_however_sure_it_is() -> None:
    assert outdone(Accuracy(0.765, 50_000), Accuracy(0.75, 50_000), epochs=90) is None
