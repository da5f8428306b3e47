import functools
import hashlib
import io
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest
import torch
from safetensors.torch import save_file

from model.teacher import make_network
from model.teacher_specs import get_teacher_spec
from training.errors import TrainingError
from training.fit.weights import is_trusted, load_teacher


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(0)
    buffer = io.BytesIO()
    torch.save(make_network(get_teacher_spec("resnet18")).state_dict(), buffer)
    return buffer.getvalue()


@pytest.fixture
def file(tmp_path, checkpoint):
    path = tmp_path / "resnet18.pth"
    path.write_bytes(checkpoint)
    return path


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def address(file):
    """A real server on this machine, with the checkpoint's folder behind it."""
    server = HTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(file.parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def load(weights, *, sha256=None, name="resnet18"):
    return load_teacher(name, weights=str(weights) if weights else None, sha256=sha256, strides=(16,))


def test_weights_come_from_a_file(file):
    assert load(file).channels == (256,)


def test_weights_come_from_safetensors(file, tmp_path):
    state = torch.load(file, weights_only=True)
    safe = tmp_path / "resnet18.safetensors"
    save_file(state, safe)
    from_safe, from_file = load(safe).state_dict(), load(file).state_dict()
    assert all(torch.equal(from_safe[name], from_file[name]) for name in from_file)


def test_a_damaged_safetensors_file_is_refused_in_one_line(tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((20).to_bytes(8, "little") + b'{"a": {"dtype": "F32"')
    with pytest.raises(TrainingError, match="not a checkpoint that can be loaded safely"):
        load(damaged)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_weights_of_a_training_checkpoint_are_found(file, tmp_path, wrapper):
    wrapped = tmp_path / "wrapped.pth"
    torch.save({"epoch": 3, wrapper: torch.load(file, weights_only=True)}, wrapped)
    assert load(wrapped).channels == (256,)


def test_weights_come_from_a_url_and_are_held_against_their_digest(address, checkpoint, file):
    digest = hashlib.sha256(checkpoint).hexdigest()
    from_url = load(f"{address}/resnet18.pth", sha256=digest).state_dict()
    from_file = load(file).state_dict()
    assert all(torch.equal(from_url[name], from_file[name]) for name in from_file)


def test_another_digest_is_refused(address):
    with pytest.raises(TrainingError, match="not 0000"):
        load(f"{address}/resnet18.pth", sha256="0" * 64)


def test_a_url_that_has_nothing_is_one_line(address):
    with pytest.raises(TrainingError, match="404"):
        load(f"{address}/nothing.pth")


def test_only_https_is_trusted_beyond_this_machine():
    assert is_trusted("https://example.org/x.pth")
    assert is_trusted("http://127.0.0.1:8000/x.pth")
    assert not is_trusted("http://example.org/x.pth")
    assert not is_trusted("ftp://127.0.0.1/x.pth")
    with pytest.raises(TrainingError, match="https only"):
        load("http://example.org/x.pth")


def test_the_wrong_architecture_says_what_differs(file):
    with pytest.raises(TrainingError, match="not of resnet50: missing keys"):
        load(file, name="resnet50")


def test_a_checkpoint_that_would_execute_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    path = tmp_path / "evil.pth"
    torch.save({"x": Evil()}, path)
    with pytest.raises(TrainingError, match="not a checkpoint that can be loaded safely"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02N."])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="checkpoint"):
        load(path)


def test_a_resnet_without_weights_says_where_to_give_them():
    with pytest.raises(TrainingError, match="teacher_weights=FILE"):
        load(None)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"absent\.pth: No such file"):
        load(tmp_path / "absent.pth")
