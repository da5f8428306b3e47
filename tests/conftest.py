"""Shared by all tests: axes of every public tensor function are checked while tests run."""

import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for drawing.py, which the fixture's maker shares

TYPED = (
    "adaptive",
    "bottleneck",
    "compare",
    "efficientnet_lite",
    "fusion",
    "losses",
    "similarity",
    "recall",
    "resnet",
    "standardise",
    "student",
    "teacher",
)
install_import_hook([f"model.{name}" for name in TYPED], "beartype.beartype")

from drawing import defective_part, encode, good_part  # noqa: E402  # after the path and the hook

from app.inference.sessions import Device  # noqa: E402
from app.inference.version import Loader  # noqa: E402
from app.store.store import Store  # noqa: E402
from model.bundle import make_file_records  # noqa: E402

FIXTURE = HERE / "fixtures" / "format1"
PRODUCT = "disc"


def pytest_addoption(parser):
    group = parser.getgroup("images")
    group.addoption("--images-json", help="where the figures of the images go")
    group.addoption("--images-with", default="", help="further arguments of bench/images.py")


def pytest_collection_modifyitems(config, items):
    """Images are built only with `-m images`."""
    if "images" not in config.getoption("-m"):
        left_out = [item for item in items if item.get_closest_marker("images")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def store_folder(tmp_path):
    """A copy of the committed format-1 store, free to be damaged."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "store"))


@pytest.fixture
def store(store_folder):
    return Store(store_folder)


@pytest.fixture
def version_folder(store):
    (name,) = store.list_versions(PRODUCT)
    return store.version_folder(PRODUCT, name)


@pytest.fixture
def republished(store):
    """Makes another version of the product, alike but for its fingerprint and what is given."""
    return partial(republish, store)


def republish(store, *, mark="1", files=None, sign_key=None, **changes):
    bundle = store.load_bundle(PRODUCT, store.list_versions(PRODUCT)[0])
    files = {**bundle.files, **(files or {})}
    changed = {"fingerprint": mark * 64, "files": make_file_records(files), **changes}
    manifest = bundle.manifest.model_copy(update=changed).model_dump_json().encode()
    return store.publish(PRODUCT, manifest=manifest, files=files, training={}, sign_key=sign_key)


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory):
    """A store with two versions of the product, shared by the tests of a file: they leave it as it was."""
    folder = Path(shutil.copytree(FIXTURE, tmp_path_factory.mktemp("shared") / "store"))
    republish(Store(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_version():
    store = Store(FIXTURE)
    (name,) = store.list_versions(PRODUCT)
    return Loader(Device("cpu", 1)).load(store.load_bundle(PRODUCT, name))


@pytest.fixture(scope="session")
def good_bytes():
    return encode(good_part(7))


@pytest.fixture(scope="session")
def defective_bytes():
    return encode(defective_part(7))
