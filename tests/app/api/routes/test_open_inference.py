import base64
import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from app.api.problems import RequestError
from app.api.tensors import InferInput, TensorOut, parse_request, serialise_response, split_elements
from app.inspection.pipeline import inspect

INFER = "/v2/models/disc/infer"
HEADER = "Inference-Header-Content-Length"


def element(data):
    return struct.pack("<I", len(data)) + data


def binary_request(data, tensor, **members):
    """A body by the binary extension, and its header."""
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}], **members}).encode()
    return {"content": head + data, "headers": {HEADER: str(len(head))}}


def read_outputs(answer):
    return {output["name"]: output for output in answer["outputs"]}


def test_the_server_and_its_models_describe_themselves(client, tiny_version):
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json()["ready"]
    model = client.get("/v2/models/disc").json()
    assert (model["name"], model["versions"]) == ("disc", [tiny_version.name])
    assert [tensor["name"] for tensor in model["outputs"]] == ["score", "verdict", "map"]
    assert model["outputs"][2]["shape"] == [-1, *tiny_version.manifest.map_size]
    assert client.get(f"/v2/models/disc/versions/{tiny_version.name}").json() == model
    assert client.get("/v2/models/disc/ready").json() == {"name": "disc", "ready": True}


def test_a_product_whose_version_is_broken_is_not_ready(client_over, store_folder, version_folder):
    (version_folder / "student.onnx").unlink()
    client = client_over(store_folder)
    assert client.get("/v2/models/disc/ready").json() == {"name": "disc", "ready": False}
    assert client.get("/v2/models/disc/ready").status_code == 503
    assert client.get("/v2/health/ready").status_code == 503


def test_what_is_not_there_is_a_404_and_an_error_has_the_protocols_member(client):
    assert client.get("/v2/models/cup/ready").status_code == 404
    assert client.get("/v2/models/disc/versions/20000101t000000z-00000000/ready").status_code == 404
    response = client.get("/v2/models/cup")
    assert response.status_code == 404
    assert response.json()["error"] == response.json()["detail"] == "no product is called 'cup'"


def test_a_whole_image_as_the_body_is_judged(client, defective_bytes, tiny_version):
    answer = client.post(INFER, content=defective_bytes, headers={HEADER: "0"}).json()
    found = read_outputs(answer)
    expected = inspect(defective_bytes, tiny_version, max_pixels=10**6)
    assert answer["model_version"] == tiny_version.name
    assert answer["parameters"] == {"threshold": expected.threshold, "threshold_from": "calibration"}
    assert found["verdict"]["data"] == ["ng"]
    assert found["score"]["data"] == pytest.approx([expected.score], rel=1e-6)
    assert np.allclose(found["map"]["data"], expected.map.ravel())


def test_images_in_json_are_base64(client, good_bytes, defective_bytes):
    data = [base64.b64encode(one).decode() for one in (good_bytes, defective_bytes)]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": data}
    answer = client.post(INFER, json={"id": "42", "inputs": [tensor], "outputs": [{"name": "verdict"}]}).json()
    assert answer["id"] == "42"
    assert read_outputs(answer) == {
        "verdict": {"name": "verdict", "datatype": "BYTES", "shape": [2], "data": ["ok", "ng"]}
    }


def test_pixels_are_judged_as_the_image_they_came_from(client, good_bytes):
    pixels = np.asarray(Image.open(io.BytesIO(good_bytes)).convert("RGB"))
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, *pixels.shape]}
    by_pixels = client.post(INFER, **binary_request(pixels.tobytes(), tensor)).json()
    in_json = client.post(INFER, json={"inputs": [{**tensor, "data": pixels.ravel().tolist()}]}).json()
    by_image = client.post(INFER, content=good_bytes, headers={HEADER: "0"}).json()
    assert read_outputs(by_pixels)["score"] == read_outputs(in_json)["score"] == read_outputs(by_image)["score"]


def test_outputs_are_binary_on_request(client, good_bytes):
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
    request = binary_request(element(good_bytes), tensor, parameters={"binary_data_output": True})
    response = client.post(INFER, **request)
    length = int(response.headers[HEADER])
    head, rest = json.loads(response.content[:length]), response.content[length:]
    sizes = [output["parameters"]["binary_data_size"] for output in head["outputs"]]
    assert sum(sizes) == len(rest)
    assert rest[sizes[0] : sizes[0] + sizes[1]] == element(b"ok")


def test_one_bad_image_refuses_the_whole_request(client, good_bytes):
    data = element(good_bytes) + element(b"nonsense")
    response = client.post(INFER, **binary_request(data, {"name": "image", "datatype": "BYTES", "shape": [2]}))
    assert response.status_code == 415
    assert "not an image" in response.json()["error"]


IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1]}
BAD_REQUESTS = {
    "no JSON": (b"{", None, "Invalid JSON"),
    "no input": (json.dumps({"inputs": []}).encode(), None, "inputs"),
    "another input": (json.dumps({"inputs": [{**IMAGE, "name": "x", "data": []}]}).encode(), None, "only input"),
    "two inputs": (json.dumps({"inputs": [{**IMAGE, "data": []}] * 2}).encode(), None, "only input"),
    "no data": (json.dumps({"inputs": [IMAGE]}).encode(), None, "either data or"),
    "another type": (json.dumps({"inputs": [{**IMAGE, "datatype": "FP32"}]}).encode(), None, "datatype"),
    "not base64": (json.dumps({"inputs": [{**IMAGE, "data": ["?"]}]}).encode(), None, "base64"),
    "no string": (json.dumps({"inputs": [{**IMAGE, "data": [7]}]}).encode(), None, "base64"),
    "too few elements": (json.dumps({"inputs": [{**IMAGE, "shape": [2], "data": ["QQ=="]}]}).encode(), None, "shape"),
    "no element": (json.dumps({"inputs": [{**IMAGE, "shape": [0], "data": []}]}).encode(), None, "0 images"),
    "a length beyond the body": (b"{}", "99", "Content-Length"),
    "a length that is none": (b"{}", "-1", "Content-Length"),
    "a length of digits elsewhere": (b"{}", "\u0663", "Content-Length"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_request_that_can_not_be_read_says_why(name):
    body, length, words = BAD_REQUESTS[name]
    with pytest.raises(RequestError, match=words):
        parse_request(body, json_length=length, max_images=5)


@pytest.mark.parametrize("data", [b"\x01", b"\xff\xff\xff\xffabc", b"\x05\x00\x00\x00abc"])
def test_elements_that_are_cut_off_are_refused(data):
    with pytest.raises(RequestError, match="can't be read"):
        list(split_elements(data))


@pytest.mark.parametrize("shape", [[5], [2, 2, 4], [0, 2, 2, 3], [2, 2, 2, 2, 3], [3, 2, 3], [2**31, 2**31, 2**31, 3]])
def test_pixels_that_do_not_fill_their_shape_are_refused(shape):
    tensor = {"name": "image", "datatype": "UINT8", "shape": shape, "data": [0] * 12}
    with pytest.raises(RequestError, match="can't be read"):
        parse_request(json.dumps({"inputs": [tensor]}).encode(), json_length=None, max_images=5)


def test_too_many_images_are_refused():
    tensor = {**IMAGE, "shape": [6], "data": ["QQ=="] * 6}
    with pytest.raises(RequestError, match="1 to 5"):
        parse_request(json.dumps({"inputs": [tensor]}).encode(), json_length=None, max_images=5)


def test_much_json_is_refused_before_it_is_parsed():
    with pytest.raises(RequestError, match="as binary data"):
        parse_request(b" " * 4_000_001, json_length=None, max_images=5)


def test_an_output_that_there_is_not_is_named():
    outputs = [TensorOut("score", "FP32", np.zeros(1, np.float32))]
    with pytest.raises(RequestError, match="no output 'scores'; there are score"):
        serialise_response({}, outputs, InferInput(None, (b"",), {"scores": True}, all_as_bytes=False))
