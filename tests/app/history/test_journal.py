"""The journal by itself: bounds, order, and what is owed to a sink."""

import sqlite3
import threading
import time
from dataclasses import replace

import pytest

from app.history import database, writer
from app.history.journal import Journal
from app.history.records import InspectionRecord, RetentionPolicy, Search, StoredAnswer, StoredImage
from app.store.errors import StoreUnusable


def record(number, *, at=None):
    return InspectionRecord(
        inspection_id=f"i{number}",
        at=at if at is not None else time.time(),
        product="disc" if number % 2 else "cup",
        version="v",
        part_id=f"p{number}",
        verdict="ok",
        score=float(number),
        answer="{}",
    )


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Makes a journal that tidies at once."""
    monkeypatch.setattr(writer, "PRUNE_INTERVAL_S", 0.0)
    journals = []

    def make(**bounds):
        journal = Journal(tmp_path, RetentionPolicy(**bounds)).__enter__()
        journals.append(journal)
        return journal

    yield make
    for journal in journals:
        journal.__exit__()


def add(journal, *records, picture=None):
    return [journal.add(one, picture).result(10) for one in records]


def test_each_product_counts_for_itself_and_all_together(opened):
    journal = opened()
    assert add(journal, *map(record, range(6))) == [1, 2, 3, 4, 5, 6]
    numbers = [(one.product, one.product_sequence) for one in reversed(journal.search(Search(), limit=10))]
    assert numbers == [("cup", 1), ("disc", 1), ("cup", 2), ("disc", 2), ("cup", 3), ("disc", 3)]


def test_the_listener_hears_of_records_once_they_can_be_read(tmp_path):
    heard, is_heard = [], threading.Event()

    def listen():
        heard.append(len(journal.search(Search(), limit=10)))
        is_heard.set()

    journal = Journal(tmp_path, RetentionPolicy(), on_written=listen)
    with journal:
        add(journal, record(1))
        assert is_heard.wait(10)
    assert heard == [1]


def test_no_more_records_are_kept_than_may_be(opened):
    journal = opened(records=10)
    for start in range(0, 100, 10):
        add(journal, *map(record, range(start, start + 10)))
    add(journal, record(100))
    journal.__exit__()
    assert [one.inspection_id for one in journal.search(Search(), limit=100)] == [f"i{n}" for n in range(100, 90, -1)]


def test_old_records_are_forgotten_with_their_images(opened, tmp_path):
    journal = opened(days=1.0)
    add(journal, record(1, at=time.time() - 100_000), picture=StoredImage("image/png", b"x"))
    add(journal, record(2))
    add(journal, record(3))
    journal.__exit__()
    assert [one.inspection_id for one in journal.search(Search(), limit=10)] == ["i3", "i2"]
    with sqlite3.connect(tmp_path / database.FILE) as connection:
        assert connection.execute("SELECT COUNT(*) FROM images").fetchone() == (0,)


def test_images_take_no_more_room_than_they_may_and_the_oldest_go(opened):
    journal = opened(images_mb=0.0035)
    for number in range(6):
        add(journal, record(number), picture=StoredImage("image/png", bytes(1000)))
    journal.__exit__()
    kept = [number for number in range(6) if journal.read_image(f"i{number}") is not None]
    assert kept == [3, 4, 5]
    assert len(journal.search(Search(), limit=10)) == 6


def test_numbers_go_on_after_a_restart(opened):
    first = opened(records=2)
    add(first, *map(record, range(5)))
    first.__exit__()
    assert add(opened(records=2), record(7)) == [6]


def test_what_a_sink_was_not_given_yet_is_kept_beyond_every_bound(opened, tmp_path):
    journal = opened(records=2)
    with sqlite3.connect(tmp_path / database.FILE) as connection:
        connection.execute("INSERT INTO sinks VALUES ('line', 3, 3)")
    add(journal, *map(record, range(10)))
    add(journal, record(10))
    journal.__exit__()
    assert [one.sequence for one in journal.read_after(0, limit=100)] == [4, 5, 6, 7, 8, 9, 10, 11]


def test_records_of_one_request_are_one(opened):
    journal = opened()
    first, second = (replace(record(number), idempotency_key="k") for number in (1, 2))
    replays = [StoredAnswer("digest", "first"), StoredAnswer("digest", "second")]
    sequences = [
        journal.add(one, None, replay).result(10) for one, replay in zip((first, second), replays, strict=True)
    ]
    assert sequences == [1, 1]
    assert [one.inspection_id for one in journal.search(Search(), limit=10)] == ["i1"]
    assert journal.read_replay("k") == replays[0]


def test_what_is_lost_leaves_a_gap_in_its_products_numbers(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    journal = opened()
    add(journal, record(1), record(2))
    with sqlite3.connect(tmp_path / database.FILE) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnusable):
            add(journal, record(3))
        other.rollback()
    add(journal, record(5), record(4))
    numbers = [(one.product, one.product_sequence) for one in reversed(journal.search(Search(), limit=10))]
    assert numbers == [("disc", 1), ("cup", 1), ("disc", 3), ("cup", 2)]
    assert journal.num_lost == 1


def test_what_was_lost_of_one_product_is_remembered_while_others_are_recorded(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    journal = opened()
    add(journal, record(1))
    with sqlite3.connect(tmp_path / database.FILE) as other:
        other.execute("BEGIN EXCLUSIVE")
        for number in (3, 5):
            with pytest.raises(StoreUnusable):
                add(journal, record(number))
        other.rollback()
    add(journal, record(2))  # of the other product
    add(journal, record(7))
    (last,) = journal.search(Search(product="disc"), limit=1)
    assert (last.inspection_id, last.product_sequence) == ("i7", 4)


def test_two_services_do_not_share_a_journal(opened, tmp_path):
    first = opened()
    second = Journal(tmp_path, RetentionPolicy())
    with second:
        assert "another service keeps its records there" in second.error
        with pytest.raises(StoreUnusable):
            add(second, record(1))
        first.__exit__()
        assert add(second, record(2)) == [1]


def test_images_that_wait_take_no_more_memory_than_they_may(opened, monkeypatch):
    monkeypatch.setattr(writer, "MAX_QUEUED_IMAGE_BYTES", 1500)
    journal = opened()
    done = [journal.add(record(number), StoredImage("image/png", bytes(1000))) for number in range(2)]
    assert [one.result(10) for one in done] == [1, 2]
    assert len(journal.search(Search(), limit=10)) == 2
    journal.add(record(3), StoredImage("image/png", bytes(1000))).result(10)
    assert journal.read_image("i3") is not None
