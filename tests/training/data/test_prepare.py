"""What identifies the inputs of a training."""

from training.data.images import ImageSource, open_files
from training.data.prepare import compute_fingerprint
from training.settings import read_train_settings


def test_the_fingerprint_is_of_settings_and_bytes_and_not_of_names(tmp_path):
    settings = read_train_settings(None, ())
    for name, data in (("a", b"1"), ("b", b"2"), ("c", b"1"), ("d", b"3")):
        (tmp_path / name).write_bytes(data)
    a, b, c, d = open_files((tmp_path / name for name in "abcd"), ImageSource())
    first = compute_fingerprint([a, b], settings)
    assert compute_fingerprint([b, c], settings) == first
    assert compute_fingerprint([a, d], settings) != first
    assert compute_fingerprint([a, c], settings) != compute_fingerprint([a], settings)
    assert compute_fingerprint([a, b], read_train_settings(None, ("seed=1",))) != first
