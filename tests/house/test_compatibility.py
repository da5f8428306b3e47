"""What commit d39c80d accepted and answered still holds; ``compatibility/record.py`` recorded it with that code."""

import json
from pathlib import Path

import click
import pytest
from fastapi.testclient import TestClient

from app.cli.main import commands
from app.main import create_app
from app.settings import Settings, read_settings
from app.variables import read_train_variables
from training.settings import RETIRED, TrainSettings, list_settings, parse_settings, read_train_settings

RECORDED = Path(__file__).parent / "compatibility"
INTERFACE = json.loads((RECORDED / "interface.json").read_text())
ANSWERS = json.loads((RECORDED / "answers.json").read_text())
SETTINGS = INTERFACE["settings"]
# Members that differ from one answer to the next.
VARIABLE = {"at", "inspection_id", "request_id", "timings_ms"}
# Sentences for people; a program reads ``type`` and the number of warnings.
SENTENCES = {"detail", "warnings"}


@pytest.mark.parametrize("variable", INTERFACE["variables"], ids=lambda one: one["name"])
def test_a_recorded_variable_still_takes_effect(variable, monkeypatch):
    for name, value in {**variable["with"], variable["name"]: variable["value"]}.items():
        monkeypatch.setenv(name, value)
    value = getattr(read_settings(), variable["name"].removeprefix("GOODPART_").lower())
    text = value.get_secret_value() if hasattr(value, "get_secret_value") else value
    assert text == type(text)(variable["value"])


def find_command(words):
    """The command of these words, or None."""
    command = commands
    for word in words.split():
        command = command.get_command(click.Context(command), word)
    return command


@pytest.mark.parametrize("words", INTERFACE["options"])
def test_a_recorded_command_still_takes_its_options(words):
    recorded, command = INTERFACE["options"][words], find_command(words)
    for option in (one for one in recorded if one["kind"] == "option"):
        (now,) = [one for one in command.params if set(option["names"]) <= {*one.opts, *one.secondary_opts}]
        assert option["takes_a_value"] is not getattr(now, "is_flag", False)
        assert (now.nargs, now.multiple) == (option["nargs"], option["multiple"])
        assert set(option["choices"]) <= set(getattr(now.type, "choices", []))


@pytest.mark.parametrize("words", INTERFACE["options"])
def test_a_recorded_command_line_is_still_complete(words):
    recorded, command = INTERFACE["options"][words], find_command(words)
    required = {name for one in recorded if one["required"] for name in one["names"]}
    needed = [one for one in command.params if one.param_type_name == "option" and one.required]
    assert all(required & set(one.opts) for one in needed)
    arguments = [(one["nargs"], one["required"]) for one in recorded if one["kind"] == "argument"]
    now = [(one.nargs, one.required) for one in command.params if one.param_type_name == "argument"]
    assert now == arguments


def nest(name, value):
    """Settings in which the dotted name has a value."""
    outer, _, inner = name.rpartition(".")
    return {outer: {inner: value}} if outer else {inner: value}


def list_values(settings):
    """Every value by its dotted name."""
    found = {}
    for setting in list_settings():
        value = settings.model_dump(mode="json")
        for step in setting.name.split("."):
            value = value[step]
        found[setting.name] = value
    return found


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - RETIRED))
def test_a_recorded_setting_of_a_training_still_takes_effect(name):
    """By its value: the setting may have another name by now, and the recorded one as an alias."""
    default, found = list_values(TrainSettings()), list_values(parse_settings(nest(name, SETTINGS[name])))
    assert SETTINGS[name] in [value for current, value in found.items() if value != default[current]]


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_flags_and_variables_of_a_training_give_the_recorded_setting(name, monkeypatch):
    expected, text = parse_settings(nest(name, SETTINGS[name])), json.dumps(SETTINGS[name])
    assert read_train_settings(None, [f"{name}={text}"]) == expected
    monkeypatch.setenv(f"GOODPART_TRAIN_{name.upper().replace('.', '__')}", text)
    assert read_train_settings(None, variables=read_train_variables()) == expected


@pytest.mark.parametrize("name", sorted(RETIRED & set(SETTINGS)))
def test_a_retired_setting_of_a_training_is_accepted_and_ignored(name):
    assert parse_settings(nest(name, SETTINGS[name])) == TrainSettings()


@pytest.fixture
def client(store_folder, tmp_path):
    settings = Settings(store=store_folder, local=tmp_path / "local", threads=1, decoders=2, instance="line")
    with TestClient(create_app(settings)) as client:
        yield client


def send(client, request):
    """The response to a recorded request."""
    given = {name: request[name] for name in ("method", "headers", "params", "json") if name in request}
    if "body" in request:
        given["content"] = (RECORDED / request["body"]).read_bytes()
    if "files" in request:
        given["files"] = [("image", (name, (RECORDED / name).read_bytes())) for name in request["files"]]
    return client.request(**given, url=request["path"])


def compare(found, recorded, where):
    """Yield each path at which two answers differ."""
    if isinstance(found, dict) and isinstance(recorded, dict):
        for name in sorted({*found, *recorded} - VARIABLE):
            pair = found.get(name), recorded.get(name)
            yield from compare(*(map(hide_words, pair) if name in SENTENCES else pair), f"{where} {name}")
    elif isinstance(found, list) and isinstance(recorded, list) and len(found) == len(recorded):
        for index, pair in enumerate(zip(found, recorded, strict=True)):
            yield from compare(*pair, f"{where} {index}")
    elif found != recorded and not (isinstance(found, float) and found == pytest.approx(recorded, rel=1e-5)):
        yield f"{where}: {found!r}, recorded {recorded!r}"


def hide_words(text):
    """The same without the wording."""
    return [bool(one) for one in text] if isinstance(text, list) else bool(text)


def test_recorded_requests_are_answered_as_they_were(client):
    for recorded in ANSWERS:
        response = send(client, recorded["request"])
        where = f"{recorded['request']['method']} {recorded['request']['path']}"
        assert response.status_code == recorded["status"], where
        assert list(compare(response.json(), recorded["body"], where)) == []
