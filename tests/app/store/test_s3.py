"""Store and state on a real S3 server, through a proxy that cuts, slows, loses and hangs."""

import json
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
import storage as s3
from serving import until

from app.bootstrap import open_store_at
from app.store import paths
from app.store.errors import Conflict, StorageUnreachable, StoreUnusable, UnknownProduct, UnknownVersion
from app.store.labels import LabelDecision, LabelStore
from app.store.prune import Pruner
from app.store.s3 import breaker, client, retry
from app.store.state import Decision, Override, State
from model.bundle import BundleError, make_file_records, sha256_hex

pytestmark = pytest.mark.processes

BY = {"at": datetime.now(UTC), "by": "test", "why": "because"}
OTHER = "20260101t000000z-00000000"


@pytest.fixture(scope="module")
def storage():
    storage = s3.start()
    yield storage
    storage.close()


@pytest.fixture
def remote(storage, tmp_path, monkeypatch):
    """An empty store on object storage; ``again`` opens it anew, with the same or other copies."""
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(client, "CONNECTION", {**client.CONNECTION, "connect_timeout": 20, "read_timeout": 20})
    monkeypatch.setattr(client, "SMALL_TIMEOUT_S", 60.0)
    monkeypatch.setattr(client, "NUM_TRIES", 2)
    monkeypatch.setattr(breaker, "BACKOFF_S", 0.3)
    url = f"{storage.new_bucket(f'b{uuid4().hex[:12]}')}/line"

    def again(name="local"):
        return open_store_at(url, None, local=tmp_path / name)

    return SimpleNamespace(**vars(again()), again=again, url=url)


def publish(stored, bundle, *, mark="1"):
    manifest = bundle.manifest.model_copy(update={"fingerprint": mark * 64, "files": make_file_records(bundle.files)})
    stored.store.add_teacher(sha256_hex(bundle.teacher), bundle.teacher)
    data = manifest.model_dump_json().encode()
    return stored.store.publish("disc", manifest=data, files=bundle.files, training={"notes.json": b"{}"})


@pytest.fixture
def bundle(store):
    return store.load_bundle("disc", store.list_versions("disc")[0])


@pytest.fixture
def served(remote, bundle):
    """A remote store with one version, which serves."""
    version = publish(remote, bundle)
    remote.state.activate("disc", version, **BY)
    return version


def test_what_is_published_there_is_read_as_it_was(remote, served, bundle):
    again = remote.again("other")
    assert again.store.list_products() == ["disc"]
    assert again.store.list_versions("disc") == [served]
    found = again.store.load_bundle("disc", served)
    assert (dict(found.files), found.teacher) == (dict(bundle.files), bundle.teacher)
    assert again.state.read_current("disc").version == served


@pytest.mark.usefixtures("served")
def test_what_is_not_there_is_named(remote):
    with pytest.raises(UnknownProduct):
        remote.store.list_versions("other")
    with pytest.raises(UnknownVersion):
        remote.store.load_bundle("disc", OTHER)


def test_a_version_is_fetched_only_once(remote, served, storage):
    again = remote.again("other")
    again.store.load_bundle("disc", served)
    before = storage.num_requests
    again.store.load_bundle("disc", served)
    assert storage.num_requests == before


def test_a_version_without_its_manifest_is_not_seen_and_goes_when_it_is_old(remote, served):
    half = remote.store.version_folder("disc", OTHER) / "student.onnx"
    paths.replace(half, b"half")
    assert remote.again("other").store.list_versions("disc") == [served]
    kept = list(Pruner(remote.store, remote.state, datetime.now(UTC)).prune(keep=5))
    later = list(Pruner(remote.store, remote.state, datetime.now(UTC) + timedelta(days=2)).prune(keep=5))
    assert (kept, list(map(str, later))) == ([], [f"{remote.url}/products/disc/versions/{OTHER}"])
    assert paths.read(half) is None


def test_an_upload_that_is_cut_leaves_no_version_and_can_be_said_again(remote, served, bundle, storage):
    with storage.inject(cut_upload_after=2000), pytest.raises(StoreUnusable):
        publish(remote, bundle, mark="2")
    remote.store.root.storage.client.breaker.allow_retry()
    assert remote.again("other").store.list_versions("disc") == [served]
    version = publish(remote, bundle, mark="2")
    assert remote.again("other").store.load_bundle("disc", version).files == bundle.files


def test_a_truncated_response_is_requested_again_or_refused(remote, served, storage):
    again = remote.again("other")
    with storage.inject(cut_after=600), pytest.raises(StoreUnusable):
        again.store.load_bundle("disc", served)
    again.store.root.storage.client.breaker.allow_retry()
    assert again.store.load_bundle("disc", served).version == served


def test_a_slow_answer_is_waited_for(remote, served, storage, bundle):
    with storage.inject(bytes_per_s=2_000_000):
        assert remote.again("other").store.load_bundle("disc", served).files == bundle.files


def test_a_write_whose_answer_was_lost_counts_once(remote, served, bundle, storage):
    version = publish(remote, bundle, mark="2")
    with storage.inject(lost=1) as faults:
        remote.state.activate("disc", version, **BY)
    assert faults.lost == 0
    assert remote.again("other").state.read_current("disc").previous == served


AWAY = {
    "off": {"off": True},
    "hung": {"hung": True},
    "busy": {"answers": (503, "SlowDown")},
    "broken": {"answers": (500, "InternalError")},
    "closed": {"answers": (403, "AccessDenied")},
}


@pytest.mark.parametrize("mode", AWAY)
def test_a_storage_that_is_away_leaves_what_was_seen_last_also_after_a_restart(
    remote, served, storage, mode, monkeypatch
):
    remote.state.read("disc")
    remote.store.load_bundle("disc", served)
    remote.store.list_products()
    again = remote.again()
    if mode == "hung":  # for the others, the machine may be slow
        monkeypatch.setattr(client, "SMALL_TIMEOUT_S", 1.0)
        monkeypatch.setattr(client, "LARGE_TIMEOUT_S", 1.0)
    with storage.inject(**AWAY[mode]):
        assert again.store.list_products() == ["disc"]
        orders = again.state.read("disc")
        assert (orders.current.version, orders.override) == (served, None)
        assert again.store.load_bundle("disc", served).version == served
        assert again.state.error.startswith("the object storage does not answer: ")
        with pytest.raises(StoreUnusable):
            again.state.activate("disc", served, **BY)
    monkeypatch.setattr(client, "SMALL_TIMEOUT_S", 60.0)
    until(lambda: again.store.list_products() == ["disc"] and again.store.error is None)


@pytest.mark.usefixtures("served")
def test_a_threshold_that_was_never_looked_at_is_not_taken_for_none(remote, storage):
    again = remote.again("other")
    again.state.read_current("disc")
    with storage.inject(off=True), pytest.raises(StoreUnusable):
        again.state.read("disc")


@pytest.mark.usefixtures("served")
def test_a_threshold_that_was_lifted_does_not_come_back_while_the_storage_is_away(remote, storage):
    remote.state.set_override("disc", Override(**BY, false_alarm_rate=0.1))
    assert remote.state.read("disc").override.false_alarm_rate == 0.1
    remote.again("other").state.clear_override("disc", Decision(**BY))
    assert remote.state.read("disc").override is None
    with storage.inject(off=True):
        assert remote.state.read("disc").override is None


def test_what_was_decided_here_holds_here_while_the_storage_is_away(remote, served, bundle, storage):
    second = publish(remote, bundle, mark="2")
    remote.state.read("disc")
    remote.state.activate("disc", second, **BY)
    remote.state.set_override("disc", Override(**BY, false_alarm_rate=0.1))
    with storage.inject(off=True):
        orders = remote.state.read("disc")
    assert (orders.current.version, orders.current.previous) == (second, served)
    assert orders.override.false_alarm_rate == 0.1


@pytest.mark.usefixtures("served")
def test_a_busy_storage_is_no_absent_threshold(remote, storage):
    remote.state.read("disc")
    remote.again("other").state.set_override("disc", Override(**BY, false_alarm_rate=0.1))
    with storage.inject(answers=(503, "SlowDown")):
        assert remote.state.read("disc").override is None  # what it saw last, and it says so
        assert "SlowDown" in remote.state.error
    remote.state.root.storage.client.breaker.allow_retry()
    assert remote.state.read("disc").override.false_alarm_rate == 0.1


def test_nothing_is_taken_out_by_what_was_seen_some_time_ago(remote, served, bundle, storage):
    """Its copies know of no version that serves; then the storage does not answer."""
    other = remote.again("other")
    other.state.read("elsewhere")
    publish(remote, bundle, mark="2")
    other.store.list_versions("disc")
    late = datetime.now(UTC) + timedelta(days=2)
    with storage.inject(answers=(503, "SlowDown"), to=("GET",)), pytest.raises(StorageUnreachable):
        list(Pruner(other.store, other.state, late).prune(keep=1))
    assert served in remote.again("third").store.list_versions("disc")


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "PreconditionFailed"])
def test_the_loser_of_a_race_gets_a_conflict_and_the_audit_records_it(remote, served, bundle, storage, code):
    version = publish(remote, bundle, mark="2")
    status = 409 if code == "ConditionalRequestConflict" else 412

    def refuse(key, data, **options):
        if "current.json" in key:
            with storage.inject(answers=(status, code), to=("PUT",)):
                return pipe_file(key, data, **options)
        return pipe_file(key, data, **options)

    files = remote.state.root.storage.client.files
    pipe_file, files.pipe_file = files.pipe_file, refuse
    with pytest.raises(Conflict):
        remote.state.activate("disc", version, **BY)
    assert remote.state.read_current("disc").version == served
    assert remote.state.error is None
    audit = remote.state.root / "disc" / "audit"
    events = [json.loads(paths.read(audit / name))["event"] for name in paths.list_files(audit, r".*\.json")]
    assert sorted(events) == ["activate", "activate", "activate not done"]


@pytest.mark.usefixtures("served")
def test_a_write_waits_for_a_storage_that_is_away_where_it_has_patience(remote, bundle, storage, monkeypatch):
    paths.set_write_patience(remote.store.root, for_s=20)
    pauses = []

    def come_back(pause_s):
        pauses.append(pause_s)
        if len(pauses) == 2:
            storage.faults = s3.Faults()

    monkeypatch.setattr(retry, "sleep", come_back)
    storage.faults = s3.Faults(off=True)
    version = publish(remote, bundle, mark="2")
    assert remote.again("other").store.load_bundle("disc", version).version == version
    assert pauses == [1.0, 2.0]


@pytest.mark.parametrize("kind", ["folder", "storage"])
def test_a_threshold_that_was_chosen_meanwhile_is_not_lifted(remote, tmp_path, kind, monkeypatch):
    state = remote.state if kind == "storage" else State(tmp_path / "state")
    state.set_override("disc", Override(**BY, false_alarm_rate=0.1))
    record = State.write_audit

    def meanwhile(self, product, event, decided, change):
        record(self, product, event, decided, change)
        if change.get("to") is None and event == "threshold":
            state.set_override(product, Override(**BY, false_alarm_rate=0.2))

    monkeypatch.setattr(State, "write_audit", meanwhile)
    with pytest.raises(Conflict):
        state.clear_override("disc", Decision(**BY))
    assert state.read("disc").override.false_alarm_rate == 0.2


@pytest.mark.parametrize("kind", ["folder", "storage"])
def test_of_two_labels_at_the_same_moment_one_counts_and_leaves_one_image(
    remote, tmp_path, kind, monkeypatch, good_bytes
):
    state = remote.state if kind == "storage" else State(tmp_path / "state")
    feedback, swap = LabelStore(state), paths.compare_and_swap

    def meanwhile(place, data, *, instead_of):
        monkeypatch.setattr(paths, "compare_and_swap", swap)
        feedback.add("disc", good_bytes, suffix=".png", decision=LabelDecision(**BY, label="ok"))
        return swap(place, data, instead_of=instead_of)

    monkeypatch.setattr(paths, "compare_and_swap", meanwhile)
    with pytest.raises(Conflict):
        feedback.add("disc", good_bytes, suffix=".png", decision=LabelDecision(**BY, label="ng"))
    assert len(feedback.image_paths("disc", "ok")) == 1
    assert paths.list_files(state.root / "disc" / "confirmed" / "ng", ".*") == []


def test_readers_and_room_do_not_get_in_each_others_way(remote, served, bundle):
    versions = [served, *(publish(remote, bundle, mark=mark) for mark in "234")]
    again = remote.again("other")
    again.store.root.storage.copies.max_bytes = round(1.5 * sum(map(len, [*bundle.files.values(), bundle.teacher])))
    failed = []

    def read():
        for version in versions * 2:
            try:
                again.store.load_bundle("disc", version)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is a read that failed
                failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.mark.parametrize("url", ["s3://bucket/line/", "s3://bucket/line", "s3://bucket"])
def test_an_address_is_one_with_or_without_a_slash_at_its_end(url):
    from app.settings import Settings

    assert Settings(store=url).store == url


def test_an_address_that_is_none_is_no_folder(tmp_path):
    with pytest.raises(StoreUnusable, match="s3://bucket/prefix"):
        open_store_at(Path("s3:/bucket/line"), None, local=tmp_path)


def test_a_damaged_copy_is_refused_and_fetched_again(remote, served, tmp_path):
    remote.store.load_bundle("disc", served)
    (copy,) = (tmp_path / "local").rglob("student.onnx")
    data = bytearray(copy.read_bytes())
    data[100] ^= 1
    copy.write_bytes(data)
    with pytest.raises(BundleError, match="has been changed"):
        remote.store.load_bundle("disc", served)
    assert remote.store.load_bundle("disc", served).version == served


def test_copies_take_no_more_room_than_they_may(remote, served, bundle, tmp_path):
    second = publish(remote, bundle, mark="2")
    remote.store.root.storage.copies.max_bytes = round(1.2 * sum(map(len, [*bundle.files.values(), bundle.teacher])))
    remote.store.load_bundle("disc", served)
    remote.store.load_bundle("disc", second)
    fixed = [path for path in (tmp_path / "local/copies/fixed").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in fixed) <= remote.store.root.storage.copies.max_bytes
    assert not any(served in path.parts and path.name == "student.onnx" for path in fixed)


@pytest.mark.usefixtures("served")
def test_of_many_who_decide_at_the_same_moment_one_does(remote, bundle):
    version = publish(remote, bundle, mark="2")
    after = remote.state.read_current("disc")
    outcomes = []
    ready = threading.Barrier(5)

    def decide(number):
        state = remote.again(f"local{number}").state
        ready.wait()
        try:
            state.activate("disc", version, **{**BY, "by": str(number)}, after=after)
            outcomes.append(number)
        except Conflict:
            outcomes.append(None)

    threads = [threading.Thread(target=decide, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [outcome for outcome in outcomes if outcome is not None]
    assert len(outcomes) == 5
    assert remote.state.read_current("disc").by == str(winner)


@pytest.mark.usefixtures("served")
def test_feedback_is_kept_there_and_its_images_come_as_files(remote, good_bytes):
    feedback = LabelStore(remote.state)
    feedback.add("disc", good_bytes, suffix=".png", decision=LabelDecision(**BY, label="ok"))
    again = LabelStore(remote.again("other").state)
    (path,) = again.image_paths("disc", "ok")
    assert path.read_bytes() == good_bytes
    again.add("disc", good_bytes, suffix=".png", decision=LabelDecision(**BY, label="ng"))
    assert feedback.image_paths("disc", "ok") == ()
    assert [one.label for one in feedback.read_all("disc")[0].history] == ["ok", "ng"]


@pytest.mark.usefixtures("served")
def test_old_versions_and_products_can_be_taken_out(remote, bundle):
    for mark in "2345":
        remote.state.activate("disc", publish(remote, bundle, mark=mark), **BY)
    late = datetime.now(UTC) + timedelta(days=2)
    removed = list(map(str, Pruner(remote.store, remote.state, late).prune(keep=2)))
    left = remote.again("other").store.list_versions("disc")
    current = remote.state.read_current("disc")
    assert {current.version, current.previous} <= set(left)
    assert len([one for one in removed if "/versions/" in one]) == 5 - len(left) > 0
    list(Pruner(remote.store, remote.state, late).remove("disc", even_if_active=True))
    assert remote.again("third").store.list_products() == []


@pytest.mark.usefixtures("served")
def test_missing_write_access_is_found_before_training(remote, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Access Denied")

    monkeypatch.setattr(remote.store.root.storage.client.files, "pipe_file", refuse)
    with pytest.raises(StoreUnusable, match="Access Denied"):
        remote.store.check_writable("disc")


def test_without_the_package_it_says_which_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StoreUnusable, match=r"pip install 'goodpart\[s3\]'"):
        open_store_at("s3://bucket/line", None, local=tmp_path)


def test_an_address_without_a_listener_is_one_line(tmp_path, monkeypatch):
    for name, value in {**s3_variables(), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreUnusable) as caught:
        open_store_at("s3://bucket/line", None, local=tmp_path / "local").store.list_products()
    assert "\n" not in str(caught.value)


def s3_variables():
    return {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
