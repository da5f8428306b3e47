import pytest

from app.errors import SettingsError
from app.store.signing import SIGNATURE, generate_key_pair, read_private_key, read_public_keys
from app.store.store import Store
from model.bundle import MANIFEST, BundleError


@pytest.fixture
def pair(tmp_path):
    private, public = generate_key_pair()
    (tmp_path / "key").write_bytes(private)
    (tmp_path / "key.pub").write_bytes(public)
    return read_private_key(tmp_path / "key"), tmp_path / "key.pub"


def test_a_signed_version_is_read_by_who_trusts_the_key_and_by_who_asks_for_none(store, pair, republished):
    key, public = pair
    version = republished(sign_key=key)
    assert Store(store.root, trusted=read_public_keys(public)).load_bundle("disc", version).version == version
    assert store.load_bundle("disc", version).version == version


def test_an_unsigned_version_is_refused(store, pair):
    _, public = pair
    trusting = Store(store.root, trusted=read_public_keys(public))
    with pytest.raises(BundleError, match="is not signed"):
        trusting.load_bundle("disc", store.list_versions("disc")[0])


def test_another_key_or_a_changed_manifest_is_refused(store, pair, tmp_path, republished):
    key, _ = pair
    version = republished(sign_key=key)
    (tmp_path / "other.pub").write_bytes(generate_key_pair()[1])
    with pytest.raises(BundleError, match="no valid signature"):
        Store(store.root, trusted=read_public_keys(tmp_path / "other.pub")).load_manifest("disc", version)


def test_a_signature_can_not_be_moved_to_another_version(store, pair, republished):
    key, public = pair
    first, second = republished(sign_key=key), republished(mark="2")
    signature = (store.version_folder("disc", first) / SIGNATURE).read_bytes()
    (store.version_folder("disc", second) / SIGNATURE).write_bytes(signature)
    with pytest.raises(BundleError, match="no valid signature"):
        Store(store.root, trusted=read_public_keys(public)).load_manifest("disc", second)


def test_one_of_several_trusted_keys_suffices(store, pair, tmp_path, republished):
    key, public = pair
    both = tmp_path / "both.pub"
    both.write_bytes(generate_key_pair()[1] + public.read_bytes())
    version = republished(sign_key=key)
    assert Store(store.root, trusted=read_public_keys(both)).load_manifest("disc", version).product == "disc"


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_that_holds_no_key_is_named(tmp_path, content):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(SettingsError, match="bad holds no usable"):
        read_public_keys(tmp_path / "bad")
    with pytest.raises(SettingsError, match="bad holds no usable"):
        read_private_key(tmp_path / "bad")


def test_the_manifest_itself_is_as_it_would_be_without_a_signature(store, pair, republished):
    key, _ = pair
    folder = store.version_folder("disc", republished(sign_key=key))
    assert SIGNATURE.encode() not in (folder / MANIFEST).read_bytes()
    assert len((folder / SIGNATURE).read_bytes()) == 64
