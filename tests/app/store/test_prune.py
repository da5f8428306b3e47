import shutil
from datetime import UTC, datetime, timedelta

import pytest

from app.store.errors import StoreUnusable, UnknownProduct
from app.store.labels import LabelDecision, LabelStore
from app.store.locks import acquire_lock
from app.store.prune import Pruner
from app.store.state import ShadowDecision, State

LATER = datetime.now(UTC) + timedelta(days=30)


@pytest.fixture
def state(store):
    return State(store.root / "state")


@pytest.fixture
def pruner(store, state):
    return Pruner(store, state, LATER)


def names(paths):
    return {path.name for path in paths}


def test_the_newest_versions_are_kept_and_what_serves_served_before_or_shadows(store, state, pruner, republished):
    (first,) = store.list_versions("disc")
    others = [republished(mark=str(day), created=datetime(2027, 1, day, tzinfo=UTC)) for day in range(1, 7)]
    shadowed, previous, serving, old, *newest = others
    for version in (previous, serving):
        state.activate("disc", version, at=LATER, by="ann", why="")
    state.set_shadow("disc", ShadowDecision(at=LATER, by="ann", why="", version=shadowed, share=0.1))
    gone = list(pruner.prune(keep=2))
    assert names(gone) >= {first, old}
    assert store.list_versions("disc") == [shadowed, previous, serving, *newest]
    for version in store.list_versions("disc"):
        store.load_bundle("disc", version)


def test_orphaned_teachers_and_leftovers_go_once_they_are_old(store, pruner):
    orphan = store.root / "teachers" / f"{'0' * 64}.onnx"
    orphan.write_bytes(b"graph")
    left = store.root / "products/disc/versions/.incoming-1"
    left.mkdir()
    work = store.root / "work/disc/0123"
    work.mkdir(parents=True)
    assert names(Pruner(store, pruner.state, datetime.now(UTC)).prune(keep=5)) == set(), "a trainer may be writing"
    assert names(pruner.prune(keep=5)) == {orphan.name, left.name, work.name}
    assert len(list((store.root / "teachers").iterdir())) == 1


def test_a_version_that_can_not_be_read_keeps_every_teacher(store, pruner, version_folder):
    orphan = store.root / "teachers" / f"{'0' * 64}.onnx"
    orphan.write_bytes(b"graph")
    (version_folder / "manifest.json").chmod(0o644)
    (version_folder / "manifest.json").write_text("{")
    assert orphan.name not in names(pruner.prune(keep=5))


def test_a_training_folder_without_its_version_goes(store, pruner, republished):
    version = republished()
    orphan = store.training_folder("disc", version)
    orphan.mkdir(parents=True)
    shutil.rmtree(store.version_folder("disc", version))
    assert orphan.name in names(pruner.prune(keep=5))
    assert not orphan.exists()


def test_a_product_is_removed_with_its_decisions_unless_it_serves(store, state, pruner):
    with pytest.raises(StoreUnusable, match="--yes"):
        list(pruner.remove("disc", even_if_active=False))
    assert store.list_products() == ["disc"]
    list(pruner.remove("disc", even_if_active=True))
    assert store.list_products() == []
    assert not (state.root / "disc").exists()
    assert list((store.root / "teachers").iterdir()) == []
    with pytest.raises(UnknownProduct):
        list(pruner.remove("disc", even_if_active=True))


def test_confirmed_images_go_at_their_age(state, pruner):
    feedback = LabelStore(state)
    for number, age_days in enumerate((100, 10)):
        at = LATER - timedelta(days=age_days)
        said = LabelDecision(at=at, by="ann", why="", label="ng")
        feedback.add("disc", b"%d" % number, suffix=".png", decision=said)
    (gone,) = pruner.expire("disc", days=50)
    (left,) = feedback.image_paths("disc", "ng")
    assert left.read_bytes() == b"1"
    assert gone not in left.name


def test_the_workplace_of_a_running_training_stays_however_old(store, pruner):
    work = store.root / "work/disc/0123"
    work.mkdir(parents=True)
    with acquire_lock(work / "lock"):
        assert work.name not in names(pruner.prune(keep=5))
        with pytest.raises(StoreUnusable, match="is running"):
            list(pruner.remove("disc", even_if_active=True))
    assert store.list_products() == ["disc"]
    assert work.name in names(pruner.prune(keep=5))


def test_a_version_that_was_just_made_stays(store, state, republished):
    republished(mark="1", created=datetime(2027, 1, 1, tzinfo=UTC))
    assert list(Pruner(store, state, datetime.now(UTC)).prune(keep=1)) == []
    assert len(store.list_versions("disc")) == 2
