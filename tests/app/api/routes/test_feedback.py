import json

import pytest
from commands import goodpart
from drawing import encode, good_part

from app.api.keys import generate_key
from app.store.labels import LabelStore
from app.store.state import State

URL = "/v1/products/disc/feedback"
PNG = {"content-type": "image/png"}


@pytest.fixture
def feedback(store):
    return LabelStore(State(store.root / "state"))


def test_what_a_person_says_is_kept_with_the_image(client, feedback, good_bytes, store):
    said = {"label": "ok", "part_id": "17", "by": "ann", "why": "grain"}
    answer = client.post(URL, params=said, content=good_bytes, headers=PNG)
    assert answer.status_code == 201
    body = answer.json()
    (path,) = feedback.image_paths("disc", "ok")
    assert (path.stem, path.read_bytes()) == (body["sha256"], good_bytes)
    (entry,) = body["history"]
    assert (entry["label"], entry["by"], entry["why"], entry["part_id"]) == ("ok", "ann", "grain", "17")
    assert entry["version"] == store.list_versions("disc")[0]


def test_a_form_will_do_too_and_the_last_label_holds(client, feedback, good_bytes):
    for label in ("ok", "ng"):
        answer = client.post(URL, params={"label": label}, files={"image": good_bytes})
    assert [one["label"] for one in answer.json()["history"]] == ["ok", "ng"]
    assert len(feedback.image_paths("disc", "ng")) == 1


@pytest.mark.parametrize(
    ("params", "content", "status", "slug"),
    [
        ({"label": "maybe"}, encode(good_part(1)), 422, "invalid-request"),
        ({}, encode(good_part(1)), 422, "invalid-request"),
        ({"label": "ok"}, b"not an image", 415, "not-an-image"),
        ({"label": "ok"}, b"", 400, "empty-image"),
        ({"label": "ok"}, encode(good_part(1))[:500], 422, "truncated-image"),
        ({"label": "ok"}, encode(good_part(1).convert("I;16")), 422, "wrong-bit-depth"),
    ],
)
def test_what_could_not_be_judged_is_refused_and_not_kept(client, feedback, params, content, status, slug):
    answer = client.post(URL, params=params, content=content, headers=PNG)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (status, slug)
    assert feedback.read_all("disc") == ()


def test_an_unknown_product_is_not_found(client, good_bytes):
    answer = client.post("/v1/products/ring/feedback", params={"label": "ok"}, content=good_bytes, headers=PNG)
    assert answer.status_code == 404


def test_it_takes_a_key_that_may_operate_and_names_it(client_over, store_folder, tmp_path, good_bytes):
    made = {name: generate_key(name, [scope]) for name, scope in (("line", "inspect"), ("office", "operate"))}
    file = tmp_path / "keys"
    file.write_text("".join(f"{key.to_line()}\n" for _, key in made.values()))
    client = client_over(store_folder, api_keys_file=file)

    def post(name):
        headers = {**PNG, "authorization": f"Bearer {made[name][0]}"} if name else PNG
        return client.post(URL, params={"label": "ok", "by": "ann"}, content=good_bytes, headers=headers)

    assert [post(None).status_code, post("line").status_code] == [401, 403]
    assert post("office").json()["history"][0]["by"] == "ann (key office)"


def test_the_command_line_keeps_the_same(store, feedback, good_bytes, tmp_path):
    part = tmp_path / "part.png"
    part.write_bytes(good_bytes)
    arguments = ["--store", store.root, "--product", "disc", "--part", part, "--label", "ng", "--why", "dent"]
    done = goodpart("feedback", *arguments)
    assert done.returncode == 0, done.stderr
    (path,) = feedback.image_paths("disc", "ng")
    assert path.read_bytes() == good_bytes
    history = json.loads((path.parent.parent / "history" / f"{path.stem}.json").read_text())["history"]
    assert history[0]["why"] == "dent"


def test_the_command_line_refuses_what_is_no_image_in_one_line(store, feedback, tmp_path):
    part = tmp_path / "part.png"
    part.write_bytes(b"hello")
    arguments = ["--store", store.root, "--product", "disc", "--part", part, "--label", "ok"]
    done = goodpart("feedback", *arguments)
    assert done.returncode == 1
    assert "these bytes are not an image" in done.stderr
    assert feedback.read_all("disc") == ()
