import pytest

from app.errors import SettingsError
from training.settings import TrainSettings, list_settings, read_train_settings


def test_defaults_are_valid_and_frozen():
    settings = read_train_settings(None)
    assert settings == TrainSettings()
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3


def test_yaml_is_overlaid_by_assignments_and_those_by_the_flag(tmp_path):
    config = tmp_path / "train.yaml"
    config.write_text("seed: 3\nheight: 128\nlearning:\n  num_steps: 7\n  batch_size: 4\n")
    settings = read_train_settings(config, ["height=192", "learning.num_steps=9"], quick=True)
    assert (settings.seed, settings.height, settings.quick) == (3, 192, True)
    assert (settings.learning.num_steps, settings.learning.batch_size) == (9, 4)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("sed=3", "unknown setting 'sed'; did you mean seed?"),
        ("learning.steps=3", "unknown setting 'learning.steps'; did you mean learning.num_steps?"),
        ("zzzzqqqq=3", "unknown setting 'zzzzqqqq'$"),
        ("height=100", "height: Input should be a multiple of 32"),
        ("height", "NAME=VALUE"),
        ("height.x=3", "Input should be a valid integer"),
        ("teacher=vgg", "no teacher is called 'vgg'"),
        ("strides=[16,2]", "no tap at stride 2"),
        ("strides=[16,16]", "named twice"),
        ("map_stride=512", "fewer than 8 x 8"),
        ("false_alarm_rate=0", "greater than 0"),
        ("seed=[", "seed"),
        ("preset=finest", "preset: Input should be 'default', 'fast' or 'best'"),
    ],
)
def test_a_wrong_setting_is_one_line(assignment, message):
    with pytest.raises(SettingsError, match=message) as caught:
        read_train_settings(None, [assignment])
    assert "\n" not in str(caught.value)


def test_a_preset_changes_defaults_and_what_is_set_goes_before_it():
    best = read_train_settings(None, ["preset=best"])
    assert (best.preset, best.teacher) == ("best", "efficientnet_lite2")
    assert read_train_settings(None, ["preset=best", "teacher=efficientnet_lite1"]).teacher == "efficientnet_lite1"


@pytest.mark.parametrize("text", ["- a list", "a: b: c", "\t"])
def test_a_config_that_is_none_is_one_line(tmp_path, text):
    config = tmp_path / "train.yaml"
    config.write_text(text)
    with pytest.raises(SettingsError, match=r"train\.yaml") as caught:
        read_train_settings(config)
    assert "\n" not in str(caught.value)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"absent\.yaml"):
        read_train_settings(tmp_path / "absent.yaml")


def test_variables_lie_over_the_file_and_under_the_flags(tmp_path):
    config = tmp_path / "train.yaml"
    config.write_text("seed: 3\nheight: 128\nlearning: {num_steps: 7}\n")
    variables = {"height": "192", "learning__num_steps": "8", "width": "128"}
    settings = read_train_settings(config, ["width=320"], variables=variables)
    assert (settings.seed, settings.height, settings.width, settings.learning.num_steps) == (3, 192, 320, 8)


def test_variables_are_read_as_yaml_and_unknown_ones_are_refused():
    variables = {"inspect": "[{x: 0.1, y: 0, width: 0.5, height: 1}]", "taps": "{16: 3}"}
    settings = read_train_settings(None, variables=variables)
    assert (settings.inspect[0].x, settings.taps) == (0.1, {16: 3})
    with pytest.raises(SettingsError, match="unknown setting 'sed'; did you mean seed"):
        read_train_settings(None, variables={"sed": "3"})


def test_retired_settings_are_dropped():
    variables = {"learning__usual_weight": "1"}
    assert read_train_settings(None, ["later_score_weight=2"], variables=variables) == TrainSettings()


def test_old_names_are_accepted_from_every_source_and_keep_its_precedence(tmp_path):
    config = tmp_path / "train.yaml"
    config.write_text("learning: {least_gain: 0.1, look_interval: 7}\n")

    def read(*assignments, **variables):
        learning = read_train_settings(config, assignments, variables=variables).learning
        return learning.min_delta, learning.eval_interval

    assert read() == (0.1, 7)
    assert read(learning__least_gain="0.2", learning__eval_interval="8") == (0.2, 8)
    assert read("learning.min_delta=0.3", "learning.look_interval=9", learning__least_gain="0.2") == (0.3, 9)
    config.write_text("learning: {min_delta: 0.1, eval_interval: 7}\n")
    assert read("learning.least_gain=0.4", learning__look_interval="8") == (0.4, 8)


def test_weights_trained_under_old_names_can_be_loaded():
    written = TrainSettings.model_validate_json('{"learning": {"least_gain": 0.1, "look_interval": 7}}')
    assert (written.learning.min_delta, written.learning.eval_interval) == (0.1, 7)


def test_every_setting_has_a_sentence():
    known = list(list_settings())
    assert {"seed", "learning.patience", "gate.synthetic_margin"} <= {setting.name for setting in known}
    assert all(setting.description.endswith(".") for setting in known)


def test_reports_show_addresses_without_their_secrets():
    settings = read_train_settings(None, ["mlflow_uri=https://ann:token@host:5000/api?key=1", "teacher_weights=a.pth"])
    assert settings.to_report()["mlflow_uri"] == "https://host:5000/api"
    assert settings.to_report()["teacher_weights"] == "a.pth"
    assert settings.mlflow_uri.endswith("key=1")


def test_the_input_is_larger_where_every_side_of_the_images_is():
    settings = TrainSettings()
    assert [settings.fit_to_images(size).height for size in ((320, 320), (319, 900), (4000, 3000))] == [320, 256, 320]
    assert settings.fit_to_images((320, 320)).map_size == (80, 80)


@pytest.mark.parametrize("given", [["height=256", "width=256"], ["preset=fast"], ["quick=true"]])
def test_an_input_size_that_was_set_is_kept_and_so_is_that_of_quick_trainings(given):
    settings = read_train_settings(None, given)
    assert settings.fit_to_images((4000, 3000)) == settings
