import json

import pytest
from serving import until

from app.api.keys import generate_key

PNG = {"content-type": "image/png"}
URL = "/v1/products/disc"


@pytest.fixture
def keys(tmp_path):
    """A key file with an inspector, an operator and one who may both; their keys."""
    made = {name: generate_key(name, scopes) for name, scopes in {
        "line": ["inspect"], "office": ["operate"], "both": ["inspect", "operate"],
    }.items()}  # fmt: skip
    file = tmp_path / "keys"
    file.write_text("# the plant's keys\n\n" + "".join(f"{key.to_line()}\n" for _, key in made.values()))
    return file, {name: {"authorization": f"Bearer {presented}"} for name, (presented, _) in made.items()}


@pytest.fixture
def guarded(client_over, store_folder, keys):
    file, headers = keys
    return client_over(store_folder, api_keys_file=file), headers


def wait_for_tally(tally):
    """A tally that nothing more comes to: the last image may be under way for a while after its answer."""
    return tally if tally["judged"] + tally["skipped"] == tally["seen"] else None


def read_audit(store):
    return [json.loads(path.read_text()) for path in sorted((store.root / "state/disc/audit").iterdir())]


def test_a_rate_moves_the_threshold_now_and_every_answer_names_it(client, store, good_bytes):
    chosen = {"false_alarm_rate": 0.5, "by": "ann", "why": "too strict"}
    answer = client.put(f"{URL}/threshold", json=chosen).json()
    assert (answer["threshold_from"], answer["promise"]["asked"]) == ("rate", 0.5)
    assert answer["override"] == {
        "false_alarm_rate": 0.5,
        "threshold": None,
        "version": None,
        "by": "ann",
        "why": "too strict",
    }
    judged = client.post(f"{URL}/inspect", content=good_bytes, headers=PNG).json()
    assert (judged["threshold"], judged["threshold_from"]) == (answer["threshold"], "rate")
    assert judged["promise"]["asked"] == 0.5
    assert read_audit(store)[-1]["to"] == {"false_alarm_rate": 0.5, "threshold": None, "version": None}
    assert read_audit(store)[-1]["by"] == "ann"


def test_a_value_moves_the_verdict_and_can_be_lifted(client, good_bytes, tiny_version):
    answer = client.put(f"{URL}/threshold", json={"threshold": -50}).json()
    assert (answer["threshold"], answer["override"]["version"]) == (-50, tiny_version.name)
    judge = lambda: client.post(f"{URL}/inspect", content=good_bytes, headers=PNG).json()  # noqa: E731
    assert judge()["verdict"] == "ng"
    assert client.delete(f"{URL}/threshold").json()["override"] is None
    assert judge()["verdict"] == "ok"


@pytest.mark.parametrize(
    "decision",
    [{}, {"false_alarm_rate": 0.1, "threshold": 1}, {"false_alarm_rate": 0}, {"false_alarm_rate": 1},
     {"threshold": "NaN"}, {"threshold": 1, "until": "x"}],
)  # fmt: skip
def test_a_threshold_that_is_none_is_refused_and_nothing_is_written(client, store, decision):
    assert client.put(f"{URL}/threshold", json=decision).status_code == 422
    assert not (store.root / "state/disc/override.json").exists()


def test_a_threshold_of_an_unknown_product_is_a_404(client):
    assert client.put("/v1/products/cup/threshold", json={"false_alarm_rate": 0.1}).status_code == 404
    assert client.delete("/v1/products/cup/threshold").status_code == 404


def test_a_candidate_judges_beside_and_the_answer_stays_the_serving_versions(
    client, good_bytes, republished, tiny_version
):
    candidate = republished()
    shadow = client.put(f"{URL}/shadow", json={"version": candidate, "share": 1.0}).json()["shadow"]
    assert (shadow["version"], shadow["fault"], shadow["tally"]["seen"]) == (candidate, None, 0)
    for _ in range(5):
        judged = client.post(f"{URL}/inspect", content=good_bytes, headers=PNG).json()
        assert judged["version"] == tiny_version.name
    tally = until(lambda: wait_for_tally(client.get(URL).json()["shadow"]["tally"]))
    assert (tally["seen"], tally["failed"]) == (5, 0)
    assert f'goodpart_shadow_inspections_total{{outcome="agreed",product="disc"}} {tally["judged"]}' in (
        client.get("/metrics").text.replace(".0\n", "\n")
    )
    assert client.delete(f"{URL}/shadow").json()["shadow"] is None


def test_a_candidate_that_is_not_there_or_broken_is_refused(client, store, republished):
    absent = client.put(f"{URL}/shadow", json={"version": "20000101t000000z-00000000"})
    assert absent.status_code == 404
    broken = republished(mark="2")
    (store.version_folder("disc", broken) / "student.onnx").unlink()
    assert client.put(f"{URL}/shadow", json={"version": broken}).status_code == 500
    assert not (store.root / "state/disc/shadow.json").exists()


def test_a_version_that_fails_its_golden_images_never_serves(client, store, republished, tiny_version):

    from app.inference.arrays import pack_arrays
    from app.inspection.verification import EXPECTED, unpack_expectation

    before = unpack_expectation(store.load_bundle("disc", tiny_version.name).files[EXPECTED])
    bad = republished(files={EXPECTED: pack_arrays(scores=before.scores + 1, maps=before.maps)})
    response = client.post(f"{URL}/versions/{bad}/activate")
    assert response.status_code == 500
    assert "differs from its result in training by 1; the tolerance is 0.02" in response.json()["detail"]
    assert client.get(URL).json()["serving"] == tiny_version.name
    assert 'goodpart_reloads_total{outcome="refused",product="disc"} 1.0' in client.get("/metrics").text


def test_without_a_key_only_health_is_answered(guarded, good_bytes):
    client, _ = guarded
    assert [client.get(path).status_code for path in ("/livez", "/readyz", "/metrics", "/v2/health/ready")] == [200] * 4
    for path in ("/v1/products", URL, f"{URL}/versions", "/v2", "/v2/models/disc"):
        response = client.get(path)
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer"), path
    assert client.post(f"{URL}/inspect", content=good_bytes, headers=PNG).status_code == 401
    stranger = {"authorization": "Bearer gp_nobodys", **PNG}
    assert client.post(f"{URL}/inspect", content=good_bytes, headers=stranger).status_code == 401


def test_a_body_without_a_key_is_not_read_for_ever(guarded):
    client, _ = guarded
    sent = []

    def endless():
        for _ in range(1000):
            sent.append(1)
            yield b" " * 65536

    response = client.put(f"{URL}/threshold", content=endless(), headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500


def test_unknown_names_create_no_metric(client, tiny_version):
    for number in range(3):
        client.post(f"/v1/products/cup-{number}/versions/{tiny_version.name}/activate")
    assert "cup-" not in client.get("/metrics").text


def test_each_scope_does_its_part_and_no_more(guarded, good_bytes, tiny_version):
    client, headers = guarded
    inspect = lambda who: client.post(f"{URL}/inspect", content=good_bytes, headers={**PNG, **headers[who]})  # noqa: E731
    operate = lambda who: client.post(f"{URL}/versions/{tiny_version.name}/activate", headers=headers[who])  # noqa: E731
    assert [inspect(who).status_code for who in ("line", "office", "both")] == [200, 403, 200]
    assert [operate(who).status_code for who in ("line", "office", "both")] == [403, 200, 200]
    assert client.put(f"{URL}/threshold", json={"threshold": 1}, headers=headers["line"]).status_code == 403
    assert client.put(f"{URL}/shadow", json={"version": "x"}, headers=headers["line"]).status_code == 403
    assert client.post(f"{URL}/rollback", headers=headers["line"]).status_code == 403
    assert [client.get(URL, headers=headers[who]).status_code for who in headers] == [200] * 3


def test_the_audit_names_the_key_that_was_used(guarded, store):
    client, headers = guarded
    client.put(f"{URL}/threshold", json={"false_alarm_rate": 0.1, "by": "ann"}, headers=headers["office"])
    assert read_audit(store)[-1]["by"] == "ann (key office)"


def test_an_image_unlike_the_products_is_refused_or_warned_of_as_set(client_over, store, republished):
    from datetime import UTC, datetime

    from drawing import encode, good_part

    from app.imaging.decode import decode
    from app.imaging.input_check import measure
    from app.store.state import State
    from training.data.input_ranges import compute_input_ranges

    manifest = store.load_manifest("disc", store.list_versions("disc")[0])
    looks = [measure(decode(encode(good_part(seed)), manifest.input, max_pixels=10**6)) for seed in range(40)]
    guarded = republished(expects=compute_input_ranges(looks))
    State(store.root / "state").activate("disc", guarded, at=datetime.now(UTC), by="test", why="")
    dark = encode(good_part(3).point(lambda value: value // 60))
    refused = client_over(store.root).post(f"{URL}/inspect", content=dark, headers=PNG)
    assert refused.status_code == 422
    assert refused.json()["type"] == "urn:goodpart:problem:invalid-input"
    assert "contrast is" in refused.json()["detail"]
    warned = client_over(store.root, input_guard="warn").post(f"{URL}/inspect", content=dark, headers=PNG).json()
    assert any("contrast is" in warning for warning in warned["warnings"])
    off = client_over(store.root, input_guard="off").post(f"{URL}/inspect", content=dark, headers=PNG).json()
    assert off["warnings"] == []


def test_who_lifts_a_threshold_or_ends_a_trial_says_why(client, store_folder, republished):
    said = {"by": "ann", "why": "enough of it"}
    client.put(f"{URL}/threshold", json={"false_alarm_rate": 0.2})
    client.put(f"{URL}/shadow", json={"version": republished()})
    for path in (f"{URL}/threshold", f"{URL}/shadow"):
        assert client.delete(path, params=said).status_code == 200
    events = [json.loads(path.read_text()) for path in (store_folder / "state" / "disc" / "audit").iterdir()]
    assert sum(said.items() <= event.items() for event in events) == 2


def test_a_threshold_for_a_version_that_serves_no_more_is_refused(client, republished):
    other = republished()
    answer = client.put(f"{URL}/threshold", json={"threshold": 1.0, "version": other})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:goodpart:problem:changed-meanwhile")
    serving = client.get(URL).json()["serving"]
    assert client.put(f"{URL}/threshold", json={"threshold": 1.0, "version": serving}).status_code == 200
