import pytest
from prometheus_client.parser import text_string_to_metric_families

URL = "/v1/products/disc/inspect"
PNG = {"content-type": "image/png"}


@pytest.fixture
def read(client):
    def samples():
        response = client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = text_string_to_metric_families(response.text)
        return {
            (one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples
        }

    return samples


def test_verdicts_scores_and_times_are_counted(client, read, good_bytes, defective_bytes):
    scores = [client.post(URL, content=data, headers=PNG).json()["score"] for data in (good_bytes, defective_bytes)]
    found = read()
    assert found["goodpart_inspections_total", (("product", "disc"), ("verdict", "ok"))] == 1
    assert found["goodpart_inspections_total", (("product", "disc"), ("verdict", "ng"))] == 1
    for bound in (-2.0, 2.0, 64.0):
        below = sum(score <= bound for score in scores)
        assert found["goodpart_score_bucket", (("le", str(bound)), ("product", "disc"))] == below
    assert found["goodpart_step_seconds_count", (("step", "inference"),)] == 2
    assert 0 < found["goodpart_step_seconds_sum", (("step", "inference"),)] < 10
    assert found["goodpart_batch_images_count", ()] == 2


def test_problems_are_counted_by_reason(client, read):
    client.post(URL, content=b"", headers=PNG)
    client.post(URL, content=b"nonsense", headers=PNG)
    client.post("/v1/products/unknown/inspect", content=b"x", headers=PNG)
    client.get("/nowhere")
    found = read()
    for reason in ("empty-image", "not-an-image", "unknown-product", "not-found"):
        assert found["goodpart_refusals_total", (("reason", reason),)] == 1


def test_images_of_a_batch_are_counted(client, read, good_bytes):
    files = [("image", ("a.png", data, "image/png")) for data in (good_bytes, good_bytes, b"nonsense")]
    client.post(f"{URL}/batch", files=files)
    found = read()
    assert found["goodpart_inspections_total", (("product", "disc"), ("verdict", "ok"))] == 2
    assert found["goodpart_refusals_total", (("reason", "not-an-image"),)] == 1


def test_metrics_name_the_serving_version_and_its_provider(read, tiny_version):
    facts = {
        "product": "disc",
        "version": tiny_version.name,
        "teacher": tiny_version.manifest.teacher.sha256[:16],
        "provider": "cpu",
    }
    found = read()
    assert found["goodpart_version_info", tuple(sorted(facts.items()))] == 1
    assert found["goodpart_fault", (("product", "disc"),)] == 0
    assert found["goodpart_images_in_hand", ()] == 0


def test_versions_that_were_loaded_or_refused_are_counted(client, read, store_folder, republished):
    client.post(f"/v1/products/disc/versions/{republished()}/activate")
    broken = republished(mark="2")
    (store_folder / "products/disc/versions" / broken / "compare.onnx").unlink()
    assert client.post(f"/v1/products/disc/versions/{broken}/activate").json()["type"].endswith("store-failed")
    found = read()
    assert found["goodpart_reloads_total", (("outcome", "loaded"), ("product", "disc"))] == 2
    assert found["goodpart_reloads_total", (("outcome", "refused"), ("product", "disc"))] == 1


def test_no_label_is_what_a_client_chose(client, read, good_bytes):
    client.post("/v1/products/chosen-by-a-stranger/inspect", content=good_bytes, headers=PNG)
    client.post(URL, content=good_bytes, headers={**PNG, "x-request-id": "chosen"}, params={"part_id": "chosen"})
    assert not [labels for _, labels in read() if "chosen" in str(labels)]
