"""The health check of a container, against real services."""

import subprocess

import pytest
from serving import GOODPART, Service

pytestmark = pytest.mark.processes

VARIABLES = {"PATH": "/usr/bin:/bin"}


def check(*arguments, port, **variables):
    command = [GOODPART, "health", *arguments]
    env = {**VARIABLES, "GOODPART_PORT": str(port), **variables}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    return done.returncode, done.stderr


def test_a_service_that_runs_and_is_ready_is_healthy(store_folder):
    with Service(store_folder) as service:
        assert check(port=service.port) == (0, "")
        assert check("--ready", port=service.port) == (0, "")


def test_a_service_without_a_product_is_healthy_and_not_ready(tmp_path):
    with Service(tmp_path) as service:
        assert check(port=service.port) == (0, "")
        code, said = check("--ready", port=service.port)
        assert code == 1
        assert "answers 503" in said
        assert "no product has a version that serves" in said


def test_where_nothing_listens_it_is_one_line():
    code, said = check(port=9)
    assert code == 1
    assert said == "goodpart: error: nothing answers at 127.0.0.1:9: [Errno 111] Connection refused\n"


def test_the_health_port_is_used_if_it_is_set():
    assert check(port=8, GOODPART_HEALTH_PORT="9")[1].startswith("goodpart: error: nothing answers at 127.0.0.1:9:")


def test_unknown_arguments_are_reported(store_folder):
    code, said = check("--livly", port=9)
    assert (code, said) == (2, "usage: goodpart health [--ready]\n")
    assert store_folder.is_dir()


def test_it_costs_little_since_it_imports_nothing_of_the_service():
    program = (
        "import sys; import app.cli.__main__; assert not {'onnxruntime', 'PIL', 'fastapi', 'click'} & set(sys.modules)"
    )
    python = GOODPART.with_name("python")
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
