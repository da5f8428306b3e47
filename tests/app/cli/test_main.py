import io
import json
import re
import socket

import pytest
from click.testing import CliRunner
from PIL import Image

from app.cli import main
from app.inspection.pipeline import inspect
from app.settings import Settings


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs ``goodpart ...`` as its entry point does; gives exit code, output and errors."""

    def run_command(*arguments):
        monkeypatch.setattr("sys.argv", ["goodpart", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main.main()
        streams = capsys.readouterr()
        return left.value.code or 0, streams.out, streams.err

    return run_command


@pytest.fixture
def images(tmp_path, good_bytes, defective_bytes):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(good_bytes)
    bad.write_bytes(defective_bytes)
    return good, bad


def test_images_are_judged_in_a_table(run, store_folder, images):
    code, out, _ = run("inspect", *images, "--store", store_folder, "--product", "disc")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert [row[:2] for row in rows[1:]] == [[str(images[0]), "ok"], [str(images[1]), "ng"]]


def test_json_has_the_services_numbers(run, store_folder, images, tiny_version, defective_bytes):
    _, out, _ = run("inspect", images[1], "--store", store_folder, "--product", "disc", "--json")
    answer = json.loads(out)
    assert answer["score"] == inspect(defective_bytes, tiny_version, max_pixels=10**6).score
    assert (answer["part_id"], answer["version"]) == ("bad.png", tiny_version.name)


def test_heatmaps_are_written(run, store_folder, images, tmp_path):
    folder = tmp_path / "maps"
    run("inspect", *images, "--store", store_folder, "--product", "disc", "--heatmap-dir", folder)
    sizes = {path.name: Image.open(io.BytesIO(path.read_bytes())).size for path in folder.iterdir()}
    assert sizes == {"good.png.heatmap.png": (96, 80), "bad.png.heatmap.png": (96, 80)}


def test_two_images_of_one_name_do_not_share_a_heatmap(run, store_folder, images, tmp_path):
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / images[0].name
    twin.write_bytes(images[1].read_bytes())
    code, out, err = run(
        "inspect", images[0], twin, "--store", store_folder, "--product", "disc", "--heatmap-dir", tmp_path / "maps"
    )
    assert (code, out) == (1, "")
    assert "would overwrite each other's heat-map" in err


def test_a_bad_image_is_one_line_and_the_others_are_judged(run, store_folder, images, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no image")
    code, out, err = run(
        "inspect", text, tmp_path / "absent.png", images[0], "--store", store_folder, "--product", "disc"
    )
    assert code == 1
    assert "good.png" in out
    assert len(err.splitlines()) == 2
    assert "text.png: these bytes are not an image" in err
    assert "absent.png: No such file" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--product", "nothing"], "no product is called 'nothing'"),
        (["--product", "../x"], "not a valid name"),
        (["--product", "disc", "--version", "20000101t000000z-00000000"], "no version"),
    ],
)
def test_what_is_not_there_is_one_line(run, store_folder, images, arguments, message):
    code, _, err = run("inspect", images[0], "--store", store_folder, *arguments)
    assert code == 1
    assert err.startswith("goodpart: error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_product_without_an_active_version_is_one_line(run, store_folder, images):
    (store_folder / "state" / "disc" / "current.json").unlink()
    code, _, err = run("inspect", images[0], "--store", store_folder, "--product", "disc")
    assert (code, "has no active version" in err) == (1, True)


def test_an_address_that_others_reach_is_refused(run, store_folder):
    code, _, err = run("serve", "--store", store_folder, "--host", "0.0.0.0")  # noqa: S104  # which is the point
    assert code == 1
    assert "GOODPART_AUTH=off" in err


def test_a_port_in_use_is_one_line(run, store_folder):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, err = run("serve", "--store", store_folder, "--port", port)
    assert code == 1
    assert f"can't listen on 127.0.0.1:{port}: Address already in use; choose another with --port" in err
    assert len(err.splitlines()) == 1


def test_answers_are_not_held_back_by_nagle(store_folder):
    """asyncio turns it off only on sockets that know they are TCP's."""
    with main.open_listener(Settings(store=store_folder), 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_doctor_finds_a_store_that_serves(run, store_folder, tiny_version):
    code, out, _ = run("doctor", "--store", store_folder, "--port", 0)
    assert code == 0, out
    assert f"version {tiny_version.name} serves" in out


def test_a_doctor_says_what_is_wrong_and_how_to_mend_it(run, store_folder, version_folder, tmp_path):
    (version_folder / "student.onnx").unlink()
    code, out, _ = run("doctor", "--store", store_folder, "--port", 0)
    assert code == 1
    assert "student.onnx is missing from the store; activate another version, or train it again" in out
    code, out, _ = run("doctor", "--store", tmp_path / "absent", "--port", 0)
    assert code == 1
    assert "no such folder" in out


def test_a_doctor_says_that_a_device_is_missing(run, store_folder, monkeypatch):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA")
    monkeypatch.setenv("GOODPART_PROVIDER", "cuda")
    code, out, _ = run("doctor", "--store", store_folder, "--port", 0)
    assert code == 1
    assert "install goodpart[gpu]" in out


@pytest.mark.parametrize(("load", "is_mentioned"), [(0.2, False), (3.5, True)])
def test_a_doctor_says_that_other_processes_use_the_processors(run, store_folder, monkeypatch, load, is_mentioned):
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    _, out, _ = run("doctor", "--store", store_folder, "--port", 0)
    assert f"{load} processes on 4 processors" in out
    assert ("share them" in out) is is_mentioned


def test_the_trainers_commands_are_listed():
    out = CliRunner().invoke(main.commands, ["--help"]).output
    assert all(name in out for name in ("inspect", "serve", "train", "model-info"))


def test_a_key_is_shown_once_and_only_its_digest_is_for_the_file(run):
    code, out, err = run("key", "line-3", "--scope", "inspect", "--scope", "operate")
    presented = err.split()[-1]
    assert code == 0
    assert re.fullmatch(r"line-3 inspect,operate sha256:[0-9a-f]{64}\n", out)
    assert presented.startswith("gp_")
    assert presented not in out


@pytest.mark.parametrize(
    ("arguments", "message"), [(["Line 3"], "a key is written"), (["x", "--scope", "rule"], "scope")]
)
def test_a_key_that_can_not_be_made_is_one_line(run, arguments, message):
    code, out, err = run("key", *arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_key_pair_is_never_written_over_another(run, tmp_path):
    assert run("keygen", tmp_path / "signing.key")[0] == 0
    kept = (tmp_path / "signing.key").read_bytes()
    code, _, err = run("keygen", tmp_path / "signing.key")
    assert (code, "File exists" in err) == (1, True)
    assert (tmp_path / "signing.key").read_bytes() == kept


def test_a_service_without_a_usable_key_file_does_not_start(run, store_folder, tmp_path, monkeypatch):
    (tmp_path / "keys").write_text("# none yet")
    monkeypatch.setenv("GOODPART_API_KEYS_FILE", str(tmp_path / "keys"))
    code, _, err = run("serve", "--store", store_folder, "--port", 0)
    assert code == 1
    assert "contains no key" in err
