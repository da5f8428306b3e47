"""How far each sink has taken the records, by the file alone."""

import pytest

from app.history.cursors import DeliveryCursors
from app.history.database import JournalDatabase
from app.history.records import DeliveryCursor
from app.store.errors import StoreUnusable


@pytest.fixture
def database(tmp_path):
    database = JournalDatabase(tmp_path)
    database.open().close()
    yield database
    database.close()


@pytest.fixture
def cursors(database):
    return DeliveryCursors(database)


def add_records(database, count):
    with database.writing() as connection:
        for _ in range(count):
            connection.execute(
                "INSERT INTO inspections (inspection_id, at, product, product_sequence, version, verdict, score, "
                "answer) VALUES (HEX(RANDOMBLOB(8)), 0, 'disc', 1, 'v', 'ok', 0, '{}')"
            )


def remove_records(database):
    with database.writing() as connection:
        connection.execute("DELETE FROM inspections")


def read_journal_id(database):
    with database.reading() as connection:
        return connection.execute("SELECT id FROM identity").fetchone()[0]


def test_a_new_sink_is_sent_nothing_of_before(cursors, database):
    add_records(database, 3)
    cursors.register("line")
    assert cursors.read("line") == DeliveryCursor(3, 3, 0, read_journal_id(database))


def test_a_sink_of_an_empty_journal_begins_with_its_first_record(cursors, database):
    cursors.register("line")
    add_records(database, 2)
    assert cursors.read("line") == DeliveryCursor(0, 0, 2, read_journal_id(database))


def test_a_new_sink_begins_at_the_end_though_all_records_were_pruned(cursors, database):
    add_records(database, 3)
    remove_records(database)
    cursors.register("line")
    cursor = cursors.read("line")
    assert (cursor.delivered, cursor.attempted, cursor.backlog) == (3, 3, 0)


def test_a_sink_that_is_registered_again_goes_on_where_it_was(cursors, database):
    cursors.register("line")
    add_records(database, 5)
    cursors.mark_delivered("line", 2)
    cursors.register("line")
    cursor = cursors.read("line")
    assert (cursor.delivered, cursor.backlog) == (2, 3)


def test_each_sink_has_its_own_cursor(cursors, database):
    cursors.register("line")
    cursors.register("office")
    add_records(database, 4)
    cursors.mark_attempted("line", 4)
    cursors.mark_delivered("line", 3)
    assert [cursors.read(sink).delivered for sink in ("line", "office")] == [3, 0]
    assert [cursors.read(sink).attempted for sink in ("line", "office")] == [4, 0]
    assert [cursors.read(sink).backlog for sink in ("line", "office")] == [1, 4]


def test_what_may_have_been_sent_is_not_forgotten_when_an_earlier_record_is_tried_again(cursors, database):
    cursors.register("line")
    add_records(database, 4)
    cursors.mark_attempted("line", 4)
    cursors.mark_attempted("line", 2)
    assert cursors.read("line").attempted == 4


def test_the_backlog_of_a_sink_that_is_ahead_of_what_is_left_is_0(cursors, database):
    add_records(database, 3)
    cursors.register("line")
    remove_records(database)
    assert cursors.read("line").backlog == 0


def test_sinks_that_are_configured_no_more_are_removed(cursors):
    for sink in ("line", "office", "old"):
        cursors.register(sink)
    cursors.remove_others(keep=("line", "office"))
    assert cursors.read("line").delivered == cursors.read("office").delivered == 0
    with pytest.raises(StoreUnusable, match="knows no sink 'old'"):
        cursors.read("old")
    cursors.remove_others(keep=())
    with pytest.raises(StoreUnusable, match="knows no sink 'line'"):
        cursors.read("line")


def test_a_cursor_survives_a_restart(cursors, database, tmp_path):
    cursors.register("line")
    add_records(database, 2)
    cursors.mark_delivered("line", 1)
    database.close()
    assert DeliveryCursors(JournalDatabase(tmp_path)).read("line").delivered == 1
