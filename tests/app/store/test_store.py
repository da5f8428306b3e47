import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.store.errors import MissingFile, StoreUnusable, UnknownProduct, UnknownVersion
from app.store.store import Store
from model.bundle import MANIFEST, BadName, BundleError, check_product, check_version

PRODUCT = "disc"


def the_version(store):
    (version,) = store.list_versions(PRODUCT)
    return version


def test_a_version_is_read_whole(store):
    bundle = store.load_bundle(PRODUCT, the_version(store))
    assert set(bundle.files) == set(bundle.manifest.files)
    assert bundle.manifest.product == PRODUCT


def flip_a_byte(path, offset=100):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["student.onnx", "compare.onnx", "calibration.npz", "metrics.json", "golden/good_0.png"]
)
def test_a_changed_byte_is_refused(store, version_folder, name):
    flip_a_byte(version_folder / name)
    with pytest.raises(BundleError, match=name):
        store.load_bundle(PRODUCT, the_version(store))


def test_a_changed_teacher_is_refused(store):
    (teacher,) = (store.root / "teachers").iterdir()
    flip_a_byte(teacher)
    with pytest.raises(BundleError, match=r"teacher\.onnx"):
        store.load_bundle(PRODUCT, the_version(store))


def test_a_changed_threshold_is_refused(store, version_folder):
    """The manifest's own digest is in the version's name."""
    path = version_folder / MANIFEST
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"threshold": 3', '"threshold": 9'))
    with pytest.raises(BundleError, match=MANIFEST):
        store.load_bundle(PRODUCT, the_version(store))


def test_a_renamed_product_is_refused(store):
    (store.root / "products" / PRODUCT).rename(store.root / "products" / "other")
    with pytest.raises(BundleError, match="has been changed"):
        store.load_manifest("other", store.list_versions("other")[0])


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 2}', "\0"])
def test_what_is_no_manifest_is_refused(store, version_folder, text):
    path = version_folder / MANIFEST
    path.chmod(0o644)
    path.write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        store.load_manifest(PRODUCT, the_version(store))


def test_a_missing_file_is_named(store, version_folder):
    (version_folder / "student.onnx").unlink()
    with pytest.raises(MissingFile, match=r"student\.onnx"):
        store.load_bundle(PRODUCT, the_version(store))


def test_unknown_products_and_versions_are_named(store):
    with pytest.raises(UnknownProduct, match="nothing"):
        store.list_versions("nothing")
    with pytest.raises(UnknownVersion, match="20000101t000000z-00000000"):
        store.load_manifest(PRODUCT, "20000101t000000z-00000000")


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "", "A", "-a", "a" * 65, "a\n", "a\0"])
def test_names_can_not_lead_out_of_the_store(name):
    with pytest.raises(BadName):
        check_product(name)
    with pytest.raises(BadName):
        check_version(name)


def republish(store, **changes):
    bundle = store.load_bundle(PRODUCT, the_version(store))
    manifest = bundle.manifest.model_copy(update=changes).model_dump_json().encode()
    return store.publish(PRODUCT, manifest=manifest, files=bundle.files, training={"notes.json": b"{}"})


def test_a_published_version_is_read_only_and_reads_back(store):
    version = republish(store, fingerprint="1" * 64)
    folder = store.version_folder(PRODUCT, version)
    assert store.load_bundle(PRODUCT, version).manifest.fingerprint == "1" * 64
    assert all(path.stat().st_mode & 0o222 == 0 for path in folder.rglob("*") if path.is_file())
    assert (store.training_folder(PRODUCT, version) / "notes.json").read_bytes() == b"{}"


def test_a_half_written_version_is_not_seen(store, version_folder):
    (version_folder.parent / ".incoming-1234").mkdir()
    assert store.list_versions(PRODUCT) == [version_folder.name]


def test_a_publish_that_fails_leaves_nothing(store, version_folder, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    before = sorted(version_folder.parent.iterdir())
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreUnusable, match="No space left"):
        republish(store, fingerprint="1" * 64)
    assert sorted(version_folder.parent.iterdir()) == before


def test_a_store_that_is_a_file_is_named(store, tmp_path):
    bundle = store.load_bundle(PRODUCT, the_version(store))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable, match="file"):
        Store(tmp_path / "file").publish(
            PRODUCT, manifest=bundle.manifest.model_dump_json().encode(), files=bundle.files, training={}
        )


def test_a_damaged_teacher_is_replaced_when_it_is_added_again(store):
    (path,) = (store.root / "teachers").iterdir()
    graph = path.read_bytes()
    flip_a_byte(path)
    store.add_teacher(path.stem, graph)
    assert path.read_bytes() == graph


PUBLISHER = """
import sys
from pathlib import Path
from uuid import uuid4
sys.path.insert(0, sys.argv[2])
from app.store.store import Store
store = Store(Path(sys.argv[1]))
(first, *_) = store.list_versions("disc")
bundle = store.load_bundle("disc", first)
print("ready", flush=True)
while True:
    manifest = bundle.manifest.model_copy(update={"fingerprint": 2 * uuid4().hex})
    store.publish("disc", manifest=manifest.model_dump_json().encode(), files=bundle.files, training={"n": b"1"})
"""


@pytest.mark.processes
def test_killing_a_publisher_leaves_only_whole_versions(store):
    root = os.fspath(store.root)
    for wait_s in (0.01, 0.02, 0.05, 0.08, 0.13):
        command = [sys.executable, "-c", PUBLISHER, root, str(Path.cwd())]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as publisher:
            publisher.stdout.readline()
            time.sleep(wait_s)  # the moment of the kill is what is varied; nothing waits for it
            publisher.kill()
    versions = store.list_versions(PRODUCT)
    assert len(versions) > 1
    for version in versions:
        store.load_bundle(PRODUCT, version)
