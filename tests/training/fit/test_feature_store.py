import pytest
import torch

from training.errors import TrainingError
from training.fit.feature_store import Float16File, MemoryLimit, StandardisedRows, allocate_rows

LIKES = [torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 8, 8)]
BYTES = 5 * (3 * 16 + 2 * 64) * 4


@pytest.mark.parametrize(("memory_bytes", "kind"), [(BYTES, torch.Tensor), (BYTES - 1, Float16File)])
def test_rows_lie_in_memory_up_to_the_bound_and_on_disk_beyond(memory_bytes, kind, tmp_path):
    rows = allocate_rows(5, LIKES, limit=MemoryLimit(memory_bytes, tmp_path / "work"))
    assert [type(one) for one in rows] == [kind, kind]
    assert [tuple(one.shape) for one in rows] == [(5, 3, 4, 4), (5, 2, 8, 8)]


def test_a_file_gives_back_what_was_put_in_to_half_precision(tmp_path):
    given = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    rows = Float16File(tmp_path / "rows", given.shape)
    rows[0:2], rows[2:5] = given[:2], given[2:]
    wanted = torch.tensor([4, 0, 0, 3])
    assert rows[wanted].dtype == torch.float32
    assert torch.equal(rows[wanted], given[wanted].half().float())


def test_features_that_the_disk_has_no_room_for_are_refused_before_the_first(tmp_path):
    with pytest.raises(TrainingError, match="GiB left"):
        allocate_rows(10**9, LIKES, limit=MemoryLimit(0, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_standardised_rows_are_those_of_the_standardiser():
    from model.standardise import Standardiser

    rows = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 5 + 2
    standardiser = Standardiser.fit(rows, torch.ones(6, 4, 4))
    images = torch.tensor([1, 5])
    assert torch.equal(StandardisedRows(rows, standardiser)[images], standardiser(rows)[images])
