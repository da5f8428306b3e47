"""The steps of an adaptation by themselves, with a teacher and a student of a few channels."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drawing import encode, good_part
from rich.console import Console
from small_networks import TWO_SCALES, SmallTeacher, make_compare_spec
from torch import nn

from app.imaging.input_check import measure
from app.inference.explain import pack_patches, unpack_patches
from app.store.errors import StoreError
from app.store.state import State
from model.bundle import MEASURES, PATCHES, ExpectsRecord, InputRecord, RangeRecord
from model.compare import Compare
from model.student import Student
from training import adapt
from training.adapt import Adaptation, BaseVersion, deduplicate, load_base_version
from training.data.images import ImageSource, open_files
from training.data.input_ranges import widen
from training.data.reader import ImageReader
from training.errors import TrainingError
from training.export.bundle import NUM_GOLDEN
from training.export.calibrate import calibrate
from training.export.calibration_features import NO_OWNER, CalibrationFeatures
from training.export.patches import render_patch
from training.fit.memory import ItemOrigins
from training.fit.networks import Networks
from training.progress import ProgressReporter
from training.release.publish import PublishRequest

COMPARE = make_compare_spec(TWO_SCALES)
RULE = InputRecord(height=64, width=64, fit="stretch", channels="grey", white_level=255)
NUM_OLD, NUM_NEW = 7, 4


def make_calibration_features(number, owners):
    generator = np.random.default_rng(number)
    features = tuple(generator.normal(size=(number, *size)).astype(np.float16) for size in ((6, 4, 4), (4, 8, 8)))
    return CalibrationFeatures(features, np.ones((number, 8, 8), np.float32), np.array(owners, np.int64))


@pytest.fixture
def adaptation(tmp_path):
    """An adaptation to four new parts, of a version with seven calibration parts that gave two of nine items."""
    torch.manual_seed(0)
    paths = [tmp_path / f"{number}.png" for number in range(NUM_NEW)]
    for number, path in enumerate(paths):
        path.write_bytes(encode(good_part(number, size=(64, 64))))
    base = SimpleNamespace(
        bundle=SimpleNamespace(manifest=SimpleNamespace(expects=None), files={}),
        settings=SimpleNamespace(num_recall_items=9, strides=TWO_SCALES.strides, false_alarm_rate=0.2),
        networks=Networks(
            SmallTeacher(TWO_SCALES).eval(),
            Student(TWO_SCALES).eval(),
            Compare(COMPARE, channels=TWO_SCALES.channels).eval(),
        ),
        calibration_features=make_calibration_features(NUM_OLD, [*[NO_OWNER] * 7, 1, 6]),
        golden=[(".png", b"0"), (".png", b"1"), (".bmp", b"2")],
    )
    return Adaptation(
        base=base,
        new_parts=open_files(paths, ImageSource()),
        reader=ImageReader(rule=RULE, max_pixels=10**6, map_size=COMPARE.map_size, num_workers=1),
        request=None,
        reporter=ProgressReporter(Console(quiet=True)),
    )


def decode_new(adaptation):
    return [adaptation.reader.decode(part) for part in adaptation.new_parts]


def test_features_of_new_parts_are_the_teachers_in_their_order(adaptation):
    found = adaptation.compute_features()
    for number, image in enumerate(decode_new(adaptation)):
        expected = adaptation.base.networks.teacher(adaptation.reader.to_pixels([image]))
        for scale, own in zip(found, expected, strict=True):
            torch.testing.assert_close(scale[number], own[0])
    assert not any(scale.requires_grad for scale in found)


def test_the_memory_gets_what_is_new_in_the_parts_and_the_parts_calibrate_from_now_on(adaptation):
    old, student = adaptation.base.calibration_features, adaptation.base.networks.student
    nn.init.zeros_(student.recall.keys)  # similar to nothing
    kept, added = adaptation.extend_memory()
    assert len(added.images) == student.recall.num_items - 9 > 0
    assert len(kept) == NUM_OLD + NUM_NEW
    assert kept.owners.tolist() == [*old.owners.tolist(), *(NUM_OLD + added.images).tolist()]
    for scale, new, before in zip(kept.features, adaptation.compute_features(), old.features, strict=True):
        np.testing.assert_array_equal(scale[:NUM_OLD], before)
        np.testing.assert_array_equal(scale[NUM_OLD:], new.half().numpy())
    standard = student.standardise(adaptation.compute_features())
    queries = student.make_query(standard).flatten(2)
    for item, (image, place) in enumerate(zip(added.images, added.positions, strict=True), start=9):
        torch.testing.assert_close(student.recall.keys[item], queries[image, :, place])


@pytest.mark.parametrize(("num_items", "limit"), [(9, 4), (22, 4), (23, 4), (24, 3), (26, 1), (27, 0), (30, 0)])
def test_a_memory_grows_by_half_at_a_time_and_to_three_times_what_training_gave_it(
    adaptation, monkeypatch, num_items, limit
):
    """Of nine items: half is 4, rounded to even, and thrice 27."""
    adaptation.base.networks.student.recall.write(keys=torch.randn(num_items, 7), values=torch.randn(num_items, 6))
    seen = []

    def extend(student, standard, valid, *, max_items):
        seen.append((student, standard, valid, max_items))
        return ItemOrigins(torch.tensor([0]), torch.tensor([0]))

    monkeypatch.setattr(adapt, "extend_memory", extend)
    adaptation.extend_memory()
    ((student, standard, valid, max_items),) = seen
    assert (student, max_items) == (adaptation.base.networks.student, limit)
    assert valid.tolist() == torch.ones(NUM_NEW, 4, 4).tolist()
    for scale, expected in zip(standard, student.standardise(adaptation.compute_features()), strict=True):
        torch.testing.assert_close(scale, expected)


@pytest.mark.parametrize(
    ("num_old", "rows"),
    [(7, [0, 1, 2, 3, 7, 8, 9, 10]), (4, [0, 1, 2, 3, 4, 5, 6, 7]), (2, [0, 1, 2, 3, 4, 5]), (0, [0, 1, 2, 3])],
)
def test_constants_come_from_as_many_old_parts_as_new_ones_each_without_its_own_items(
    adaptation, monkeypatch, num_old, rows
):
    kept = make_calibration_features(num_old + NUM_NEW, [*[NO_OWNER] * 7, 1, num_old + 2])
    seen = []
    monkeypatch.setattr(adapt, "fit_comparison", lambda *given: seen.append(given))
    adaptation.fit_statistics(kept)
    ((compare, student, images),) = seen
    assert (compare, student) == (adaptation.base.networks.compare, adaptation.base.networks.student)
    for scale, own in zip(images.features, kept.features, strict=True):
        assert scale.dtype == torch.float32
        np.testing.assert_array_equal(scale.numpy(), own[rows].astype(np.float32))
    assert torch.equal(images.valid, torch.from_numpy(kept.valid[rows]))
    assert images.hidden_items.tolist() == [[owner == row for owner in kept.owners] for row in rows]


def compare_slowly(networks, kept, row):
    features = tuple(torch.from_numpy(scale[row : row + 1].astype(np.float32)) for scale in kept.features)
    hidden = torch.tensor([[owner == row for owner in kept.owners.tolist()]])
    valid = torch.from_numpy(kept.valid[row : row + 1])
    with torch.no_grad():
        return networks.compare(features, networks.student(*features, hidden_items=hidden), valid)


@pytest.mark.parametrize("row", [0, 1, 6])
def test_a_part_is_compared_without_the_items_that_it_gave(adaptation, row):
    kept = adaptation.base.calibration_features
    found = adaptation.compare_part(kept, row)
    expected = compare_slowly(adaptation.base.networks, kept, row)
    assert found.score == pytest.approx(expected.score.item(), rel=1e-6)
    np.testing.assert_array_equal(found.map, expected.map[0].numpy())
    np.testing.assert_array_equal(found.scale_shares, expected.scale_shares[0].numpy())


def test_the_threshold_is_calibrated_on_every_part_at_the_rate_of_training(adaptation):
    kept = adaptation.base.calibration_features
    scores = [compare_slowly(adaptation.base.networks, kept, row).score.item() for row in range(NUM_OLD)]
    expected = calibrate([SimpleNamespace(score=score) for score in scores], asked=0.2)
    found = adaptation.fit_threshold(kept)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert found.promise.threshold == pytest.approx(expected.promise.threshold, abs=1e-4)
    assert (found.promise.asked, found.promise.num_calibration) == (0.2, NUM_OLD)


def test_input_ranges_hold_what_they_held_and_the_new_parts(adaptation):
    assert adaptation.widen_input_ranges() is None
    looks = [measure(image) for image in decode_new(adaptation)]
    narrow, wide = RangeRecord(low=100.0, high=100.5), RangeRecord(low=-1e6, high=1e6)
    for before in (narrow, wide):
        adaptation.base.bundle.manifest.expects = ExpectsRecord(**dict.fromkeys(MEASURES, before))
        found = adaptation.widen_input_ranges()
        for name in MEASURES:
            new = widen(name, min(look[name] for look in looks), max(look[name] for look in looks))
            assert getattr(found, name).low == min(before.low, new.low)
            assert getattr(found, name).high == max(before.high, new.high)


def test_pictures_of_new_items_follow_those_of_the_old_ones(adaptation):
    old = [b"first", b"2", b"third"]
    added = ItemOrigins(torch.tensor([2, 0]), torch.tensor([5, 10]))
    pixels = [image.pixels for image in decode_new(adaptation)]
    expected = [render_patch(pixels[2], 5, stride=16), render_patch(pixels[0], 10, stride=16)]
    adaptation.base.bundle.files = {PATCHES: pack_patches(old)}
    found = unpack_patches(adaptation.render_patches(added))
    assert [found.jpeg(item) for item in range(len(found.ends))] == [*old, *expected]


def test_the_new_version_keeps_old_golden_parts_beside_a_new_one(adaptation):
    images = adaptation.select_images()
    assert images.held_out == images.good == adaptation.new_parts
    assert images.golden == [(".png", b"0"), (".png", b"1"), (".png", adaptation.new_parts[0].read_bytes())]
    assert len(images.golden) == NUM_GOLDEN
    assert images.synthetic == [b"0", b"1", b"2"]
    assert images.is_shift_confirmed


def test_golden_good_parts_of_a_version_have_their_suffix_and_order():
    files = {"golden/good_1.bmp": b"1", "golden/defect_0.png": b"x", "golden/good_0.png": b"0", "manifest.json": b"{}"}
    base = BaseVersion(SimpleNamespace(files=files), None, None, None)
    assert base.golden == [(".png", b"0"), (".bmp", b"1")]


def write_parts(folder, *contents):
    paths = [folder / f"{number:03}.png" for number in range(len(contents))]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    return open_files(paths, ImageSource())


def test_identical_copies_of_a_part_count_once(tmp_path):
    paths = write_parts(tmp_path, b"a", b"b", b"a", b"c", b"d", b"b")
    assert sorted(deduplicate(paths)) == [paths[0], paths[1], paths[3], paths[4]]
    assert deduplicate(paths) == deduplicate([*paths[:2], *paths[:1:-1]])  # whatever their order


def test_too_few_or_too_many_different_parts_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(adapt, "MAX_IMAGES", 5)
    paths = write_parts(tmp_path, *(bytes([number]) for number in range(6)))
    assert len(deduplicate(paths[:4])) == adapt.MIN_IMAGES
    assert len(deduplicate(paths[:5])) == adapt.MAX_IMAGES
    with pytest.raises(TrainingError, match="3 different images are too few"):
        deduplicate([*paths[:3], paths[0]])
    with pytest.raises(TrainingError, match="6 images are too many"):
        deduplicate(paths)


def test_a_version_of_an_earlier_release_is_not_adapted(store, store_folder):
    request = PublishRequest("disc", store, State(store_folder / "state"))
    with pytest.raises(TrainingError, match="was trained by an earlier release"):
        load_base_version(request)


def test_a_product_that_nothing_serves_of_is_not_adapted(store, store_folder):
    (store_folder / "state" / "disc" / "current.json").unlink()
    with pytest.raises(StoreError, match="disc"):
        load_base_version(PublishRequest("disc", store, State(store_folder / "state")))


def test_networks_are_restored_with_a_memory_of_its_own_size(adaptation, monkeypatch):
    networks = adaptation.base.networks
    networks.student.recall.write(keys=torch.randn(13, 7), values=torch.randn(13, 6))
    networks.compare.map_means.uniform_()
    states = [copy.deepcopy(one.state_dict()) for one in (networks.student, networks.compare)]
    torch.manual_seed(9)
    fresh = Networks(networks.teacher, Student(TWO_SCALES), Compare(COMPARE, channels=TWO_SCALES.channels))
    monkeypatch.setattr(adapt, "create_networks", lambda _: fresh)
    restored = adapt.restore_networks(None, *states)
    for network, state in zip((restored.student, restored.compare), states, strict=True):
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())
    assert not restored.student.training
