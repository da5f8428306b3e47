"""The steps of a training in their order, with a teacher of a few channels and a student of as few."""

import copy
from dataclasses import replace

import pytest
import torch
from drawing import encode, good_part
from rich.console import Console
from small_networks import THREE_SCALES, SmallTeacher, make_compare_spec
from torch.nn import functional

from app.errors import SettingsError
from app.imaging.roi import RegionOfInterest
from model.bundle import InputRecord
from model.compare import Compare, make_prior_weights
from model.student import Student
from training.data.dataset import Split
from training.data.images import ImageSource, open_files
from training.data.reader import ImageReader
from training.errors import TrainingError
from training.evaluation.synthetic import draw_defects
from training.fit import trainer as trainer_module
from training.fit.feature_store import MemoryLimit
from training.fit.features import extract_features, resize_valid
from training.fit.memory import FeatureDataset, fit_expected_distances, recall_all
from training.fit.networks import Networks
from training.fit.run_directory import RunDirectory
from training.fit.statistics import ComparedImages, fit_comparison
from training.fit.trainer import Interval, Trainer, refuse_infinite, restore_student, standardise_rows
from training.progress import ProgressReporter
from training.settings import read_train_settings

SPEC = replace(THREE_SCALES, num_recall_items=12, num_read_items=3)
COMPARE = make_compare_spec(SPEC)
RULE = InputRecord(height=64, width=64, fit="stretch", channels="grey", white_level=255)
SETTINGS = (
    "memory.num_steps=3",
    "memory.batch_size=3",
    "learning.num_steps=4",
    "learning.batch_size=3",
    "checkpoint_interval_s=1000000",
)
NUM_TRAIN, NUM_STANDARDISE, NUM_DEFECTS = 6, 3, 2
CPU = torch.device("cpu")
UNLIMITED = MemoryLimit(10**9, None)


class VaryingTeacher(SmallTeacher):
    """Features differ from image to image."""

    def __init__(self):
        super().__init__(SPEC)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, pixels):
        planes = pixels.permute(0, 3, 1, 2).float() / 64
        return tuple(torch.tanh(one(planes)) + functional.avg_pool2d(planes[:, :1], one.stride) for one in self.filters)


def make_networks(**shape):
    torch.manual_seed(0)
    spec = replace(SPEC, **shape)
    compare = Compare(make_compare_spec(spec), channels=SPEC.channels).eval()
    return Networks(VaryingTeacher().eval(), Student(spec).eval(), compare)


@pytest.fixture
def split(tmp_path):
    paths = [tmp_path / f"{number:02}.png" for number in range(NUM_TRAIN + NUM_STANDARDISE + 1)]
    for number, path in enumerate(paths):
        path.write_bytes(encode(good_part(number, size=(64, 64))))
    images = open_files(paths, ImageSource())
    return Split(images[:NUM_TRAIN], images[NUM_TRAIN : NUM_TRAIN + NUM_STANDARDISE], calibrate=images[-1:])


@pytest.fixture
def make_trainer(split, tmp_path, monkeypatch):
    """Makes a trainer of these networks."""

    def make(networks, *settings, roi=None):
        monkeypatch.setattr(trainer_module, "create_networks", lambda _: networks)
        monkeypatch.setattr(trainer_module, "NUM_DEFECTS", NUM_DEFECTS)
        reader = ImageReader(rule=RULE, max_pixels=10**6, map_size=COMPARE.map_size, roi=roi, num_workers=1)
        return Trainer(
            read_train_settings(None, (*SETTINGS, *settings)),
            split,
            reader,
            ProgressReporter(Console(quiet=True)),
            RunDirectory(tmp_path),
            CPU,
        )

    return make


@pytest.fixture
def trained(make_trainer):
    """A trainer that has run, what it returned, and the networks before."""
    networks = make_networks()
    before = copy.deepcopy(networks)
    trainer = make_trainer(networks)
    return trainer, trainer.train(), before


def compute_features(trainer, teacher, paths):
    return extract_features(teacher, paths, reader=trainer.reader, limit=UNLIMITED, on_images=lambda _: None)


def rebuild_dataset(trainer, found):
    """The dataset of a training that has run."""
    features = compute_features(trainer, found.networks.teacher, trainer.split.remembered)
    valid = resize_valid(trainer.reader.compute_valid(trainer.split.remembered), features)
    return FeatureDataset(standardise_rows(found.networks.student, features), valid, found.origins)


def test_the_memory_is_trained_first_and_then_the_student_each_for_its_steps(trained):
    _, found, _ = trained
    assert list(found.curves) == [
        "teaching: loss",
        "teaching: normality",
        "teaching: orthogonality",
        "learning: loss",
    ]
    assert [step for step, _ in found.curves["teaching: loss"]] == [1, 2, 3]
    assert [step for step, _ in found.curves["learning: loss"]] == [1, 2, 3, 4]


def test_everything_that_has_weights_was_trained(trained):
    _, found, before = trained
    for name in ("recall.keys", "first.extract.weight", "later.0.extract.weight", "bottleneck.grow.0.0.weight"):
        old, new = before.student.get_parameter(name), found.networks.student.get_parameter(name)
        assert old.shape == new.shape
        assert not torch.equal(old, new), name
    assert all(
        torch.equal(value, before.teacher.state_dict()[name])
        for name, value in found.networks.teacher.state_dict().items()
    )


def test_the_expected_distances_are_those_of_the_memory_that_the_student_has_in_the_end(trained):
    trainer, found, _ = trained
    student = copy.deepcopy(found.networks.student)
    fit_expected_distances(student, rebuild_dataset(trainer, found))
    assert not torch.equal(student.recall.expected_distances, torch.ones(12, 2))
    torch.testing.assert_close(found.networks.student.recall.expected_distances, student.recall.expected_distances)


def test_the_statistics_are_those_of_all_images_that_the_memory_holds(trained):
    trainer, found, _ = trained
    student = Student(SPEC)
    features = compute_features(trainer, found.networks.teacher, trainer.split.remembered)
    valid = tuple(torch.ones(len(scale), *scale.shape[-2:]) for scale in features)
    student.fit_statistics(features, valid)
    for one, other in zip(student.standardisers, found.networks.student.standardisers, strict=True):
        torch.testing.assert_close(one.mean, other.mean)
        torch.testing.assert_close(one.spread, other.spread)


def fit_again(trainer, found, images):
    """A comparison whose constants are fitted to some of the images, by their own steps."""
    compare = Compare(COMPARE, channels=SPEC.channels).eval()
    paths = [trainer.split.remembered[image] for image in images]
    good = ComparedImages(
        compute_features(trainer, found.networks.teacher, paths),
        trainer.reader.compute_valid(paths),
        found.origins.find_own_items(torch.tensor(images)),
    )
    fit_comparison(compare, found.networks.student, good)
    return compare


def test_the_comparison_is_fitted_to_the_images_that_were_not_trained_on(trained):
    trainer, found, _ = trained
    held_out = fit_again(trainer, found, list(range(NUM_TRAIN, NUM_TRAIN + NUM_STANDARDISE)))
    own = found.networks.compare
    torch.testing.assert_close(own.map_means, held_out.map_means, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(own.map_spreads, held_out.map_spreads, rtol=1e-3, atol=1e-5)
    learned_from = fit_again(trainer, found, list(range(NUM_TRAIN)))
    assert not torch.allclose(own.map_means, learned_from.map_means, rtol=1e-3, atol=1e-5)


def test_the_maps_are_weighed_by_synthetic_defects(trained):
    _, found, _ = trained
    compare = found.networks.compare
    assert not torch.allclose(compare.map_weights, make_prior_weights(COMPARE), rtol=1e-5)
    assert compare.map_weights.sum().item() == pytest.approx(1)


def test_the_trained_networks_are_in_evaluation_mode(trained):
    _, found, _ = trained
    assert not any(module.training for module in found.networks.student.modules())
    assert not found.networks.compare.training


def test_a_quick_version_is_filled_and_fitted_without_a_gradient_step(make_trainer):
    networks = make_networks(extracts=False)
    trainer = make_trainer(networks, "quick=true")
    found = trainer.train()
    assert found.curves == {}
    origins = found.origins
    queries = found.networks.student.make_query(
        tuple(scale[torch.arange(len(trainer.split.remembered))] for scale in rebuild_dataset(trainer, found).features)
    ).flatten(2)
    for key, image, place in zip(found.networks.student.recall.keys, origins.images, origins.positions, strict=True):
        torch.testing.assert_close(key, queries[image, :, place], rtol=1e-4, atol=1e-4)
    assert not torch.equal(networks.student.recall.expected_distances, torch.ones(12, 2))


def test_the_student_learns_from_the_training_images_and_is_held_against_the_others(trained):
    trainer, found, _ = trained
    dataset = rebuild_dataset(trainer, found)
    trainer.generator = torch.Generator()
    phase = trainer._make_distillation(found.networks.student, dataset)
    assert phase.training_set.images.tolist() == list(range(NUM_TRAIN))
    assert phase.held_out.images.tolist() == list(range(NUM_TRAIN, NUM_TRAIN + NUM_STANDARDISE))
    expected = recall_all(found.networks.student, dataset)
    for one in (phase.training_set, phase.held_out):
        assert all(torch.equal(a, b) for a, b in zip(one.recalled.features, expected.features, strict=True))


def test_every_defective_part_is_beside_its_own_valid_positions_and_hidden_items(make_trainer, split):
    networks = make_networks()
    trainer = make_trainer(networks)
    paths = split.standardise
    hidden = torch.eye(NUM_STANDARDISE, 12) > 0
    valid = torch.ones(NUM_STANDARDISE, 8, 8) * torch.arange(1, NUM_STANDARDISE + 1)[:, None, None]
    good = ComparedImages(compute_features(trainer, networks.teacher, paths), valid, hidden)
    defective = trainer._make_defective(networks.teacher, good)
    rows = [0, 1, 2, 0, 1, 2]  # all with one defect, then all with another
    assert torch.equal(defective.valid, valid[rows])
    assert torch.equal(defective.hidden_items, hidden[rows])
    pixels = trainer.reader.to_pixels([trainer.reader.decode(path) for path in paths]).numpy()
    drawn = draw_defects(pixels, valid.numpy(), number=NUM_DEFECTS, seed=trainer.settings.seed)
    assert len(drawn) == 6
    for scale, expected in zip(defective.features, networks.teacher(torch.from_numpy(drawn)), strict=True):
        torch.testing.assert_close(scale, expected)


def test_a_region_of_interest_thinner_than_a_feature_is_refused(make_trainer):
    inside = torch.zeros(64, 64, dtype=torch.bool).numpy()
    inside[:, 2:9] = True
    trainer = make_trainer(make_networks(), roi=RegionOfInterest(inside, is_blanked=True))
    with pytest.raises(SettingsError, match="thinner than a feature"):
        trainer.train()


def test_a_checkpoint_gives_back_a_memory_of_its_own_size_and_its_origins(trained):
    _, found, _ = trained
    saved = {
        "student": found.networks.student.state_dict(),
        "origins": {"images": found.origins.images, "positions": found.origins.positions},
    }
    student = Student(replace(SPEC, num_recall_items=99))
    origins = restore_student(student, saved)
    assert torch.equal(origins.images, found.origins.images)
    assert torch.equal(origins.positions, found.origins.positions)
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in saved["student"].items())


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_ends_the_training(loss):
    with pytest.raises(TrainingError, match="the loss at step 7 is not a finite number"):
        refuse_infinite(loss, step=7)
    refuse_infinite(0.0, step=7)


def test_something_periodic_is_due_once_an_interval(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: now[0])
    interval = Interval(10.0)
    due = []
    for now[0] in (100.0, 109.5, 110.0, 110.5, 119.5, 121.0):
        due.append(interval.is_due())
    assert due == [False, False, True, False, False, True]


def test_a_due_checkpoint_holds_what_a_resumed_training_needs(make_trainer, trained, monkeypatch):
    """One saved at the second step of the student: continued from there, the training ends alike."""
    _, expected, _ = trained
    trainer = make_trainer(make_networks())
    states = []
    monkeypatch.setattr(Interval, "is_due", lambda _: True)
    monkeypatch.setattr(RunDirectory, "save_checkpoint", lambda _, state: states.append(copy.deepcopy(state)))
    trainer.train()
    assert [state["phase"] for state in states] == ["teaching"] * 3 + ["learning"] * 4
    monkeypatch.setattr(RunDirectory, "checkpoint", property(lambda _: states[4]))
    resumed = make_trainer(make_networks()).train()
    assert resumed.curves == expected.curves
    for name, value in expected.networks.student.state_dict().items():
        assert torch.equal(value, resumed.networks.student.state_dict()[name]), name
