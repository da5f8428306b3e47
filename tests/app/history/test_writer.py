"""The writer of a journal: what it drops, and the numbers that it gives."""

import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from app.history import writer
from app.history.database import JournalDatabase, create_tables
from app.history.records import InspectionRecord, RetentionPolicy, StoredAnswer, StoredImage
from app.history.writer import JournalWriter, PendingRecord, insert_record
from app.store.errors import StoreUnusable

RECORD = InspectionRecord(
    inspection_id="i0", at=0.0, product="disc", version="v", part_id="p", verdict="ng", score=2.5, answer="{}"
)
PICTURE = StoredImage("image/png", bytes(100))


def pending(number, *, product="disc", picture=None, replay=None, key=None):
    record = replace(RECORD, inspection_id=f"i{number}", product=product, idempotency_key=key)
    return PendingRecord(record, picture, replay)


@pytest.fixture
def connection():
    with closing(sqlite3.connect(":memory:")) as connection:
        create_tables(connection)
        yield connection


@pytest.fixture
def calls():
    """What the listener was told."""
    return []


@pytest.fixture
def idle_writer(tmp_path, calls):
    """A writer whose thread does not run: what is queued stays queued."""
    return JournalWriter(
        JournalDatabase(tmp_path), RetentionPolicy(days=1e6), on_written=lambda: calls.append("written")
    )


def insert_all(connection, *records, lost=None):
    lost, gaps = dict(lost or {}), {}
    return [insert_record(connection, one, lost, gaps) for one in records], lost, gaps


def read_numbers(connection):
    return connection.execute("SELECT product, product_sequence FROM inspections ORDER BY sequence").fetchall()


def test_a_record_is_stored_as_it_was_given(connection):
    replay = StoredAnswer("digest", "whole")
    insert_all(connection, pending(1, picture=PICTURE, replay=replay, key="k"))
    columns = "inspection_id, at, product, version, part_id, verdict, score, answer, idempotency_key"
    (row,) = connection.execute(f"SELECT {columns} FROM inspections").fetchall()  # noqa: S608  # our own columns
    assert row == ("i1", 0.0, "disc", "v", "p", "ng", 2.5, "{}", "k")
    assert connection.execute("SELECT * FROM images").fetchall() == [("i1", "image/png", PICTURE.data)]
    assert connection.execute("SELECT * FROM replays").fetchall() == [("k", "digest", "whole")]


def test_an_answer_without_a_key_or_a_record_without_an_image_leaves_nothing_beside_it(connection):
    insert_all(connection, pending(1, replay=StoredAnswer("digest", "whole")), pending(2, key="k"))
    assert connection.execute("SELECT COUNT(*) FROM images").fetchone() == (0,)
    assert connection.execute("SELECT COUNT(*) FROM replays").fetchone() == (0,)


def test_records_are_numbered_in_all_and_by_product(connection):
    sequences, _, _ = insert_all(connection, pending(1), pending(2, product="cup"), pending(3))
    assert sequences == [1, 2, 3]
    assert read_numbers(connection) == [("disc", 1), ("cup", 1), ("disc", 2)]


def test_lost_records_leave_a_gap_once_in_the_numbers_of_their_product(connection):
    records = (pending(1), pending(2, product="cup"), pending(3), pending(4))
    _, lost, gaps = insert_all(connection, *records, lost={"disc": 3, "lid": 2})
    assert read_numbers(connection) == [("disc", 4), ("cup", 1), ("disc", 5), ("disc", 6)]
    assert lost == {"lid": 2}
    assert gaps == {"disc": 3, "cup": 0}


def test_a_request_that_was_answered_already_gets_the_number_of_its_first_record(connection):
    sequences, lost, gaps = insert_all(connection, pending(1, key="k"), pending(2), pending(3, key="k"))
    assert sequences == [1, 2, 1]
    assert len(read_numbers(connection)) == 2
    assert insert_all(connection, pending(4, key="k"), lost={"disc": 1})[1:] == ({"disc": 1}, {})
    assert (lost, gaps) == ({}, {"disc": 0})


def test_a_record_beyond_the_queue_is_lost_and_its_caller_hears_of_it(idle_writer, monkeypatch):
    monkeypatch.setattr(idle_writer._queue, "maxsize", 2)
    waiting = [idle_writer.add(replace(RECORD, inspection_id=f"i{number}"), PICTURE) for number in range(3)]
    assert [one.done() for one in waiting] == [False, False, True]
    with pytest.raises(StoreUnusable, match="too many records wait for the disk"):
        waiting[2].result(0)
    assert idle_writer.num_lost == 1
    assert idle_writer.error == "inspections are not recorded: too many records wait for the disk"
    assert idle_writer._bytes_waiting == 2 * len(PICTURE.data)


@pytest.mark.parametrize(("limit", "num_images"), [(300, 3), (299, 2), (200, 2), (99, 0)])
def test_images_beyond_the_bytes_that_may_wait_are_dropped_and_their_records_kept(
    idle_writer, monkeypatch, limit, num_images
):
    monkeypatch.setattr(writer, "MAX_QUEUED_IMAGE_BYTES", limit)
    for number in range(3):
        idle_writer.add(replace(RECORD, inspection_id=f"i{number}"), PICTURE)
    queued = [idle_writer._queue.get_nowait() for _ in range(3)]
    assert [one.picture is not None for one in queued] == [number < num_images for number in range(3)]
    assert (idle_writer.num_lost, idle_writer.error) == (0, None)


def test_a_batch_takes_what_is_queued_up_to_its_size_in_order(idle_writer, monkeypatch):
    monkeypatch.setattr(writer, "MAX_BATCH_RECORDS", 3)
    for number in range(4):
        idle_writer.add(replace(RECORD, inspection_id=f"i{number}"))
    batch, ends = idle_writer._collect_batch(pending(9))
    assert ([one.record.inspection_id for one in batch], ends) == (["i9", "i0", "i1"], False)
    batch, ends = idle_writer._collect_batch(idle_writer._queue.get_nowait())
    assert ([one.record.inspection_id for one in batch], ends) == (["i2", "i3"], False)


def test_a_batch_ends_where_the_end_was_queued(idle_writer):
    idle_writer.add(RECORD)
    idle_writer._queue.put(None)
    batch, ends = idle_writer._collect_batch(pending(9))
    assert ([one.record.inspection_id for one in batch], ends) == (["i9", "i0"], True)


def test_writing_a_batch_frees_its_bytes_settles_its_gaps_and_tells_the_listener(idle_writer, connection, calls):
    idle_writer._num_lost_by_product.update({"disc": 2, "lid": 1})
    futures = [idle_writer.add(replace(RECORD, inspection_id=f"i{number}"), PICTURE) for number in range(2)]
    first, second = (idle_writer._queue.get_nowait() for _ in range(2))
    idle_writer._insert(connection, [first])
    assert idle_writer._bytes_waiting == len(PICTURE.data)
    idle_writer._insert(connection, [second])
    assert [one.result(0) for one in futures] == [1, 2]
    assert calls == ["written", "written"]
    assert idle_writer._bytes_waiting == 0
    assert +idle_writer._num_lost_by_product == {"lid": 1}
    assert read_numbers(connection) == [("disc", 3), ("disc", 4)]


def test_a_dropped_batch_is_counted_by_product_and_frees_its_bytes(idle_writer):
    idle_writer._bytes_waiting = 250
    batch = [pending(1, picture=PICTURE), pending(2, product="cup"), pending(3, picture=PICTURE)]
    idle_writer._drop_batch(batch, "disk full")
    assert idle_writer._num_lost_by_product == {"disc": 2, "cup": 1}
    assert (idle_writer.num_lost, idle_writer._bytes_waiting) == (3, 50)
    for one in batch:
        with pytest.raises(StoreUnusable, match="disk full"):
            one.done.result(0)


def test_a_caller_that_has_given_up_does_not_stop_the_batch(idle_writer, connection):
    first, second = pending(1), pending(2)
    first.done.cancel()
    first.done.set_running_or_notify_cancel()
    idle_writer._insert(connection, [first, second])
    assert second.done.result(0) == 2
    third, fourth = pending(3), pending(4)
    third.done.cancel()
    third.done.set_running_or_notify_cancel()
    idle_writer._drop_batch([third, fourth], "disk full")
    assert fourth.done.exception(0) is not None


def test_the_journal_is_pruned_from_time_to_time(idle_writer, monkeypatch):
    now, pruned = [100.0], []
    monkeypatch.setattr(writer.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(writer, "prune", lambda *given: pruned.append((now[0], given)))
    for now[0] in (100.0, 100.0 + writer.PRUNE_INTERVAL_S - 0.5, 100.0 + writer.PRUNE_INTERVAL_S, 111.0):
        idle_writer._prune("connection")
    expected = ("connection", idle_writer._retention)
    assert pruned == [(100.0, expected), (100.0 + writer.PRUNE_INTERVAL_S, expected)]


def test_stopping_writes_what_is_queued_and_lets_another_service_write(idle_writer, tmp_path):
    waiting = idle_writer.add(RECORD)
    idle_writer.start()
    idle_writer.stop()
    assert waiting.result(0) == 1
    other = JournalDatabase(tmp_path)
    with other.writing() as connection:
        assert read_numbers(connection) == [("disc", 1)]
    other.close()


def test_an_error_is_reported_until_a_record_is_written_again(idle_writer, tmp_path):
    holder = JournalDatabase(tmp_path)
    holder.open().close()
    idle_writer.start()
    assert "another service keeps its records there" in idle_writer.error
    with pytest.raises(StoreUnusable):
        idle_writer.add(RECORD).result(10)
    holder.close()
    assert idle_writer.add(replace(RECORD, inspection_id="i1")).result(10) == 1
    idle_writer.stop()
    assert (idle_writer.error, idle_writer.num_lost) == (None, 1)
