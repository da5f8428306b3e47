import pytest

from app.api.keys import Keyring, compute_digest, generate_key, read_keys
from app.errors import SettingsError


def test_a_key_is_known_by_its_digest_alone(tmp_path):
    presented, key = generate_key("line-3", ["inspect"])
    file = tmp_path / "keys"
    file.write_text(key.to_line())
    assert presented not in file.read_text()
    ring = read_keys(file=file, lines=None)
    assert ring.find(presented) == key
    assert ring.find(presented + "x") is None
    assert ring.find("") is None
    assert ring.find(key.digest) is None


def test_keys_of_the_file_and_of_the_setting_count_alike(tmp_path):
    first, second = generate_key("a", ["inspect"]), generate_key("b", ["inspect", "operate"])
    (tmp_path / "keys").write_text(f"\n# a comment\n{first[1].to_line()}\n")
    ring = read_keys(file=tmp_path / "keys", lines=second[1].to_line())
    assert ring.find(first[0]).scopes == {"inspect"}
    assert ring.find(second[0]).scopes == {"inspect", "operate"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("line-3 inspect", "line 1: a key is written"),
        ("line-3 inspect sha256:abc", "line 1: a key is written"),
        (f"line-3 rule sha256:{compute_digest('x')}", "unknown scope 'rule'; valid scopes are inspect, operate"),
        (f"a inspect sha256:{compute_digest('x')}\na inspect sha256:{compute_digest('y')}", "two keys have the name a"),
    ],
)
def test_lines_that_are_no_keys_are_named_without_showing_them(line, message):
    with pytest.raises(SettingsError, match=message) as caught:
        read_keys(file=None, lines=line)
    assert compute_digest("x") not in str(caught.value)


def test_a_key_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match="absent can't be read"):
        read_keys(file=tmp_path / "absent", lines=None)


def test_keys_are_random():
    assert generate_key("a", ["inspect"])[0] != generate_key("a", ["inspect"])[0]
    assert Keyring().find("anything") is None
