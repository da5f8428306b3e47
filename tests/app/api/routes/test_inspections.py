"""Records of inspections over HTTP: found, paged, exported, watched, and given again to who asks again."""

import base64
import csv
import io
import json
import sqlite3
import threading
from datetime import UTC, datetime, timedelta

import pytest
from serving import Service, until

URL = "/v1/products/disc/inspect"
PNG = {"content-type": "image/png"}


def inspect_part(client, image, **query):
    answer = client.post(URL, content=image, headers=PNG, params={"heatmap": "none", **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


def list_records(client, **query):
    """The records, once all that were answered are written."""
    answer = client.get("/v1/inspections", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


@pytest.fixture
def ten(client, good_bytes, defective_bytes):
    """Ten inspections, of which three are ng."""
    answers = [
        inspect_part(client, defective_bytes if number % 4 == 0 else good_bytes, part_id=f"part-{number}")
        for number in range(10)
    ]
    until(lambda: len(list_records(client)) == 10)
    return answers


def test_records_are_what_was_answered_the_newest_first(client, ten):
    items = list_records(client)
    assert [one["inspection_id"] for one in items] == [one["inspection_id"] for one in reversed(ten)]
    for item, answer in zip(items, reversed(ten), strict=True):
        assert {name: item[name] for name in answer if name != "heatmap"} == {
            name: value for name, value in answer.items() if name != "heatmap"
        }
    assert [one["product_sequence"] for one in items] == list(range(10, 0, -1))


def test_they_are_found_by_part_verdict_version_and_time(client, ten):
    assert [one["part_id"] for one in list_records(client, part_id="part-3")] == ["part-3"]
    assert [one["part_id"] for one in list_records(client, verdict="ng")] == ["part-8", "part-4", "part-0"]
    assert list_records(client, version="20260101t000000z-00000000") == []
    assert list_records(client, product="cup") == []
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert list_records(client, since=later) == []
    assert len(list_records(client, until=later)) == 10
    one = client.get(f"/v1/inspections/{ten[3]['inspection_id']}").json()
    assert one["part_id"] == "part-3"


def test_pages_follow_each_other_without_gap_or_double(client, ten):
    seen, before = [], None
    while True:
        page = client.get("/v1/inspections", params={"limit": 3, **({"before": before} if before else {})}).json()
        seen += [one["part_id"] for one in page["items"]]
        before = page["next"]
        if before is None:
            break
    assert seen == [one["part_id"] for one in reversed(ten)]


def test_as_csv_they_are_what_a_spreadsheet_can_take(client, ten, good_bytes):
    inspect_part(client, good_bytes, part_id="=1+1")
    until(lambda: len(list_records(client)) == 11)
    answer = client.get("/v1/inspections", params={"format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["part_id"] for row in rows] == ["'=1+1", *(f"part-{number}" for number in range(9, -1, -1))]
    assert [float(row["score"]) for row in rows[1:]] == [one["score"] for one in reversed(ten)]


@pytest.mark.parametrize(
    ("path", "status", "slug"),
    [
        ("/v1/inspections/none", 404, "unknown-inspection"),
        ("/v1/inspections/none/image", 404, "no-image"),
        ("/v1/inspections?limit=0", 422, "invalid-request"),
        ("/v1/inspections?since=yesterday", 422, "invalid-request"),
        ("/v1/inspections?colour=red", 422, "invalid-request"),
    ],
)
def test_what_can_not_be_answered_says_why(client, ten, path, status, slug):
    assert len(ten) == 10
    answer = client.get(path)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:goodpart:problem:{slug}")


def test_a_service_without_history_says_so(client_over, store_folder, good_bytes):
    client = client_over(store_folder, history_records=0)
    inspect_part(client, good_bytes)
    answer = client.get("/v1/inspections")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:goodpart:problem:no-history")


@pytest.mark.parametrize(("keeps", "kept"), [("none", []), ("ng", ["ng"]), ("all", ["ng", "ok"])])
def test_images_are_kept_unchanged_if_the_setting_requires_it(
    client_over, store_folder, good_bytes, defective_bytes, keeps, kept
):
    client = client_over(store_folder, keep_images=keeps)
    images = {"ok": good_bytes, "ng": defective_bytes}
    answers = {verdict: inspect_part(client, image) for verdict, image in images.items()}
    until(lambda: len(list_records(client)) == 2)
    for verdict, answer in answers.items():
        picture = client.get(f"/v1/inspections/{answer['inspection_id']}/image")
        assert picture.status_code == (200 if verdict in kept else 404)
        if verdict in kept:
            assert (picture.content, picture.headers["content-type"]) == (images[verdict], "image/png")


def test_a_batch_and_the_open_protocol_are_recorded_too(client, good_bytes, defective_bytes):
    files = [("image", ("a.png", good_bytes)), ("image", ("b.png", b"no image")), ("image", ("c.png", defective_bytes))]
    client.post(f"{URL}/batch", files=files).raise_for_status()
    tensor = {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(good_bytes) + 4},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    body = head + len(good_bytes).to_bytes(4, "little") + good_bytes
    headers = {"Inference-Header-Content-Length": str(len(head)), "content-type": "application/octet-stream"}
    client.post("/v2/models/disc/infer", content=body, headers=headers).raise_for_status()
    until(lambda: len(list_records(client)) == 3)
    assert sorted(one["verdict"] for one in list_records(client)) == ["ng", "ok", "ok"]


def test_a_request_that_is_sent_again_gets_the_first_answer_and_one_record(client, good_bytes):
    headers = {**PNG, "Idempotency-Key": "a-1"}
    first = client.post(URL, content=good_bytes, headers=headers)
    again = client.post(URL, content=good_bytes, headers=headers)
    assert first.text == again.text
    assert first.json()["heatmap"] is not None
    replayed = [one.headers["idempotency-replayed"] for one in (first, again)]
    assert replayed == ["false", "true"]
    last = inspect_part(client, good_bytes)
    until(lambda: list_records(client)[0]["inspection_id"] == last["inspection_id"])
    assert len(list_records(client)) == 2
    assert "heatmap" not in list_records(client)[1]


def test_a_key_is_for_one_request(client, good_bytes, defective_bytes):
    headers = {**PNG, "Idempotency-Key": "a-1"}
    client.post(URL, content=good_bytes, headers=headers).raise_for_status()
    for content, query in ((defective_bytes, {}), (good_bytes, {"heatmap": "none"})):
        refused = client.post(URL, content=content, headers=headers, params=query)
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:goodpart:problem:key-reused")


def test_a_request_that_failed_may_be_sent_again_under_its_key(client, good_bytes):
    headers = {**PNG, "Idempotency-Key": "a-1"}
    assert client.post(URL, content=b"no image", headers=headers).status_code == 415
    assert client.post(URL, content=good_bytes, headers=headers).status_code == 200


def test_two_at_the_same_moment_are_judged_once(client, good_bytes):
    headers = {**PNG, "Idempotency-Key": "a-1"}
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.post(URL, content=good_bytes, headers=headers).text))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1
    last = inspect_part(client, good_bytes)
    until(lambda: list_records(client)[0]["inspection_id"] == last["inspection_id"])
    assert len(list_records(client)) == 2


@pytest.mark.processes
def test_the_first_answer_outlives_a_kill(store_folder, tmp_path, good_bytes):
    headers = {**PNG, "Idempotency-Key": "a-1"}
    with Service(store_folder, local=tmp_path / "local") as service:
        first = service.client.post(URL, content=good_bytes, headers=headers).json()
        service.process.kill()
        service.process.wait()
    with Service(store_folder, local=tmp_path / "local") as service:
        again = service.client.post(URL, content=good_bytes, headers=headers)
        assert again.json() == first
        assert again.headers["idempotency-replayed"] == "true"
        assert len(list_records(service.client)) == 1


@pytest.mark.processes
def test_who_watches_sees_inspections_as_they_are_made_and_the_end(store_folder, tmp_path, good_bytes):
    with Service(store_folder, local=tmp_path / "local") as service:
        with service.client.stream("GET", "/v1/inspections/live") as stream:
            lines = stream.iter_lines()
            assert next(lines) == ": watching"
            answer = inspect_part(service.client, good_bytes, part_id="seen")
            data = next(line for line in lines if line.startswith("data: "))
            event = json.loads(data.removeprefix("data: "))
            assert (event["inspection_id"], event["part_id"]) == (answer["inspection_id"], "seen")
            service.process.terminate()
            for _ in lines:
                pass
        assert service.process.wait(20) == 0


def test_a_disk_that_takes_nothing_never_stops_judging(client_over, store_folder, tmp_path, good_bytes):
    (tmp_path / "file").write_text("in the way")
    client = client_over(store_folder, local=tmp_path / "file")
    assert inspect_part(client, good_bytes)["verdict"] == "ok"
    ready = until(lambda: client.get("/readyz"))
    assert ready.status_code == 200
    assert ready.json()["reasons"][0].startswith("inspections are not recorded: ")
    until(lambda: "goodpart_records_lost_total 1.0" in client.get("/metrics").text)
    refused = client.get("/v1/inspections")
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:goodpart:problem:store-unusable")


def test_a_locked_file_costs_records_and_no_verdict(client_over, store_folder, tmp_path, good_bytes, monkeypatch):
    from app.history import database

    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    client = client_over(store_folder, local=tmp_path / "local")
    with sqlite3.connect(tmp_path / "local/journal.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        inspect_part(client, good_bytes)
        until(lambda: "goodpart_records_lost_total 1.0" in client.get("/metrics").text)
        other.rollback()
    inspect_part(client, good_bytes)
    until(lambda: len(list_records(client)) == 1)
    assert client.get("/readyz").json()["reasons"] == []


def test_a_kept_image_gives_its_heat_map_again_and_counts_nowhere(client_over, store_folder, defective_bytes):
    client = client_over(store_folder, keep_images="all")
    answer = client.post(URL, content=defective_bytes, headers=PNG).json()
    until(lambda: list_records(client))
    picture = client.get(f"/v1/inspections/{answer['inspection_id']}/heatmap")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert base64.b64encode(picture.content).decode() == answer["heatmap"]["data"]
    assert 'goodpart_inspections_total{product="disc",verdict="ng"} 1.0' in client.get("/metrics").text
    assert len(list_records(client)) == 1


def test_without_its_image_there_is_no_heat_map(client, ten):
    answer = client.get(f"/v1/inspections/{ten[0]['inspection_id']}/heatmap")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:goodpart:problem:no-image")
