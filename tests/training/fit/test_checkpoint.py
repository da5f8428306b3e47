import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from training.errors import BadCheckpoint
from training.fit.checkpoint import PLAIN, extract_tensors, insert_tensors, read_checkpoint, write_checkpoint

STATE = {
    "phase": "learning",
    "done": 7,
    "loss": 0.1 + 0.2,
    "nothing": None,
    "is_over": False,
    "generator": torch.tensor([1, 255], dtype=torch.uint8),
    "optimiser": {"state": {0: {"step": torch.tensor(3.0)}, 12: {"mean": torch.randn(2, 3)}}, "groups": [{"lr": 1e-3}]},
    "pair": [torch.ones(1), [torch.zeros(2, dtype=torch.bool), "text"]],
}


def are_equal(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(are_equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(are_equal, one, other))
    return type(one) is type(other) and one == other


def test_a_state_is_read_as_it_was_written(tmp_path):
    write_checkpoint(tmp_path / "state", STATE)
    assert are_equal(read_checkpoint(tmp_path / "state"), STATE)


def test_a_state_replaces_the_one_before(tmp_path):
    for number in range(2):
        write_checkpoint(tmp_path / "state", {"number": number})
    assert read_checkpoint(tmp_path / "state") == {"number": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_without_a_file_there_is_no_state(tmp_path):
    assert read_checkpoint(tmp_path / "absent") is None
    assert read_checkpoint(tmp_path) is None


def test_tuples_become_lists_and_views_are_written_as_what_they_show(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    write_checkpoint(tmp_path / "state", {"views": (whole.mT, whole[:, 1], whole)})
    found = read_checkpoint(tmp_path / "state")["views"]
    assert isinstance(found, list)
    assert all(map(torch.equal, found, (whole.mT, whole[:, 1], whole)))


def test_tensors_are_copied_out_of_the_training():
    weight = torch.nn.Parameter(torch.ones(2))
    tensors = {}
    extract_tensors({"weight": weight}, "", tensors)
    (copied,) = tensors.values()
    with torch.no_grad():
        weight.fill_(5)
    assert copied.tolist() == [1, 1]
    assert not copied.requires_grad


def test_each_tensor_is_a_tensor_of_the_file_and_the_rest_is_json(tmp_path):
    """Nothing that executes code when it is read."""
    write_checkpoint(tmp_path / "state", {"a": {"b": [torch.ones(2)]}, "c": 1})
    with safe_open(tmp_path / "state", framework="pt") as file:
        assert list(file.keys()) == ["/a/b/0"]
        assert json.loads(file.metadata()[PLAIN]) == {"a": {"b": ["tensor:/a/b/0"]}, "c": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no safetensors",
        save({"x": torch.ones(1)}),
        save({"x": torch.ones(1)}, metadata={"other": "{}"}),
        save({"x": torch.ones(1)}, metadata={PLAIN: "{"}),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_with_its_path(tmp_path, data):
    (tmp_path / "state").write_bytes(data)
    with pytest.raises(BadCheckpoint, match="state"):
        read_checkpoint(tmp_path / "state")


def test_a_truncated_checkpoint_is_refused(tmp_path):
    write_checkpoint(tmp_path / "state", STATE)
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:-1])
    with pytest.raises(BadCheckpoint):
        read_checkpoint(tmp_path / "state")


def test_keys_that_are_numbers_are_numbers_again_and_others_stay_text():
    assert insert_tensors({"0": 1, "-1": 2, "a0": 3, "": 4}, {}) == {0: 1, "-1": 2, "a0": 3, "": 4}
