"""The records and the golden files of a bundle."""

from types import SimpleNamespace

import numpy as np
import pytest
from drawing import encode, good_part

from app.imaging.decode import decode
from app.inference.detector import make_batch
from app.inspection.verification import EXPECTED, unpack_expectation
from model.bundle import AffineRecord, InputRecord, ScaleRecord
from training.export import bundle
from training.export.bundle import build_golden_files, make_scale_records

RULE = InputRecord(height=64, width=64, fit="stretch", channels="grey", white_level=255)


def test_every_map_has_a_record_of_its_stride_source_and_weight():
    settings = SimpleNamespace(strides=(16, 32, 8), num_recalled=3, num_extracted=2)
    found = make_scale_records(settings, (0.5, 0.1, 0.2, 0.15, 0.05))
    assert found == tuple(
        ScaleRecord(stride=stride, source=source, weight=weight)
        for stride, source, weight in (
            (16, "recall", 0.5),
            (32, "recall", 0.1),
            (8, "recall", 0.2),
            (16, "student", 0.15),
            (32, "student", 0.05),
        )
    )
    with pytest.raises(ValueError, match="shorter"):
        make_scale_records(settings, (1.0,))


class MeanDetector:
    """Takes the mean of an image for its score, and its pixels for its map."""

    def run(self, batch):
        grey = batch.pixels[0].mean(-1)
        return [SimpleNamespace(score=float(grey.mean()), map=grey[::8, ::8].astype(np.float32))]


@pytest.fixture
def builder():
    return SimpleNamespace(
        settings=SimpleNamespace(seed=0, max_pixels=10**6, map_size=(8, 8)),
        calibration=SimpleNamespace(score=AffineRecord(mean=50.0, spread=4.0)),
        rule=RULE,
        roi=None,
    )


def test_golden_files_are_a_few_good_parts_the_same_scratched_and_their_results(builder):
    """On the absolute scale, in the order of the files' names."""
    good = [(".png", encode(good_part(number))) for number in range(3)] + [(".png", b"one too many")]
    files = build_golden_files(good, builder, MeanDetector())
    names = [f"golden/{kind}_{number}.png" for kind in ("defect", "good") for number in range(3)]
    assert sorted(files) == sorted([*names, EXPECTED])
    expected = unpack_expectation(files[EXPECTED])
    for row, name in enumerate(names):
        image = decode(files[name], RULE, max_pixels=10**6)
        (raw,) = MeanDetector().run(make_batch([image], map_size=(8, 8)))
        assert expected.scores[row] == pytest.approx((raw.score - 50) / 4)
        np.testing.assert_allclose(expected.maps[row], (raw.map - 50) / 4, rtol=1e-5)
    for number in range(3):
        assert files[f"golden/good_{number}.png"] == good[number][1]
        assert files[f"golden/defect_{number}.png"] != good[number][1]


def test_a_golden_part_that_can_not_be_scratched_stays_alone(builder, monkeypatch):
    monkeypatch.setattr(bundle, "load_image", lambda *_, **__: SimpleNamespace(mode="I;16"))
    files = build_golden_files([(".png", encode(good_part(0)))], builder, MeanDetector())
    assert sorted(files) == [EXPECTED, "golden/good_0.png"]
