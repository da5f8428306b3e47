import pytest

from app.errors import QueueFull
from app.inspection.admission import ConcurrencyLimiter


def make_limiter(limit):
    return ConcurrencyLimiter(limit, make_error=lambda: QueueFull(limit=limit, retry_after_s=1))


def test_as_many_slots_are_used_as_there_are_and_no_more():
    limiter = make_limiter(2)
    with limiter.slot(), limiter.slot():
        assert limiter.num_used == 2
        with pytest.raises(QueueFull), limiter.slot():
            pass
        assert limiter.num_used == 2
    assert limiter.num_used == 0


def test_a_slot_is_free_again_after_an_error():
    limiter = make_limiter(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limiter.slot():
            raise ZeroDivisionError
    assert limiter.num_used == 0
