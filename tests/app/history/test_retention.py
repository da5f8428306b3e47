"""What is pruned of a journal and what stays, on a database in memory."""

import sqlite3
from contextlib import closing

import pytest

from app.history import retention
from app.history.database import create_tables
from app.history.records import RetentionPolicy
from app.history.retention import prune

NOW_S = 1_000_000_000.0
DAY_S = 86_400


@pytest.fixture
def connection(monkeypatch):
    monkeypatch.setattr(retention.time, "time", lambda: NOW_S)
    with closing(sqlite3.connect(":memory:")) as connection:
        create_tables(connection)
        yield connection


def add_records(connection, *ages_s, image_bytes=0):
    for number, age_s in enumerate(ages_s, start=1):
        row = (f"i{number}", NOW_S - age_s)
        connection.execute(
            "INSERT INTO inspections (inspection_id, at, product, product_sequence, version, verdict, score, answer) "
            "VALUES (?, ?, 'disc', 1, 'v', 'ok', 0, '{}')",
            row,
        )
        if image_bytes:
            connection.execute("INSERT INTO images VALUES (?, 'image/png', ?)", (row[0], bytes(image_bytes)))


def add_sink(connection, name, *, delivered):
    connection.execute("INSERT INTO sinks VALUES (?, ?, ?)", (name, delivered, delivered))


def list_sequences(connection):
    return [row[0] for row in connection.execute("SELECT sequence FROM inspections ORDER BY sequence")]


def list_images(connection):
    return [row[0] for row in connection.execute("SELECT inspection_id FROM images ORDER BY rowid")]


@pytest.mark.parametrize("num_answers", [2, 3, 4, 9])
def test_only_the_newest_answers_are_kept_for_clients_that_repeat_a_request(connection, monkeypatch, num_answers):
    monkeypatch.setattr(retention, "MAX_REPLAYS", 3)
    for number in range(num_answers):
        connection.execute("INSERT INTO replays VALUES (?, 'digest', 'answer')", (f"k{number}",))
    prune(connection, RetentionPolicy())
    kept = [row[0] for row in connection.execute("SELECT idempotency_key FROM replays ORDER BY rowid")]
    assert kept == [f"k{number}" for number in range(num_answers)][-3:]


@pytest.mark.parametrize("num_records", [0, 3, 4, 5, 9])
def test_the_newest_records_are_kept_up_to_their_number(connection, num_records):
    add_records(connection, *[0] * num_records)
    prune(connection, RetentionPolicy(records=4))
    assert list_sequences(connection) == list(range(1, num_records + 1))[-4:]


def test_a_record_goes_when_it_is_older_than_its_days(connection):
    add_records(connection, 2 * DAY_S + 1, 2 * DAY_S, 2 * DAY_S - 1, 3 * DAY_S, 0)
    prune(connection, RetentionPolicy(days=2.0))
    assert list_sequences(connection) == [2, 3, 5]


def test_images_go_with_their_records(connection):
    add_records(connection, 3 * DAY_S, 0, image_bytes=10)
    prune(connection, RetentionPolicy(days=1.0))
    assert list_images(connection) == ["i2"]


def test_what_any_sink_has_not_taken_stays(connection):
    add_records(connection, *[9 * DAY_S] * 6)
    add_sink(connection, "fast", delivered=5)
    add_sink(connection, "slow", delivered=2)
    prune(connection, RetentionPolicy(records=1, days=1.0))
    assert list_sequences(connection) == [3, 4, 5, 6]


@pytest.mark.parametrize("num_records", [4, 5, 6, 12])
def test_what_a_sink_has_not_taken_is_dropped_beyond_the_largest_backlog(connection, monkeypatch, num_records):
    monkeypatch.setattr(retention, "MAX_BACKLOG", 5)
    add_records(connection, *[0] * num_records)
    add_sink(connection, "line", delivered=0)
    prune(connection, RetentionPolicy(records=2))
    assert list_sequences(connection) == list(range(1, num_records + 1))[-5:]


@pytest.mark.parametrize(("images_mb", "kept"), [(0.004, 4), (0.003999, 3), (0.001, 1), (0.0, 0)])
def test_the_newest_images_are_kept_up_to_their_size(connection, images_mb, kept):
    add_records(connection, *[0] * 6, image_bytes=1000)
    prune(connection, RetentionPolicy(images_mb=images_mb))
    assert list_images(connection) == [f"i{number}" for number in range(1, 7)][6 - kept :]
    assert len(list_sequences(connection)) == 6


def test_what_an_error_interrupts_is_not_half_done(connection, monkeypatch):
    add_records(connection, *[0] * 5, image_bytes=10)
    connection.commit()

    def fail(*_):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(retention, "prune_images", fail)
    with pytest.raises(sqlite3.OperationalError):
        prune(connection, RetentionPolicy(records=1))
    assert list_sequences(connection) == [1, 2, 3, 4, 5]
