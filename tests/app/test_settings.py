from pathlib import Path

import pytest

from app.errors import SettingsError
from app.settings import Settings, is_loopback, read_settings


def test_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("GOODPART_STORE", "/srv/store")
    monkeypatch.setenv("GOODPART_PORT", "9000")
    settings = read_settings(port=9001)
    assert settings.store == Path("/srv/store")
    assert settings.port == 9001


def test_a_misspelt_variable_is_refused_with_the_nearest_one(monkeypatch):
    monkeypatch.setenv("GOODPART_MAX_PIXEL", "5")
    with pytest.raises(SettingsError, match="did you mean GOODPART_MAX_PIXELS"):
        read_settings()


def test_a_wrong_value_is_one_line(monkeypatch):
    monkeypatch.setenv("GOODPART_PORT", "many")
    with pytest.raises(SettingsError, match=r"^port: ") as caught:
        read_settings()
    assert "\n" not in str(caught.value)


def test_an_address_that_others_reach_is_refused_without_keys():
    with pytest.raises(SettingsError, match=r"0\.0\.0\.0 can be reached by others"):
        read_settings(host="0.0.0.0")  # noqa: S104  # which is the point
    assert read_settings(host="0.0.0.0", auth="off").auth == "off"  # noqa: S104  # which is the point


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])  # noqa: S104  # which is the point
def test_everything_else_is_not(host):
    assert not is_loopback(host)


def test_every_setting_has_a_sentence():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
