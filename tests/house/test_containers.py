"""What must hold of the images and of Compose, and no linter knows."""

import json
import re
import tomllib
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.api.routes import health
from app.cli.health import PATHS
from app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE_FILES = ("docker-compose.yml", "docker/compose.gpu.yaml")
PAGES = ("Dockerfile", *COMPOSE_FILES, "docs/containers.md")
SERVICE_STAGES = ("service-cpu", "service-gpu")
STAGES = (*SERVICE_STAGES, "training")
USER_ID = "10001"


def instructions(text):
    """Each instruction of a Dockerfile as (word, rest), comments gone and continued lines joined."""
    uncommented = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    joined = uncommented.replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def stages(text):
    """What each stage of a Dockerfile does itself, and what it is made from, by its name."""
    found = {}
    for word, rest in instructions(text):
        if word == "FROM":
            parent, _, name = rest.split()
            found[name] = (parent, [])
        elif found:
            found[name][1].append((word, rest))
    return MappingProxyType(found)


BUILT = stages(DOCKERFILE)


def whole(name):
    """A stage's instructions after those of every stage that it is made from."""
    if name not in BUILT:
        return []
    parent, own = BUILT[name]
    return [*whole(parent), *own]


def last(name, word):
    """What a stage says by an instruction of which the last one counts."""
    return [rest for found, rest in whole(name) if found == word][-1]


def environment(name):
    """A stage's variables."""
    words = " ".join(rest for word, rest in whole(name) if word == "ENV").split()
    return dict(word.split("=", 1) for word in words)


def compose(name="docker-compose.yml"):
    return yaml.safe_load((ROOT / name).read_text())


def list_copied():
    """The paths that the Dockerfile takes from the folder that it is built in."""
    own = [rest.split() for _, done in BUILT.values() for word, rest in done if word == "COPY" and "--from" not in rest]
    return {source for words in own for source in words[:-1]}


def torch_release(text):
    """The only release of torch that a text names."""
    (release,) = set(re.findall(r"torch==([\d.]+)", text))
    return release


@pytest.mark.parametrize("stage", STAGES)
def test_the_stages_of_the_design_exist(stage):
    assert stage in BUILT


def test_the_base_image_is_a_build_argument_with_a_pinned_tag():
    (default,) = [rest for word, rest in instructions(DOCKERFILE) if word == "ARG" and rest.startswith("PYTHON_IMAGE=")]
    assert re.fullmatch(r"PYTHON_IMAGE=python:\d+\.\d+\.\d+-slim-\w+", default)
    outside = {parent for parent, _ in BUILT.values()} - set(BUILT)
    assert outside == {"${PYTHON_IMAGE}"}


def test_the_base_image_has_a_python_that_the_project_runs_on():
    (found,) = re.findall(r"PYTHON_IMAGE=python:(\d+)\.(\d+)", DOCKERFILE)
    least = re.findall(r"\d+", PROJECT["project"]["requires-python"])
    assert tuple(map(int, found)) >= tuple(map(int, least))


def list_packages(image):
    """The packages of an image's list, by name."""
    lines = (ROOT / f"requirements/{image}.txt").read_text().splitlines()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def list_requirements(*extras):
    """What the project asks for, with these extras."""
    project = PROJECT["project"]
    required = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    return [Requirement(one) for one in required]


EXTRAS = {
    "service-cpu": ("cpu", "otel", "s3", "sinks"),
    "service-gpu": ("gpu", "otel", "s3", "sinks"),
    "training": ("cpu", "mlflow", "s3", "train"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_image_installs_its_list(stage):
    (install,) = [rest for word, rest in whole(stage) if word == "RUN" and "--requirement" in rest]
    assert re.findall(r"--requirement (\S+)", install) == [f"/requirements/{stage}.txt"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_list_has_the_versions_that_the_tests_run_on(stage):
    tested = list_packages("constraints")
    own = {name for name in list_packages(stage) if name.startswith("nvidia-") or name == "onnxruntime-gpu"}
    assert {
        name: version for name, version in list_packages(stage).items() if tested.get(name) != version
    }.keys() == own
    assert bool(own) == (stage == "service-gpu")


@pytest.mark.parametrize("stage", STAGES)
def test_every_list_has_what_the_project_allows(stage):
    found = list_packages(stage)
    for requirement in list_requirements(*EXTRAS[stage]):
        if requirement.name != "torch":
            assert found[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("stage", SERVICE_STAGES)
def test_the_services_images_have_no_torch_and_no_training_packages(stage):
    assert not {"torch", "onnx", "onnxscript", "scikit-learn", "scipy", "matplotlib"} & set(list_packages(stage))
    for _, rest in whole(stage):
        assert "torch" not in rest.lower()


def test_torch_is_installed_before_everything_that_could_pull_it():
    first = next(rest for word, rest in whole("training") if word == "RUN" and "pip install" in rest)
    assert first.endswith("${TORCH}")


def test_torch_is_one_release_in_makefile_dockerfile_and_compose():
    releases = {torch_release((ROOT / name).read_text()) for name in ("Makefile", "Dockerfile", COMPOSE_FILES[1])}
    assert len(releases) == 1


def test_the_dockerfiles_torch_is_the_one_that_the_makefile_names_for_machines_without_a_gpu():
    (default,) = [rest for word, rest in BUILT["training"][1] if word == "ARG"]
    assert f"make setup {default}" in MAKEFILE


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_runs_as_root(stage):
    assert last(stage, "USER") == f"{USER_ID}:{USER_ID}"


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_is_goodpart_without_a_shell(stage):
    assert json.loads(last(stage, "ENTRYPOINT")) == ["goodpart"]


def test_the_service_serves_to_outside_its_container_and_training_explains_itself():
    for stage in SERVICE_STAGES:
        assert json.loads(last(stage, "CMD")) == ["serve", "--host", "0.0.0.0"]  # noqa: S104  # the container's port
    assert json.loads(last("training", "CMD")) == ["train", "--help"]


@pytest.mark.parametrize("stage", STAGES)
def test_no_image_switches_authentication_off(stage):
    assert f"{PREFIX}AUTH" not in environment(stage)


def test_the_gpu_image_asks_for_cuda():
    assert environment("service-gpu")[f"{PREFIX}PROVIDER"] == "cuda"
    assert f"{PREFIX}PROVIDER" not in environment("service-cpu")


def test_the_port_is_the_same_in_image_settings_and_compose():
    port = str(Settings.model_fields["port"].default)
    assert environment("service")[f"{PREFIX}PORT"] == port
    assert last("service", "EXPOSE") == port
    (published,) = compose()["services"]["service"]["ports"]
    assert published.rpartition(":")[2] == port


def test_health_checks_are_the_programs_own():
    assert json.loads(last("service", "HEALTHCHECK").partition(" CMD ")[2]) == ["goodpart", "health"]
    assert compose()["services"]["service"]["healthcheck"]["test"] == ["CMD", "goodpart", "health", "--ready"]
    paths = {route.path for route in health.router.routes}
    assert set(PATHS.values()) <= paths


def test_code_is_copied_after_the_packages_are_installed():
    for stage in STAGES:
        done = whole(stage)
        install = next(index for index, (_, rest) in enumerate(done) if "--requirement" in rest)
        code = next(index for index, (_, rest) in enumerate(done) if rest.startswith("--from=wheel"))
        assert install < code


def test_what_is_copied_is_what_the_ignore_file_lets_through():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == list_copied()
    assert all((ROOT / path).exists() for path in list_copied())


def test_every_package_of_the_wheel_is_copied():
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= list_copied()


@pytest.mark.parametrize("page", PAGES)
def test_every_variable_of_ours_is_a_setting(page):
    named = set(re.findall(rf"{PREFIX}([A-Z][A-Z_]*)", (ROOT / page).read_text()))
    assert named - {"TRAIN_"} <= {name.upper() for name in Settings.model_fields}  # the trainer's own begin so


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_every_target_of_compose_is_a_stage(name):
    for service in compose(name)["services"].values():
        assert service["build"].get("target", STAGES[0]) in STAGES


def test_the_gpu_override_changes_services_that_are_there():
    assert set(compose(COMPOSE_FILES[1])["services"]) <= set(compose()["services"])


def test_training_is_a_job_that_only_its_profile_starts():
    train = compose()["services"]["train"]
    assert train["profiles"] == ["train"]
    assert "restart" not in train
    assert "profiles" not in compose()["services"]["service"]


def test_authentication_is_off_only_where_the_port_is_on_loopback():
    service = compose()["services"]["service"]
    assert service["environment"] == {f"{PREFIX}AUTH": "off", f"{PREFIX}STATE": "/state"}
    (published,) = service["ports"]
    assert published.startswith("127.0.0.1:")
    assert "ports" not in compose(COMPOSE_FILES[1])["services"]["service"]


@pytest.mark.parametrize("name", ["service", "train"])
def test_a_container_may_write_to_nothing_but_its_volume_and_tmp(name):
    service = compose()["services"][name]
    assert service["read_only"]
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108  # a path in the container
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    writable = {volume for volume in service["volumes"] if not (isinstance(volume, dict) and volume["read_only"])}
    places = {name: environment("base")[PREFIX + name.upper()] for name in ("store", "local")}
    places["state"] = service["environment"][f"{PREFIX}STATE"]
    expected = {"service": {"state", "local"}, "train": {"store", "state"}}[name]
    assert {volume for volume in writable if not volume.endswith(":ro")} == {f"{one}:{places[one]}" for one in expected}


def test_the_service_reads_the_store_that_training_writes():
    assert "store:/store:ro" in compose()["services"]["service"]["volumes"]
    assert "store:/store" in compose()["services"]["train"]["volumes"]
    assert list(compose()["volumes"]) == ["store", "state", "local"]
