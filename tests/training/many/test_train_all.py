"""A plan of products: trained one after another, each on its own, and not again."""

import json

import pytest
import yaml
from commands import goodpart
from drawing import write_mvtec

from app.errors import SettingsError
from app.store.state import State
from app.store.store import Store
from training.many.plan import merge_settings, read_plan

SETTINGS = {"height": 64, "width": 64, "num_recall_items": 200, "false_alarm_rate": 0.06, "quick": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    write_mvtec(folder / "disc", num_train=60, num_test=1)
    return folder


def write_plan(folder, **products):
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"store": "store", "settings": SETTINGS, "products": products}))
    return path


def run(path):
    told = path.with_name("told.json")
    done = goodpart("train-all", path, "--json", told)
    return done, {one["product"]: one for one in json.loads(told.read_text())}


@pytest.mark.slow
def test_a_product_is_trained_whatever_becomes_of_the_others_and_not_again(folder):
    done, told = run(write_plan(folder, absent={"data": "absent"}, disc={"data": "disc"}))
    assert (done.returncode, told["absent"]["what"], told["disc"]["what"]) == (1, "failed", "serves")
    assert "absent" in told["absent"]["why"]
    store, version = Store(folder / "store"), told["disc"]["version"]
    assert store.list_versions("disc") == [version]
    assert State(folder / "store" / "state").read_current("disc").version == version
    assert version in done.stdout
    done, told = run(write_plan(folder, disc={"data": "disc"}))
    assert (done.returncode, told["disc"]["what"], told["disc"]["version"]) == (0, "made already", version)
    assert store.list_versions("disc") == [version]


def test_a_product_overrides_a_setting_of_the_plan_by_either_name(folder):
    path = write_plan(folder, new={"data": "disc", "settings": {"learning": {"least_gain": 0.2}}})
    plan = yaml.safe_load(path.read_text())
    plan["settings"]["learning"] = {"min_delta": 0.1, "look_interval": 7}
    path.write_text(yaml.safe_dump(plan))
    learning = read_plan(path).get_settings("new").learning
    assert (learning.min_delta, learning.eval_interval) == (0.2, 7)


def test_a_plan_is_looked_at_before_anything_is_trained(folder):
    bad = {"setting": {"data": "disc", "settings": {"num_recal_items": 3}}, "member": {"dat": "disc"}}
    for product, entry in bad.items():
        with pytest.raises(SettingsError) as raised:
            read_plan(write_plan(folder, **{product: entry}))
        assert product in str(raised.value)
    with pytest.raises(SettingsError, match="Upper"):
        read_plan(write_plan(folder, Upper={"data": "disc"}))
    (folder / "plan.yaml").write_text("products: [1")
    with pytest.raises(SettingsError):
        read_plan(folder / "plan.yaml")


def test_paths_count_from_the_plan_and_a_product_s_settings_go_first(folder):
    plan = read_plan(write_plan(folder, disc={"data": "disc", "settings": {"height": 96}}))
    assert plan.products["disc"].data == folder / "disc"
    assert plan.store == str(folder / "store")
    settings = plan.get_settings("disc")
    assert (settings.height, settings.width) == (96, 64)
    assert merge_settings({"learning": {"num_steps": 1, "seed": 2}}, {"learning": {"num_steps": 5}}) == {
        "learning": {"num_steps": 5, "seed": 2}
    }
