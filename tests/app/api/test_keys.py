import pytest

from app.api.keys import BadKeys, Keyring, digest_of, new_key, read_keys


def test_a_key_is_known_by_its_digest_alone(tmp_path):
    presented, key = new_key("line-3", ["inspect"])
    file = tmp_path / "keys"
    file.write_text(key.line())
    assert presented not in file.read_text()
    ring = read_keys(file=file, lines=None)
    assert ring.holder(presented) == key
    assert ring.holder(presented + "x") is None
    assert ring.holder("") is None
    assert ring.holder(key.digest) is None


def test_keys_of_the_file_and_of_the_setting_count_alike(tmp_path):
    first, second = new_key("a", ["inspect"]), new_key("b", ["inspect", "operate"])
    (tmp_path / "keys").write_text(f"\n# a comment\n{first[1].line()}\n")
    ring = read_keys(file=tmp_path / "keys", lines=second[1].line())
    assert ring.holder(first[0]).scopes == {"inspect"}
    assert ring.holder(second[0]).scopes == {"inspect", "operate"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("line-3 inspect", "line 1: a key is written"),
        ("line-3 inspect sha256:abc", "line 1: a key is written"),
        (f"line-3 rule sha256:{digest_of('x')}", "no scope is called 'rule'; there are inspect, operate"),
        (f"a inspect sha256:{digest_of('x')}\na inspect sha256:{digest_of('y')}", "two keys are called a"),
    ],
)
def test_lines_that_are_no_keys_are_named_without_showing_them(line, message):
    with pytest.raises(BadKeys, match=message) as caught:
        read_keys(file=None, lines=line)
    assert digest_of("x") not in str(caught.value)


def test_a_key_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadKeys, match="absent can't be read"):
        read_keys(file=tmp_path / "absent", lines=None)


def test_keys_are_random():
    assert new_key("a", ["inspect"])[0] != new_key("a", ["inspect"])[0]
    assert Keyring().holder("anything") is None
