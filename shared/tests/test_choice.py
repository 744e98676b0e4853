"""A few of many."""

from shared.show.pictures import evenly


def test_evenly() -> None:
    assert evenly(3, 6) == [0, 1, 2]
    assert evenly(11, 3) == [0, 5, 10]
