import asyncio
import base64
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from drawing import encode, good_part, make_png
from fastapi import Request
from PIL import Image

from app.api import problems
from app.api.routes.health import build_health
from app.api.routes.inspect import cancel_on_disconnect
from app.errors import QueueFull
from app.inspection.inspector import AdmissionLimits, Inspector
from app.inspection.pipeline import InspectOptions, inspect

URL = "/v1/products/disc/inspect"
PNG = {"content-type": "image/png"}
PROBLEM = "application/problem+json"


def slug(response):
    assert response.headers["content-type"] == PROBLEM
    assert response.json()["status"] == response.status_code
    assert "\n" not in response.json()["detail"]
    return response.json()["type"].removeprefix("urn:goodpart:problem:")


def test_raw_bytes_are_judged_with_every_member_of_the_design(client, defective_bytes, tiny_version):
    response = client.post(
        URL, content=defective_bytes, headers={**PNG, "x-request-id": "r1"}, params={"part_id": "p7"}
    )
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {
        "inspection_id", "request_id", "part_id", "product", "version", "verdict", "score", "threshold",
        "threshold_from", "p_value",
        "promise", "scales", "regions", "region_of_interest", "heatmap", "image", "warnings", "timings_ms",
    }  # fmt: skip
    assert (answer["request_id"], answer["part_id"], answer["product"]) == ("r1", "p7", "disc")
    assert answer["version"] == tiny_version.name
    assert answer["verdict"] == "ng"
    assert answer["score"] > answer["threshold"] == tiny_version.threshold
    assert set(answer["promise"]) == {"asked", "supported", "num_calibration", "threshold"}
    assert set(answer["scales"][0]) == {"stride", "score", "share"}
    assert set(answer["regions"][0]) == {"x", "y", "width", "height", "area_px", "peak", "explanation"}
    assert set(answer["timings_ms"]) == {"decode", "queue", "inference", "render"}
    assert (answer["image"]["width"], answer["image"]["height"]) == (96, 80)


def test_a_form_is_judged_as_raw_bytes_are(client, defective_bytes):
    raw = client.post(URL, content=defective_bytes, headers=PNG).json()
    form = client.post(URL, files={"image": ("part.png", defective_bytes, "image/png")}).json()
    assert form["score"] == raw["score"]
    assert form["inspection_id"] != raw["inspection_id"]


def test_the_answer_is_what_the_engine_says(client, good_bytes, tiny_version):
    answer = client.post(URL, content=good_bytes, headers=PNG).json()
    found = inspect(good_bytes, tiny_version, max_pixels=10**6)
    assert answer["score"] == pytest.approx(found.score, abs=1e-6)
    assert answer["verdict"] == "ok"


@pytest.mark.parametrize(("kind", "mode"), [("png", "P"), ("overlay", "RGB"), ("raw", "I;16")])
def test_a_heatmap_of_each_kind_is_a_picture_of_the_images_size(client, defective_bytes, kind, mode):
    answer = client.post(URL, content=defective_bytes, headers=PNG, params={"heatmap": kind}).json()
    picture = Image.open(io.BytesIO(base64.b64decode(answer["heatmap"]["data"])))
    assert (picture.size, picture.mode) == ((96, 80), mode)
    assert answer["heatmap"]["range"] == [0.0, 12.0]


def test_no_heatmap_is_drawn_where_none_is_wanted(client, good_bytes):
    assert client.post(URL, content=good_bytes, headers=PNG, params={"heatmap": "none"}).json()["heatmap"] is None


def test_nothing_is_explained_without_explain(client, defective_bytes):
    answer = client.post(URL, content=defective_bytes, headers=PNG).json()
    assert [region["explanation"] for region in answer["regions"]] == [None] * len(answer["regions"])


def test_a_version_without_pictures_explains_by_scale_and_says_so(client, defective_bytes):
    answer = client.post(URL, content=defective_bytes, headers=PNG, params={"explain": True}).json()
    (warning,) = answer["warnings"]
    assert "keeps no pictures" in warning
    for region in answer["regions"]:
        assert sum(scale["share"] for scale in region["explanation"]["scales"]) == pytest.approx(1)
        assert region["explanation"]["expected"] == []


def test_small_regions_can_be_left_out(client, defective_bytes):
    params = {"min_region_area_px": 96 * 80}
    assert client.post(URL, content=defective_bytes, headers=PNG, params=params).json()["regions"] == []


def test_another_version_can_be_requested_by_name(client, good_bytes, tiny_version):
    answer = client.post(URL, content=good_bytes, headers=PNG, params={"version": tiny_version.name})
    assert answer.json()["version"] == tiny_version.name
    unknown = client.post(URL, content=good_bytes, headers=PNG, params={"version": "20000101t000000z-00000000"})
    assert (unknown.status_code, slug(unknown)) == (404, "unknown-version")
    wrong = client.post(URL, content=good_bytes, headers=PNG, params={"version": "../../etc"})
    assert (wrong.status_code, slug(wrong)) == (422, "bad-name")


def deep_grey():
    return encode(Image.fromarray(np.full((20, 30), 4095, dtype=np.uint16)))


def transparent():
    picture = good_part(0).convert("RGBA")
    picture.putalpha(9)
    return encode(picture)


BAD_IMAGES = {
    "empty": (b"", 400, "empty-image"),
    "text": (b"not an image at all", 415, "not-an-image"),
    "truncated": (encode(good_part(0), "JPEG")[:900], 422, "truncated-image"),
    "too many pixels": (make_png(30_000, 30_000), 413, "image-too-large"),
    "16 bits": (deep_grey(), 422, "wrong-bit-depth"),
    "CMYK": (encode(good_part(0).convert("CMYK"), "JPEG"), 422, "unsupported-mode"),
    "transparent": (transparent(), 422, "unsupported-mode"),
    "many bytes": (bytes(200_001), 413, "body-too-large"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_gets_its_problem_and_the_service_goes_on(client, good_bytes, name):
    data, status, kind = BAD_IMAGES[name]
    response = client.post(URL, content=data, headers=PNG)
    assert (response.status_code, slug(response)) == (status, kind)
    assert client.post(URL, content=good_bytes, headers=PNG).json()["verdict"] == "ok"


@pytest.mark.parametrize(
    "picture", [good_part(7).convert("P"), good_part(7).convert("RGBA"), good_part(7).convert("LA")]
)
def test_palette_and_opaque_alpha_images_are_judged_as_plain_ones(client, good_bytes, picture):
    plain = client.post(URL, content=good_bytes, headers=PNG).json()
    answer = client.post(URL, content=encode(picture), headers=PNG).json()
    assert answer["score"] == pytest.approx(plain["score"], abs=1e-3)


def test_a_rotated_jpeg_has_upright_coordinates(client):
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = encode(good_part(1).rotate(-90, expand=True), "JPEG", exif=exif)
    answer = client.post(URL, content=turned, headers={"content-type": "image/jpeg"}).json()
    assert (answer["image"]["width"], answer["image"]["height"]) == (96, 80)
    assert (answer["heatmap"]["width"], answer["heatmap"]["height"]) == (96, 80)


def test_an_unknown_product_is_named(client, good_bytes):
    response = client.post("/v1/products/nothing/inspect", content=good_bytes, headers=PNG)
    assert (response.status_code, slug(response)) == (404, "unknown-product")
    assert "nothing" in response.json()["detail"]


def test_a_product_without_an_active_version_says_so(client_over, store_folder, good_bytes):
    (store_folder / "state" / "disc" / "current.json").unlink()
    response = client_over(store_folder).post(URL, content=good_bytes, headers=PNG)
    assert (response.status_code, slug(response)) == (409, "nothing-active")


def test_a_changed_bundle_never_serves_and_says_why(client_over, store_folder, version_folder, good_bytes):
    path = version_folder / "student.onnx"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    client = client_over(store_folder)
    response = client.post(URL, content=good_bytes, headers=PNG)
    assert (response.status_code, slug(response)) == (503, "version-unusable")
    assert "student.onnx has been changed" in client.get("/v1/products/disc").json()["fault"]
    assert client.get("/readyz").status_code == 503


@pytest.mark.parametrize(
    ("kind", "status", "what"),
    [
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "wrong-media-type"),
        ({"content": b"x"}, 415, "wrong-media-type"),
        ({"files": {"picture": b"x"}}, 422, "missing-image"),
        ({"data": {"image": "x"}, "files": {"other": b"x"}}, 422, "missing-image"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "bad-form"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=y"}}, 400, "bad-form"),
        ({"files": [("image", b"x"), ("image", b"y")]}, 413, "too-many-images"),
    ],
)
def test_a_bad_request_gets_its_problem(client, kind, status, what):
    response = client.post(URL, **kind)
    assert (response.status_code, slug(response)) == (status, what)


def test_a_bad_query_is_named_in_one_line(client, good_bytes):
    response = client.post(URL, content=good_bytes, headers=PNG, params={"heatmap": "pink"})
    assert (response.status_code, slug(response)) == (422, "invalid-request")
    assert "heatmap" in response.json()["detail"]


def test_unknown_paths_and_methods_are_problems(client):
    assert slug(client.get("/v1/nothing")) == "not-found"
    assert slug(client.get(URL)) == "method-not-allowed"


def test_a_batch_answers_each_image_in_its_place(client, good_bytes, defective_bytes):
    files = [("image", data) for data in (good_bytes, b"nonsense", defective_bytes)]
    response = client.post(f"{URL}/batch", files=files, params={"heatmap": "none"})
    first, second, third = response.json()["items"]
    assert response.status_code == 200
    assert (first["verdict"], second["status"], third["verdict"]) == ("ok", 415, "ng")
    assert first["request_id"] == third["request_id"]


def test_a_batch_has_a_limit_of_images(client, good_bytes):
    response = client.post(f"{URL}/batch", files=[("image", good_bytes)] * 6)
    assert (response.status_code, slug(response)) == (413, "too-many-images")


def test_a_full_queue_refuses_with_503_and_retry_after(tiny_version, good_bytes):
    async def three_at_once():
        with Inspector(max_pixels=10**6, num_decoders=2, limits=AdmissionLimits(max_in_flight=1)) as inspector:
            judging = (inspector.inspect(good_bytes, tiny_version, InspectOptions()) for _ in range(3))
            first, *refused = await asyncio.gather(*judging, return_exceptions=True)
            return first, refused, await inspector.inspect(good_bytes, tiny_version, InspectOptions())

    first, refused, afterwards = asyncio.run(three_at_once())
    assert first.verdict == afterwards.verdict == "ok"
    assert [type(error) for error in refused] == [QueueFull, QueueFull]


def test_a_batch_leaves_room_for_others(client_over, store_folder, good_bytes):
    """Five images in a house for two: they take turns, and none is refused."""
    client = client_over(store_folder, max_in_hand=2)
    files = [("image", (f"{index}.png", good_bytes, "image/png")) for index in range(5)]
    items = client.post(f"{URL}/batch", files=files).json()["items"]
    assert [item.get("verdict") for item in items] == ["ok"] * 5


def test_a_refusal_for_want_of_room_carries_retry_after():
    handlers = problems.Handlers(on_problem=lambda _: None)
    request = Request({"type": "http", "path": URL, "headers": [], "query_string": b""})
    response = asyncio.run(handlers.on_goodpart_error(request, QueueFull(limit=4, retry_after_s=7)))
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")


def test_an_image_whose_deadline_passes_is_not_judged(client, good_bytes):
    response = client.post(URL, content=good_bytes, headers={**PNG, "x-deadline-ms": "0.001"})
    assert (response.status_code, slug(response)) == (504, "deadline-passed")
    assert client.post(URL, content=good_bytes, headers={**PNG, "x-deadline-ms": "60000"}).status_code == 200


@pytest.mark.parametrize("value", ["0", "-3", "soon"])
def test_a_deadline_that_is_none_is_named(client, good_bytes, value):
    response = client.post(URL, content=good_bytes, headers={**PNG, "x-deadline-ms": value})
    assert response.status_code == 422
    assert "x-deadline-ms" in response.json()["detail"]


def test_a_request_is_cancelled_when_its_client_disconnects():
    class Gone:
        async def receive(self):
            return {"type": "http.disconnect"}

    async def hang_up():
        judging = asyncio.get_running_loop().create_future()
        with pytest.raises(problems.RequestError, match="the client disconnected"):
            await cancel_on_disconnect(Gone(), judging)
        return judging.cancelled()

    assert asyncio.run(hang_up())


def test_a_dead_worker_is_not_ready_and_says_why(client):
    registry = client.app.state.services.registry
    assert build_health(registry, errors=[None]).ready
    answer = build_health(registry, errors=[None, "the inference worker died"])
    assert not answer.ready
    assert answer.reasons == ("the inference worker died",)


def test_answers_are_right_under_concurrent_requests(client, tiny_version):
    images = [encode(good_part(seed)) for seed in range(16)]

    def post(data):
        return client.post(URL, content=data, headers=PNG, params={"heatmap": "none"}).json()["score"]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(post, images))
    expected = [inspect(data, tiny_version, max_pixels=10**6).score for data in images]
    assert found == pytest.approx(expected, abs=1e-6)
