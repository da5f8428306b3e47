"""The service as others meet it: a process of its own, real sockets, hostile bytes, signals and kills."""

import io
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx2
import numpy as np
import pytest
from drawing import encode, good_part, make_png
from PIL import Image
from serving import GOODPART, Service, until

from app.store.store import Store

pytestmark = pytest.mark.processes

INSPECT = "/v1/products/disc/inspect"
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    import shutil

    from conftest import FIXTURE

    store = shutil.copytree(FIXTURE, tmp_path_factory.mktemp("service") / "store")
    limits = {"max_upload_bytes": 2_000_000, "max_pixels": 4_000_000, "body_timeout_s": 1, "header_timeout_s": 1}
    with Service(store, **limits) as running:
        until(lambda: running.client.get("/readyz").status_code == 200)
        yield running


def judges(service, data):
    """Whether the service still judges a good image, whatever came before."""
    return service.client.post(INSPECT, content=data, headers=PNG).json()["verdict"] == "ok"


def raw(service, *pieces, timeout=10):
    """What comes back on a bare socket; pieces are sent one after the other, a number is a pause in seconds."""
    with socket.create_connection(("127.0.0.1", service.port), timeout) as connection:
        for piece in pieces:
            if isinstance(piece, float):
                time.sleep(piece)
            else:
                connection.sendall(piece)
        connection.settimeout(timeout)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
            if b"\r\n\r\n" in received:
                break
        return received


def head(length, *more):
    lines = [f"POST {INSPECT} HTTP/1.1", "Host: x", "Content-Type: image/png", f"Content-Length: {length}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def read_status(received):
    return int(received.split()[1])


def make_animation():
    frames = [good_part(seed) for seed in range(3)]
    return encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])


def hostile_images():
    """Images that are none, or not one, or too much; by name."""
    part = good_part(1)
    whole = {kind: encode(part, kind) for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP")}
    yield "a bomb", make_png(30_000, 30_000)
    yield "a bomb of one row", make_png(100_000_000, 1)
    yield "no pixels", make_png(0, 0)
    yield "an animation", make_animation()
    yield "a page of text", b"<html><body>hello</body></html>"
    yield "a script with an image's head", b"GIF89a/*" + b"\0" * 100 + b"*/=1;"
    yield "a vector image", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield "a document", b"%PDF-1.7\n" + b"0" * 1000
    yield "an archive", b"PK\x03\x04" + b"0" * 1000
    yield "zeros", bytes(10_000)
    yield "noise", np.random.default_rng(0).bytes(10_000)
    yield "16-bit colour", make_png(8, 8, depth_bits=16, colour_type=2, rows=bytes(8 * (1 + 8 * 6)))
    yield "another camera's depth", encode(Image.fromarray(np.zeros((8, 8), np.uint16)))
    for kind, data in whole.items():
        if kind != "WEBP":  # which decodes whatever follows
            yield (
                f"{kind} whose end is another file",
                data[: len(data) // 2] + whole["PNG" if kind == "JPEG" else "JPEG"],
            )
        yield f"{kind} with a header alone", data[:40]


@pytest.mark.parametrize(("name", "data"), [pytest.param(name, data, id=name) for name, data in hostile_images()])
def test_a_hostile_image_is_the_senders_error(service, good_bytes, name, data):
    response = service.client.post(INSPECT, content=data, headers=PNG)
    assert 400 <= response.status_code < 500, name
    assert judges(service, good_bytes)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_an_image_cut_at_every_tenth_byte_is_never_the_services_error(service, good_bytes, kind):
    data = encode(good_part(1), kind)
    statuses = {
        service.client.post(f"{INSPECT}?heatmap=none", content=data[:length], headers=PNG).status_code
        for length in range(0, len(data), 10)
    }
    assert statuses <= {400, 413, 415, 422}
    assert judges(service, good_bytes)


def test_a_polyglot_is_judged_as_the_image_it_is(service, good_bytes):
    polyglot = good_bytes + b"PK\x03\x04<script>alert(1)</script>"
    response = service.client.post(INSPECT, content=polyglot, headers=PNG)
    assert response.json()["verdict"] == "ok"
    assert "script" not in response.text


def test_a_head_that_is_too_large_is_refused(service, good_bytes):
    received = raw(service, head(4, "X-Filler: " + "x" * 100_000), b"abcd")
    assert 400 <= read_status(received) < 500
    assert judges(service, good_bytes)


def test_a_body_that_comes_too_slowly_is_a_408(service, good_bytes):
    received = raw(service, head(100), b"a")
    assert read_status(received) == 408
    assert judges(service, good_bytes)


def test_a_head_that_never_ends_loses_its_connection(service, good_bytes):
    assert raw(service, b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""
    assert raw(service) == b""
    assert judges(service, good_bytes)


def test_a_length_that_lies_is_no_harm(service, good_bytes):
    too_short = raw(service, head(10), good_bytes)
    assert read_status(too_short) in (400, 415, 422)
    endless = raw(service, head(10**12), b"x" * 3_000_000)
    assert read_status(endless) == 413
    assert read_status(raw(service, head(-5), good_bytes)) == 400
    assert read_status(raw(service, head("4, 5"), b"abcd")) == 400
    assert judges(service, good_bytes)


def ask_on(connection, request):
    """Send a request again and again, twenty seconds long, and read nothing."""
    for _ in range(1000):
        connection.sendall(request * 100)
        time.sleep(0.02)


def test_a_client_that_does_not_read_its_answers_loses_its_connection(service, good_bytes):
    with socket.create_connection(("127.0.0.1", service.port), 20) as connection:
        connection.settimeout(20)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            ask_on(connection, request)
    assert judges(service, good_bytes)


def test_chunks_count_as_they_arrive(service, good_bytes):
    def endless():
        while True:
            yield b"x" * 65536

    response = service.client.post(INSPECT, content=endless(), headers=PNG)
    assert response.status_code == 413
    assert judges(service, good_bytes)


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "%2e%2e%2f", "Disc", "a" * 200, "d%00", "disc/../disc"])
def test_names_lead_nowhere(service, name):
    response = service.client.post(f"/v1/products/{name}/inspect", content=b"x", headers=PNG)
    assert response.status_code in (400, 404, 405, 415, 422)
    assert "passwd" not in response.text.replace("%2Fpasswd", "")


def test_tritons_client_inspects_images_unchanged(service, good_bytes, defective_bytes, tiny_version):
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(service.address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("disc")
        assert client.get_server_metadata()["name"] == "goodpart"
        assert client.get_model_metadata("disc")["versions"] == [tiny_version.name]
        images = http.InferInput("image", [2], "BYTES")
        images.set_data_from_numpy(np.array([good_bytes, defective_bytes], np.object_))
        result = client.infer("disc", [images])
        assert [verdict.decode() for verdict in result.as_numpy("verdict")] == ["ok", "ng"]
        assert result.as_numpy("map").shape == (2, *tiny_version.manifest.map_size)
        pixels = np.asarray(Image.open(io.BytesIO(good_bytes)).convert("RGB"))
        tensor = http.InferInput("image", pixels.shape, "UINT8")
        tensor.set_data_from_numpy(pixels)
        requested = [http.InferRequestedOutput("score", binary_data=False)]
        by_pixels = client.infer("disc", [tensor], outputs=requested, model_version=tiny_version.name)
        assert by_pixels.as_numpy("score")[0] == result.as_numpy("score")[0]
        with pytest.raises(http.InferenceServerException, match="no product is called 'cup'"):
            client.infer("cup", [images])


def test_no_request_that_the_interface_describes_or_forbids_makes_it_fail(store_folder, tmp_path, tiny_version):
    """Schemathesis makes requests from the OpenAPI document, valid and invalid ones; half of them of a real product."""
    for product, version in (("disc", tiny_version.name), (None, None)):
        config = tmp_path / "schemathesis.toml"
        known = f'"path.product" = "{product}"\n"path.version" = "{version}"\n' if product else ""
        # A deadline that has passed is a 504 by design, so none is drawn.
        fixed = f'[parameters]\n"header.x-deadline-ms" = "60000"\n{known}'
        config.write_text(f"seed = 1\n{fixed}[phases.stateful]\nenabled = false\n[generation]\nmax-examples = 8\n")
        with Service(store_folder, max_in_hand=64) as service:
            until(lambda: service.client.get("/readyz").status_code == 200)
            address = f"http://{service.address}/openapi.json"
            command = [GOODPART.with_name("schemathesis"), "--config-file", config, "run", address]
            checks = ["--checks", "not_a_server_error"]
            done = subprocess.run([*command, *checks], capture_output=True, text=True, check=False, cwd=tmp_path)
            assert done.returncode == 0, done.stdout[-6000:]
            assert service.client.get("/livez").status_code == 200


def certificate(folder):
    """A certificate for localhost, signed by itself."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*made, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_tls_and_keys_let_in_who_has_one(store_folder, tmp_path, good_bytes):
    cert, key = certificate(tmp_path)
    made = subprocess.run([GOODPART, "key", "line-3"], capture_output=True, text=True, check=True)
    presented = made.stderr.split()[-1]
    trust = ssl.create_default_context(cafile=cert)
    settings = {"tls_cert": cert, "tls_key": key, "api_keys": made.stdout, "host": "0.0.0.0"}  # noqa: S104  # keys are required
    with Service(store_folder, scheme="https", verify=trust, **settings) as service:
        service.client.base_url = f"https://127.0.0.1:{service.port}"
        until(lambda: service.client.get("/readyz").status_code == 200)
        assert service.client.post(INSPECT, content=good_bytes, headers=PNG).status_code == 401
        named = {**PNG, "authorization": f"Bearer {presented}"}
        assert service.client.post(INSPECT, content=good_bytes, headers=named).json()["verdict"] == "ok"
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(f"http://127.0.0.1:{service.port}/livez")


def test_a_certificate_that_is_none_is_one_line(store_folder, tmp_path):
    (tmp_path / "cert.pem").write_text("none")
    command = [GOODPART, "serve", "--store", store_folder, "--port", "0"]
    tls = ["--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "cert.pem"]
    done = subprocess.run([*command, *tls], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("goodpart: error: can't serve TLS with ")
    assert len(done.stderr.splitlines()) == 1


def test_only_signed_versions_serve_if_signatures_are_required(store_folder, tmp_path, good_bytes):
    from app.store.signing import read_private_key

    subprocess.run([GOODPART, "keygen", tmp_path / "key"], check=True, capture_output=True)
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    store = Store(store_folder)
    (unsigned,) = store.list_versions("disc")
    bundle = store.load_bundle("disc", unsigned)
    manifest = bundle.manifest.model_copy(update={"fingerprint": "3" * 64}).model_dump_json().encode()
    with Service(store_folder, require_signature=tmp_path / "key.pub") as service:
        assert "is not signed" in until(lambda: service.client.get("/readyz").json()["reasons"])[0]
        signed = store.publish(
            "disc", manifest=manifest, files=bundle.files, training={}, sign_key=read_private_key(tmp_path / "key")
        )
        answer = service.client.post(f"/v1/products/disc/versions/{signed}/activate")
        assert (answer.status_code, answer.json()["serving"]) == (200, signed)
        assert judges(service, good_bytes)
        refused = service.client.post(f"/v1/products/disc/versions/{unsigned}/activate")
        assert (refused.status_code, "is not signed" in refused.json()["detail"]) == (409, True)


def test_a_trace_of_each_request_is_exported(store_folder, good_bytes):
    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
        with Service(store_folder, otel_endpoint=endpoint) as service:
            until(lambda: service.client.get("/readyz").status_code == 200)
            trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
            service.client.post(INSPECT, content=good_bytes, headers={**PNG, **trace})
        collector.shutdown()
    path, spans = received[-1]
    assert path == "/v1/traces"
    assert bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736") in spans
    assert b"/v1/products/{product}/inspect" in spans


def test_a_service_that_was_killed_comes_back_with_its_version_and_threshold(store_folder, good_bytes, republished):
    with Service(store_folder) as service:
        until(lambda: service.client.get("/readyz").status_code == 200)
        second = republished()
        service.client.post(f"/v1/products/disc/versions/{second}/activate")
        service.client.put("/v1/products/disc/threshold", json={"false_alarm_rate": 0.25})
        before = service.client.post(INSPECT, content=good_bytes, headers=PNG).json()
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
    with Service(store_folder) as service:
        until(lambda: service.client.get("/readyz").status_code == 200)
        after = service.client.post(INSPECT, content=good_bytes, headers=PNG).json()
    kept = ("version", "threshold", "threshold_from", "score", "verdict")
    assert [after[member] for member in kept] == [before[member] for member in kept]
    assert (after["version"], after["threshold_from"]) == (second, "rate")


PUBLISHER = """
import itertools, sys
from pathlib import Path
from app.store.store import Store

store = Store(Path(sys.argv[1]))
bundle = store.load_bundle("disc", store.list_versions("disc")[0])
print("go", flush=True)
for number in itertools.count(int(sys.argv[2])):
    manifest = bundle.manifest.model_copy(update={"fingerprint": f"{number:064x}"}).model_dump_json().encode()
    store.publish("disc", manifest=manifest, files=bundle.files, training={"a.b": b"c"})
"""


def test_a_publisher_killed_at_any_moment_leaves_no_half_of_a_version(store_folder):
    """Ten random moments here; ``bench/kills.py`` takes fifty."""
    store, generator = Store(store_folder), np.random.default_rng(0)
    for round_ in range(10):
        command = [sys.executable, "-c", PUBLISHER, str(store_folder), str(round_ * 10**6)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(generator.uniform(0, 0.2))
            process.kill()
        for version in store.list_versions("disc"):
            store.load_bundle("disc", version)  # raises where a byte is missing or changed
    assert len(store.list_versions("disc")) > 1
