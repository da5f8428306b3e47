import json
import os

import pytest

from model.bundle import MANIFEST

PNG = {"content-type": "image/png"}


def test_products_say_what_serves(client, tiny_version):
    (product,) = client.get("/v1/products").json()["products"]
    name, promise = tiny_version.name, tiny_version.manifest.promise
    assert (product["product"], product["serving"], product["activated"]) == ("disc", name, name)
    assert (product["fault"], product["override"], product["shadow"]) == (None, None, None)
    assert (product["threshold"], product["threshold_from"]) == (promise.threshold, "calibration")
    assert product["promise"] == promise.model_dump()
    assert (product["drift"]["drifted"], product["drift"]["false_alarm_rate"]) == (None, 0.001)
    assert client.get("/v1/products/disc").json() == product


def test_versions_are_listed_with_their_promise_and_a_damaged_one_with_its_fault(
    client, store, tiny_version, republished
):
    first, second = tiny_version.name, republished()
    path = store.version_folder("disc", second) / MANIFEST
    path.chmod(0o644)
    path.write_text("{}")
    versions = {row["version"]: row for row in client.get("/v1/products/disc/versions").json()["versions"]}
    assert versions[first]["serving"]
    assert versions[first]["promise"]["num_calibration"] == 28
    assert "can't be read" in versions[second]["fault"]


def test_an_activated_version_serves_and_a_rollback_brings_the_old_one_back(
    client, store, good_bytes, tiny_version, republished
):
    first, second = tiny_version.name, republished()
    answer = client.post(f"/v1/products/disc/versions/{second}/activate", json={"by": "ann", "why": "new lamp"})
    assert answer.json()["serving"] == second
    judged = client.post("/v1/products/disc/inspect", content=good_bytes, headers=PNG).json()
    assert judged["version"] == second
    assert client.post("/v1/products/disc/rollback").json()["serving"] == first
    audit = [json.loads(path.read_text()) for path in (store.root / "state/disc/audit").iterdir()]
    assert ("ann", "new lamp", second) in {(entry["by"], entry["why"], entry["to"]) for entry in audit}


def test_a_version_that_can_not_be_loaded_is_not_activated(client, store, tiny_version, republished):
    second = republished()
    (store.version_folder("disc", second) / "student.onnx").unlink()
    response = client.post(f"/v1/products/disc/versions/{second}/activate")
    assert response.status_code == 500
    assert "student.onnx" in response.json()["detail"]
    assert client.get("/v1/products/disc").json()["serving"] == tiny_version.name
    current = json.loads((store.root / "state/disc/current.json").read_text())
    assert current["version"] == tiny_version.name


def test_activating_what_is_not_there_is_a_404(client):
    response = client.post("/v1/products/disc/versions/20000101t000000z-00000000/activate")
    assert response.status_code == 404


def test_a_first_version_can_not_be_rolled_back(client):
    assert client.post("/v1/products/disc/rollback").status_code == 409


def test_a_decision_with_unknown_members_is_refused(client, tiny_version):
    url = f"/v1/products/disc/versions/{tiny_version.name}/activate"
    assert client.post(url, json={"who": "ann"}).status_code == 422


def test_a_version_activated_in_the_store_is_followed(client, store, republished):
    from datetime import UTC, datetime

    from app.store.state import State

    second = republished()
    State(store.root / "state").activate("disc", second, at=datetime.now(UTC), by="job", why="trained")
    app_catalogue(client).refresh()
    assert client.get("/v1/products/disc").json()["serving"] == second


def test_a_broken_version_activated_in_the_store_leaves_the_old_one_serving(client, store, tiny_version, republished):
    from datetime import UTC, datetime

    from app.store.state import State

    second = republished()
    path = store.version_folder("disc", second) / "compare.onnx"
    path.chmod(0o644)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    State(store.root / "state").activate("disc", second, at=datetime.now(UTC), by="job", why="trained")
    app_catalogue(client).refresh()
    standing = client.get("/v1/products/disc").json()
    assert (standing["serving"], standing["activated"]) == (tiny_version.name, second)
    assert "compare.onnx has been changed" in standing["fault"]
    assert client.get("/readyz").status_code == 200


def app_catalogue(client):
    return client.app.state.services.registry


def test_an_empty_store_is_alive_and_not_ready(client_over, tmp_path):
    client = client_over(tmp_path)
    assert client.get("/livez").json() == {"live": True}
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["reasons"] == ["no product has a version that serves"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_store_that_can_not_be_read_is_not_ready(client_over, store_folder):
    (store_folder / "products").chmod(0)
    response = client_over(store_folder).get("/readyz")
    (store_folder / "products").chmod(0o755)
    assert response.status_code == 503
    assert "products" in response.json()["reasons"][0]


def test_a_service_with_a_store_is_ready(client):
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["ready"]


def test_a_version_that_could_not_be_loaded_is_tried_again(store, tiny_version):
    """A teacher that arrives late, as on a network drive."""
    from app.inference.registry import RETRY_AFTER_S, ModelRegistry
    from app.inference.sessions import Device
    from app.inference.version import Loader
    from app.store.state import State

    (teacher,) = (store.root / "teachers").iterdir()
    graph = teacher.read_bytes()
    teacher.unlink()
    now = [0.0]
    registry = ModelRegistry(
        store=store, state=State(store.root / "state"), prepare=Loader(Device("cpu", 1)).load, clock=lambda: now[0]
    )
    registry.refresh()
    assert "missing from the store" in registry.get_status("disc").error
    teacher.write_bytes(graph)
    registry.refresh()
    assert registry.get_status("disc").serving is None
    now[0] = RETRY_AFTER_S
    registry.refresh()
    assert registry.get_serving("disc").name == tiny_version.name
    assert registry.get_status("disc").error is None


def test_a_state_that_was_damaged_for_a_moment_leaves_no_fault(client, store, tiny_version):
    path = store.root / "state/disc/current.json"
    content = path.read_bytes()
    path.write_text("{")
    app_catalogue(client).refresh()
    standing = client.get("/v1/products/disc").json()
    assert (standing["serving"], "damaged" in standing["fault"]) == (tiny_version.name, True)
    path.write_bytes(content)
    app_catalogue(client).refresh()
    assert client.get("/v1/products/disc").json()["fault"] is None
