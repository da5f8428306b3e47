import numpy as np
import pytest
from drawing import good_part

from training.evaluation.synthetic import KINDS, Defect, add_defect


@pytest.fixture(params=["L", "RGB"])
def part(request):
    return good_part(3, size=(160, 120)).convert(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_changes_only_what_its_mask_covers(part, kind):
    defective, mask = add_defect(part, Defect(kind, size=0.2, contrast=1.0), generator=np.random.default_rng(0))
    before, after = np.asarray(part, dtype=int), np.asarray(defective, dtype=int)
    changed = np.abs(after - before).reshape(*mask.shape, -1).max(-1) > 0
    assert changed.any()
    assert not (changed & ~mask).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fainter_defect_changes_less(part, kind):
    def change(contrast):
        defective, _ = add_defect(part, Defect(kind, size=0.2, contrast=contrast), generator=np.random.default_rng(0))
        return np.abs(np.asarray(defective, dtype=int) - np.asarray(part, dtype=int)).sum()

    assert 0 < change(0.25) < 0.5 * change(1.0)


@pytest.mark.parametrize("kind", ["spot", "pasted patch", "texture patch", "missing area"])
def test_a_defect_has_the_requested_size(part, kind):
    _, mask = add_defect(part, Defect(kind, size=0.2, contrast=1.0), generator=np.random.default_rng(0))
    rows, columns = np.nonzero(mask)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (24, 24)


def test_a_scratch_is_ten_times_as_long_as_wide():
    part = good_part(3, size=(400, 400))
    _, mask = add_defect(part, Defect("scratch", size=0.3, contrast=1.0), generator=np.random.default_rng(1))
    assert mask.sum() == pytest.approx(120 * 12, rel=0.3)


def test_a_missing_area_has_less_detail_than_it_had():
    part = good_part(3, size=(160, 120))
    defective, mask = add_defect(part, Defect("missing area", 0.3, 1.0), generator=np.random.default_rng(2))
    assert np.asarray(defective)[mask].std() < 0.5 * np.asarray(part)[mask].std()


def test_one_seed_draws_one_defect(part):
    first, second = (
        add_defect(part, Defect("scratch", 0.2, 0.5), generator=np.random.default_rng(9))[0] for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()


def test_drawn_defects_cover_small_and_large_areas():
    from training.evaluation.synthetic import draw_defect

    generator, part = np.random.default_rng(0), good_part(3, size=(200, 200))
    areas = [add_defect(part, draw_defect(generator), generator=generator)[1].mean() for _ in range(300)]
    assert min(areas) < 0.001
    assert max(areas) > 0.05


def test_every_image_gets_the_requested_number_of_defects_one_at_a_time():
    from training.evaluation.synthetic import draw_defects

    pixels = np.stack([np.asarray(good_part(seed, size=(64, 64)).convert("RGB")) for seed in range(3)])
    drawn = draw_defects(pixels, np.ones((3, 16, 16), np.float32), number=4, seed=0)
    assert drawn.shape == (12, 64, 64, 3)
    same = [(drawn[row] == pixels[row % 3]).all(-1).mean() for row in range(12)]
    assert np.mean([share < 1 for share in same]) > 0.8  # a shuffled patch of plain ground changes nothing
    assert np.median(same) > 0.9
    assert (drawn == draw_defects(pixels, np.ones((3, 16, 16), np.float32), number=4, seed=0)).all()


def test_drawn_defects_lie_for_the_most_part_inside():
    from training.evaluation.synthetic import draw_defects

    pixels = np.stack([np.asarray(good_part(5, size=(64, 64)).convert("RGB"))])
    valid = np.zeros((1, 16, 16), np.float32)
    valid[0, :, :8] = 1
    drawn = draw_defects(pixels, valid, number=20, seed=1)
    inside = [
        (image != pixels[0]).any(-1)[:, :32].sum() / max(1, (image != pixels[0]).any(-1).sum()) for image in drawn
    ]
    assert np.mean([share >= 0.4 for share in inside]) > 0.9
