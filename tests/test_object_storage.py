"""Real services whose store is on object storage."""

from datetime import UTC, datetime

import pytest
import storage as s3
from serving import Service, until

from app.bootstrap import open_store_at
from app.store import paths
from app.store.store import Store

pytestmark = pytest.mark.processes

URL = "/v1/products/disc/inspect"
PNG = {"content-type": "image/png"}


@pytest.fixture
def storage(monkeypatch):
    storage = s3.start()
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    yield storage
    storage.close()


@pytest.fixture
def shared(storage, store, tmp_path):
    """A store on object storage that holds the committed version, which serves; its address, and what opens it."""
    url = f"{storage.new_bucket('line')}/parts"
    stored = open_store_at(url, None, local=tmp_path / "publisher")
    publish(stored.store, store, store.list_versions("disc")[0])
    activate(stored, store.list_versions("disc")[0])
    return url, stored


def publish(remote, store, version):
    """Copy a version of a folder there, as a trainer writes it."""
    bundle = store.load_bundle("disc", version)
    manifest = (store.version_folder("disc", version) / "manifest.json").read_bytes()
    remote.add_teacher(bundle.manifest.teacher.sha256, bundle.teacher)
    assert remote.publish("disc", manifest=manifest, files=bundle.files, training={}) == version


def activate(stored, version):
    stored.state.activate("disc", version, at=datetime.now(UTC), by="test", why="published")


def ask_version(service, image):
    answer = service.client.post(URL, content=image, headers=PNG)
    assert answer.status_code == 200, answer.text
    return answer.json()["version"]


def test_two_services_take_up_what_is_published_and_go_on_while_the_storage_is_away(
    shared, storage, store, republished, tmp_path, good_bytes
):
    url, stored = shared
    first, second = store.list_versions("disc")[0], republished()
    with (
        Service(url, local=tmp_path / "one") as one,
        Service(url, local=tmp_path / "two") as two,
    ):
        assert {ask_version(one, good_bytes), ask_version(two, good_bytes)} == {first}
        publish(stored.store, store, second)
        answer = one.client.post(f"/v1/products/disc/versions/{second}/activate", json={"by": "test", "why": "new"})
        assert answer.status_code == 200, answer.text
        until(lambda: ask_version(two, good_bytes) == second)
        with storage.inject(off=True):
            reasons = until(lambda: two.client.get("/readyz").json()["reasons"])
            assert "the object storage does not answer" in reasons[0]
            assert two.client.get("/readyz").status_code == 200
            assert ask_version(two, good_bytes) == second
            refused = two.client.post("/v1/products/disc/rollback", json={"by": "test", "why": "back"})
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:goodpart:problem:store-unusable")
            with Service(url, local=tmp_path / "two") as restarted:
                assert ask_version(restarted, good_bytes) == second
        until(lambda: two.client.get("/readyz").json()["reasons"] == [], within_s=20)
        two.client.post("/v1/products/disc/rollback", json={"by": "test", "why": "back"}).raise_for_status()
        until(lambda: ask_version(one, good_bytes) == first)


def test_half_a_version_never_serves(shared, store, republished, tmp_path, good_bytes):
    url, stored = shared
    first, second = store.list_versions("disc")[0], republished()
    folder = stored.store.version_folder("disc", second)
    with Service(url, local=tmp_path / "one") as service:
        assert ask_version(service, good_bytes) == first
        for path in sorted(store.version_folder("disc", second).rglob("*")):
            if path.is_file() and path.name != "compare.onnx":
                relative = path.relative_to(store.version_folder("disc", second))
                paths.replace(folder / str(relative), path.read_bytes())
        activate(stored, second)
        reasons = until(lambda: service.client.get("/readyz").json()["reasons"])
        assert "compare.onnx is missing" in reasons[0]
        assert ask_version(service, good_bytes) == first


def test_a_trainer_publishes_there(shared, tmp_path):
    from commands import goodpart
    from drawing import write_mvtec

    url, _ = shared
    data = write_mvtec(tmp_path / "other", num_train=40)
    small = ("height=64", "width=64", "num_recall_items=300", "false_alarm_rate=0.2")
    chosen = [word for setting in small for word in ("--set", setting)]
    command = ["train", "--quick", "--data", data, "--product", "other", "--store", url, *chosen]
    done = goodpart(*command, "--local", tmp_path / "trainer")
    assert done.returncode == 0, done.stderr
    remote = open_store_at(url, None, local=tmp_path / "fresh")
    version = done.stdout.strip()
    assert remote.store.list_versions("other") == [version]
    assert remote.state.read_current("other").version == version
    assert isinstance(remote.store, Store)
    assert not (tmp_path / "trainer/work").exists()
