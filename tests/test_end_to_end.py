"""Real processes, real files, real HTTP: train, publish, serve, judge."""

import base64
import io
import json
import signal
from pathlib import Path

import pytest
from commands import goodpart
from drawing import encode, good_part, write_mvtec
from opened import count_opened
from PIL import Image
from serving import Service

from app.store.state import State
from app.store.store import Store

# Small, so that a test takes seconds; every step is the real one.
SMALL = (
    "teacher=efficientnet_lite0",
    "height=64",
    "width=64",
    "num_recall_items=300",
    "false_alarm_rate=0.06",  # more than twenty calibration parts can promise the gate does not let serve
)
STEPS = ("learning.num_steps=4", "learning.batch_size=4")


def train(data, store, *settings, flags=()):
    chosen = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    return goodpart("train", "--data", data, "--product", "disc", "--store", store, *chosen, *flags)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_mvtec(tmp_path_factory.mktemp("data") / "disc", num_train=60)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """A store with a quick version and, after it, a fully trained one; and how often each file was opened for them."""
    store = tmp_path_factory.mktemp("store")
    with count_opened(data) as for_quick:
        quick = train(data, store, flags=["--quick"])
    assert quick.returncode == 0, quick.stderr
    with count_opened(data) as for_full:
        full = train(data, store, *STEPS, flags=["--force", "four steps are no training"])
    assert full.returncode == 0, full.stderr
    return (Store(store), quick.stdout.strip(), full.stdout.strip()), (for_quick, for_full)


@pytest.fixture(scope="module")
def trained(runs):
    """A store with a quick version and, after it, a fully trained one."""
    return runs[0]


def test_training_publishes_a_version_that_serves(trained):
    store, quick, full = trained
    assert store.list_versions("disc") == sorted([quick, full])
    assert State(store.root / "state").read_current("disc").version == full
    assert store.load_manifest("disc", quick).method == "quick"
    assert store.load_manifest("disc", full).method == "full"


def test_a_training_reads_each_image_and_mask_once(runs, data):
    """Without a version in service and beside one; before, a quick training read each good image nine times."""
    _, counters = runs
    images = list(data.rglob("*.png"))
    assert len(images) == 60 + 8 + 4
    for opened in counters:
        assert opened == dict.fromkeys(images, 1)


def test_products_share_a_teacher_and_the_export_is_repeatable(trained):
    store, quick, full = trained
    assert len(list((store.root / "teachers").iterdir())) == 1
    assert store.load_manifest("disc", quick).teacher == store.load_manifest("disc", full).teacher


def test_keys_and_values_are_in_the_exported_graph(trained):
    import onnx
    from safetensors.numpy import load

    store, _, full = trained
    graph = onnx.load_from_string(store.load_bundle("disc", full).files["student.onnx"]).graph
    stored = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    weights = load((store.training_folder("disc", full) / "student.safetensors").read_bytes())
    for name in ("recall.keys", "recall.values"):
        assert any(
            array.shape == weights[name].shape and (array == weights[name]).all() for array in stored.values()
        ), name


def test_no_path_of_the_training_machine_is_in_a_bundle(trained, data):
    store, _, full = trained
    bundle = store.load_bundle("disc", full)
    for name, content in {**bundle.files, "teacher": bundle.teacher}.items():
        assert str(data).encode() not in content, name
        assert str(Path.cwd()).encode() not in content, name


def test_metrics_contain_test_set_and_parity(trained):
    store, _, full = trained
    metrics = json.loads(store.load_bundle("disc", full).files["metrics.json"])
    assert len(metrics["test_scores"]) == 8
    assert 0.9 < metrics["image_auroc"] <= 1
    assert 0.3 < metrics["aupro"] <= 1  # features of 4 x 4 positions see no edges
    assert metrics["parity"]["score"] < 1e-3


def test_http_gives_the_scores_of_the_report(trained, data):
    store, _, full = trained
    metrics = json.loads(store.load_bundle("disc", full).files["metrics.json"])
    with Service(store.root) as service:
        assert service.client.get("/readyz").status_code == 200
        for row in metrics["test_scores"]:
            files = {"image": (data / row["path"]).read_bytes()}
            answer = service.client.post("/v1/products/disc/inspect", files=files).json()
            assert answer["version"] == full
            assert abs(answer["score"] - row["score"]) < 1e-4
            assert answer["verdict"] == row["verdict"]


def test_every_region_is_explained_by_good_patches(trained, data):
    store, _, _ = trained
    image = {"image": (data / "test/blot/000.png").read_bytes()}
    with Service(store.root) as service:
        answer = service.client.post("/v1/products/disc/inspect", files=image, params={"explain": True}).json()
    assert answer["regions"]
    assert answer["warnings"] == []
    for region in answer["regions"]:
        expected = region["explanation"]["expected"]
        assert sum(patch["weight"] for patch in expected) == pytest.approx(1, abs=1e-5)
        for patch in expected:
            with Image.open(io.BytesIO(base64.b64decode(patch["data"]))) as picture:
                assert (picture.format, picture.size) == ("JPEG", (48, 48))


def test_metrics_contain_the_synthetic_defects_found(trained):
    store, _, full = trained
    files = store.load_bundle("disc", full).files
    cells = json.loads(files["metrics.json"])["sensitivity"]
    assert {cell["kind"] for cell in cells} == {"scratch", "spot", "pasted patch", "texture patch", "missing area"}
    assert 0 < sum(cell["num_found"] for cell in cells) < sum(cell["num_drawn"] for cell in cells)
    assert files["report.html"].count(b"svg+xml;base64") == 5 + 3  # kinds; scores, a curve, the course of learning


def test_a_version_published_while_the_service_runs_is_picked_up_and_rolled_back(trained, data, tmp_path):
    import shutil

    root = Path(shutil.copytree(trained[0].root, tmp_path / "store"))
    with Service(root) as service:
        before = service.client.get("/v1/products/disc").json()["serving"]
        done = train(data, root, "seed=5", flags=["--quick"])
        assert done.returncode == 0, done.stderr
        new = done.stdout.strip()
        for _ in range(600):
            # Each look is a request that takes milliseconds; the service follows every 0.1 s.
            if service.client.get("/v1/products/disc").json()["serving"] == new:
                break
        assert service.client.get("/v1/products/disc").json()["serving"] == new
        assert service.client.post("/v1/products/disc/rollback").json()["serving"] == before


def test_a_version_of_format_1_serves_again_with_unchanged_scores_after_a_rollback(data, tmp_path):
    import shutil

    from conftest import FIXTURE

    root = Path(shutil.copytree(FIXTURE, tmp_path / "store"))
    image = {"image": (data / "test/good/000.png").read_bytes()}
    with Service(root) as service:
        before = service.client.post("/v1/products/disc/inspect", files=image).json()
    done = train(data, root, flags=["--quick", "--force", "the fixture is of other images"])
    assert done.returncode == 0, done.stderr
    store, new = Store(root), done.stdout.strip()
    formats = [store.load_manifest("disc", version).format for version in (before["version"], new)]
    assert formats == [1, 2]
    with Service(root) as service:
        assert service.client.post("/v1/products/disc/inspect", files=image).json()["version"] == new
        assert service.client.post("/v1/products/disc/rollback").json()["serving"] == before["version"]
        after = service.client.post("/v1/products/disc/inspect", files=image).json()
    same = ("version", "score", "threshold", "verdict", "scales", "regions")
    assert [after[name] for name in same] == [before[name] for name in same]


def test_every_rejected_part_names_a_region_and_no_other_does(trained, data):
    store, _, _ = trained
    with Service(store.root) as service:
        for path in sorted(data.glob("test/*/*.png")):
            answer = service.client.post("/v1/products/disc/inspect", files={"image": path.read_bytes()}).json()
            assert bool(answer["regions"]) == (answer["verdict"] == "ng")
            peaks = [region["peak"] for region in answer["regions"]]
            assert peaks == sorted(peaks, reverse=True)
            assert all(peak > answer["threshold"] for peak in peaks)


def test_a_killed_service_comes_back_as_it_was(trained, data):
    image = (data / "test/good/000.png").read_bytes()
    answers = []
    for _ in range(2):
        with Service(trained[0].root) as service:
            answers.append(service.client.post("/v1/products/disc/inspect", files={"image": image}).json())
            service.process.kill()
    assert answers[0]["version"] == answers[1]["version"]
    assert answers[0]["score"] == answers[1]["score"]
    assert answers[0]["threshold"] == answers[1]["threshold"]


def test_after_sigterm_a_service_is_not_ready_still_inspects_and_exits_with_0(trained, data):
    image = {"image": (data / "test/good/000.png").read_bytes()}
    with Service(trained[0].root, drain_s="60") as service:
        assert service.client.get("/readyz").status_code == 200
        service.process.send_signal(signal.SIGTERM)
        for _ in range(1000):  # each a request of a millisecond
            answer = service.client.get("/readyz")
            if answer.status_code == 503:
                break
        assert "the service is shutting down" in answer.json()["reasons"]
        assert service.client.get("/livez").status_code == 200
        assert service.client.post("/v1/products/disc/inspect", files=image).json()["verdict"] == "ok"
        service.process.send_signal(signal.SIGTERM)  # the second cuts the wait short
        service.process.wait(20)
    assert service.process.returncode == 0


def test_the_command_line_gives_the_services_numbers(trained, data):
    store, _, full = trained
    image = data / "test/blot/000.png"
    done = goodpart("inspect", image, "--store", store.root, "--product", "disc", "--json")
    metrics = json.loads(store.load_bundle("disc", full).files["metrics.json"])
    expected = next(row["score"] for row in metrics["test_scores"] if row["path"] == "test/blot/000.png")
    assert abs(json.loads(done.stdout)["score"] - expected) < 1e-4


def test_two_trainings_of_one_seed_have_the_same_weights(trained, data, tmp_path):
    store, _, full = trained
    again = train(data, tmp_path, *STEPS)
    assert again.returncode == 0, again.stderr
    first = store.load_manifest("disc", full).files["student.onnx"]
    assert Store(tmp_path).load_manifest("disc", again.stdout.strip()).files["student.onnx"] == first


BAD_FOLDERS = {
    "empty": ({}, "holds no image"),
    "two images": ({"a.png": encode(good_part(0)), "b.png": encode(good_part(1))}, "too few"),
    "a text file named .png": (
        {"text.png": b"hello", **{f"{index}.png": encode(good_part(index)) for index in range(20)}},
        "text.png: these bytes are not an image",
    ),
    "a truncated image": (
        {"cut.png": encode(good_part(50))[:900], **{f"{i}.png": encode(good_part(i)) for i in range(20)}},
        "cut.png",
    ),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_an_unusable_data_folder_is_one_line_and_writes_nothing(name, tmp_path):
    files, message = BAD_FOLDERS[name]
    data = tmp_path / "data"
    data.mkdir()
    for file, content in files.items():
        (data / file).write_bytes(content)
    done = train(data, tmp_path / "store")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("goodpart: error: ")
    assert message in last
    assert not (tmp_path / "store").exists()


def test_missing_cuda_is_one_line(data, trained, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    training = train(data, tmp_path / "store", "device=cuda")
    assert "torch finds no CUDA device" in training.stderr.splitlines()[-1]
    serving = goodpart("serve", "--store", trained[0].root, "--port", "0", "--provider", "cuda")
    assert (training.returncode, serving.returncode) == (1, 1)
    assert serving.stderr.startswith("goodpart: error: 'cuda' is not available")
    assert len(serving.stderr.splitlines()) == 1


def test_a_store_that_can_not_be_written_is_one_line_before_training(data, tmp_path):
    (tmp_path / "file").write_text("")
    done = train(data, tmp_path / "file" / "store")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"goodpart: error: can't use the store folder {tmp_path / 'file'}: it is not a folder"
    ]


def test_a_region_of_interest_goes_from_the_data_to_the_answer(data, tmp_path):
    import shutil

    from drawing import good_part
    from PIL import Image, ImageDraw

    folder = Path(shutil.copytree(data, tmp_path / "data"))
    region = Image.new("L", good_part(0).size)
    ImageDraw.Draw(region).rectangle((0, 0, 47, 79), fill=255)
    (folder / "region.png").write_bytes(encode(region))
    done = train(folder, tmp_path / "store", flags=["--quick"])
    assert done.returncode == 0, done.stderr
    image = folder / "test/blot/000.png"
    found = goodpart("inspect", image, "--store", tmp_path / "store", "--product", "disc", "--json")
    answer = json.loads(found.stdout)
    assert abs(answer["region_of_interest"]["share"] - 0.5) < 0.01
    assert all(region["x"] < 48 for region in answer["regions"])


def test_parity_that_fails_writes_nothing(data, tmp_path, monkeypatch):
    from rich.console import Console

    from training import job
    from training.errors import TrainingError
    from training.export import onnx as export
    from training.export import parity
    from training.progress import ProgressReporter
    from training.settings import read_train_settings

    def shift_score(*features_and_networks):
        answer = export.compare_with_networks(*features_and_networks)
        return answer._replace(score=answer.score + 0.01)

    monkeypatch.setattr(parity, "compare_with_networks", shift_score)
    order = job.PublishRequest("disc", Store(tmp_path), State(tmp_path / "state"))
    settings = read_train_settings(None, SMALL, quick=True)
    with pytest.raises(TrainingError, match="score by 1"):
        job.TrainingJob(data, order, settings, ProgressReporter(Console(quiet=True))).run()
    assert list(tmp_path.iterdir()) == []


def test_model_info_counts_what_each_network_costs():
    done = goodpart("model-info", "--set", "teacher=efficientnet_lite0", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert [word for word in ("teacher", "student", "comparison") if f"{word}, one image" in done.stdout] == [
        "teacher",
        "student",
        "comparison",
    ]
