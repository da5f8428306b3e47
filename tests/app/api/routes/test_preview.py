"""A threshold looked at over the last parts before it holds."""

import pytest
from drawing import defective_part, encode, good_part
from serving import until

PNG = {"content-type": "image/png"}
DISC = "/v1/products/disc"


@pytest.fixture
def scores(client):
    """Of twelve parts, the newest first."""
    for number in range(12):
        image = encode((defective_part if number % 4 == 0 else good_part)(200 + number))
        client.post(f"{DISC}/inspect", content=image, headers=PNG, params={"heatmap": "none"})
    until(lambda: len(list_items(client)) == 12)
    return [one["score"] for one in list_items(client)]


def list_items(client):
    return client.get("/v1/inspections").json()["items"]


def preview(client, **query):
    return client.get(f"{DISC}/threshold/preview", params=query)


def test_a_value_is_held_against_the_last_parts(client, scores):
    now = client.get(DISC).json()["threshold"]
    chosen = sorted(scores)[3] + 1e-9
    body = preview(client, threshold=chosen, parts=10).json()
    assert (body["threshold_now"], body["threshold"], body["scores"]) == (now, chosen, scores[:10])
    assert body["num_ng_now"] == sum(score > now for score in scores[:10])
    assert body["num_ng"] == sum(score > chosen for score in scores[:10])
    ids = [one["inspection_id"] for one in list_items(client)][:10]
    becoming = [one for one, score in zip(ids, scores, strict=False) if chosen < score <= now]
    assert (body["become_ng"], body["become_ok"]) == (becoming, [])
    assert becoming


@pytest.mark.usefixtures("scores")
def test_a_rate_gives_the_threshold_that_it_would_give_if_it_held(client):
    body = preview(client, false_alarm_rate=0.2).json()
    held = client.put(f"{DISC}/threshold", json={"false_alarm_rate": 0.2}).json()
    assert (body["threshold"], body["promise"]) == (held["threshold"], held["promise"])
    assert body["num_parts"] == 12


@pytest.mark.usefixtures("scores")
def test_it_changes_nothing(client):
    before = client.get(DISC).json()
    preview(client, threshold=-100.0)
    assert client.get(DISC).json() == before


@pytest.mark.usefixtures("scores")
def test_parts_that_another_version_judged_say_nothing_of_this_one(client, republished):
    version = republished()
    assert client.post(f"{DISC}/versions/{version}/activate").is_success
    body = preview(client, threshold=0.0).json()
    assert (body["version"], body["num_parts"], body["scores"]) == (version, 0, [])


@pytest.mark.parametrize(
    "query", [{}, {"threshold": 1, "false_alarm_rate": 0.1}, {"false_alarm_rate": 2}, {"threshold": 1, "parts": 0}]
)
def test_what_makes_no_sense_is_refused(client, query):
    answer = preview(client, **query)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_without_a_history_there_is_nothing_to_look_at(client_over, store_folder):
    answer = preview(client_over(store_folder, history_records=0), threshold=1)
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:goodpart:problem:no-history")
