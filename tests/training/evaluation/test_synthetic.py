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
def test_a_defect_is_as_large_as_was_asked(part, kind):
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
