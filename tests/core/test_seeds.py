from __future__ import annotations

from jstc.core.seeds import derive


def test_derived_seeds_are_the_same_in_every_process_and_fit_63_bits() -> None:
    assert derive(0, "order", 3) == 6305755135785094614
    assert all(0 <= derive(seed, "x") < 2**63 for seed in range(200))


def test_every_part_of_the_purpose_counts() -> None:
    cases = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 1), (0, "a", "1"), (0, "a1"), (0, 1, "a")]
    assert len({derive(*case) for case in cases}) == len(cases)
