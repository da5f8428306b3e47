"""Images that several threads decode ahead."""

import pytest

from training.data.reader import AHEAD, map_ahead


def test_results_come_in_order_and_never_far_ahead():
    begun = []

    def make(item):
        begun.append(item)
        return 2 * item

    results = map_ahead(make, range(100), num_workers=2)
    assert next(results) == 0
    assert len(begun) <= 2 * AHEAD + 1
    assert list(results) == list(range(2, 200, 2))
    assert begun == list(range(100)) or sorted(begun) == list(range(100))


def test_an_error_ends_the_results_where_it_belongs():
    def make(item):
        return 1 / (item - 2)

    results = map_ahead(make, range(5), num_workers=2)
    assert [next(results), next(results)] == [-0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
