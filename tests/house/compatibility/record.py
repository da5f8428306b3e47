"""Records at commit d39c80d what later versions must accept and answer; ``test_compatibility.py`` reads the result.

Run it with the code of that commit: ``git worktree add OLD d39c80d && PYTHONPATH=OLD:OLD/tests python record.py OLD``.
It writes ``interface.json`` (variables, options, settings), ``answers.json`` and the images sent beside itself.
"""

import importlib
import json
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from drawing import defective_part, good_part
from fastapi.testclient import TestClient
from pydantic_core import to_jsonable_python

from app.cli import commands
from app.main import create_app
from app.settings import Settings, read_settings
from training.settings import known_settings, settings_of

HERE = Path(__file__).parent
PRODUCT = "/v1/products/disc"
PNG = {"content-type": "image/png"}
# Valid values that are not the default, by service setting.
SERVICE = {
    "store": "parts", "state": "shared", "local": "mine", "most_copied_gib": "3", "host": "::1", "port": "9000",
    "auth": "off", "provider": "cpu", "threads": "3", "decoders": "5", "drain_s": "7", "grace_s": "9",
    "max_in_hand": "10", "max_batch": "2", "max_queue_delay_ms": "4", "deadline_ms": "500",
    "max_upload_bytes": "5000", "max_batch_upload_bytes": "6000", "max_batch_images": "6", "max_pixels": "70000",
    "input_guard": "warn", "max_loaded_products": "8", "drift_window": "90", "drift_false_alarm_rate": "0.01",
    "drift_defect_share": "0.1", "api_keys_file": "keys.txt", "api_keys": "a line", "require_signature": "keys.pem",
    "tls_cert": "cert.pem", "tls_key": "key.pem", "health_port": "9001", "max_header_bytes": "2048",
    "header_timeout_s": "11", "body_timeout_s": "12", "max_connections": "13", "log_format": "console",
    "log_level": "debug", "history_records": "14", "history_days": "15", "keep_images": "ng", "images_mb": "16",
    "sinks_file": "sinks.toml", "instance": "line-1", "otel_endpoint": "http://collector:4318",
    "refresh_interval_s": "17",
}  # fmt: skip
TOGETHER = {"tls_cert": {"GOODPART_TLS_KEY": "key.pem"}, "tls_key": {"GOODPART_TLS_CERT": "cert.pem"}}
# The same for the settings of a training.
RECTANGLE = {"x": 0.1, "y": 0.2, "width": 0.3, "height": 0.4}
TRAINING = {
    "preset": "best", "teacher": "efficientnet_lite1", "teacher_weights": "net.pt", "teacher_sha256": "a" * 64,
    "strides": [8, 16], "taps": {"8": 3}, "height": 320, "width": 352, "fit": "letterbox", "white_level": 4095,
    "allow_odd_sizes": True, "inspect": [RECTANGLE], "ignore": [RECTANGLE], "num_recall_items": 100,
    "num_candidates": 200, "num_read_items": 3, "num_adaptive_items": 7, "temperature": 0.5, "regularisation": 0.7,
    "map_stride": 8, "smoothing_sigma": 1.5, "later_score_weight": 0.6, "top_share": 0.2, "false_alarm_rate": 0.05,
    "quick": True, "memory.num_steps": 11, "memory.batch_size": 12, "memory.learning_rate": 0.11,
    "memory.query_learning_rate": 0.12, "memory.learn_values": False, "memory.normality_weight": 0.13,
    "memory.orthogonality_weight": 0.14, "memory.num_orthogonal_keys": 15, "learning.num_steps": 21,
    "learning.batch_size": 22, "learning.learning_rate": 0.21, "learning.weight_decay": 0.22,
    "learning.hardness": 0.23, "learning.usual_weight": 0.24, "learning.look_interval": 25, "learning.patience": 26,
    "learning.least_gain": 0.27, "learning.mixed_precision": False, "gate.significance": 0.31,
    "gate.synthetic_margin": 0.32, "seed": 41, "device": "cpu", "max_pixels": 42000, "feature_memory_gib": 0.43,
    "num_workers": 44, "data_licence": "CC0", "tracking": "mlflow", "mlflow_uri": "http://tracking:5000",
    "checkpoint_interval_s": 45.0,
}  # fmt: skip
GOOD, DEFECTIVE = "good.png", "defective.png"
# ``body``: a file beside this one; ``files``: such files, as the parts of a form.
REQUESTS = (
    {"method": "POST", "path": f"{PRODUCT}/inspect", "body": GOOD, "headers": PNG, "params": {"part_id": "p7"}},
    {"method": "POST", "path": f"{PRODUCT}/inspect", "body": DEFECTIVE, "headers": PNG,
     "params": {"heatmap": "png", "explain": "true"}},
    {"method": "POST", "path": f"{PRODUCT}/inspect", "body": DEFECTIVE, "headers": PNG, "params": {"heatmap": "raw"}},
    {"method": "POST", "path": f"{PRODUCT}/inspect", "body": "interface.json", "headers": PNG},
    {"method": "POST", "path": f"{PRODUCT}/inspect", "body": GOOD, "headers": PNG, "params": {"heatmap": "blue"}},
    {"method": "POST", "path": "/v1/products/ring/inspect", "body": GOOD, "headers": PNG},
    {"method": "PUT", "path": f"{PRODUCT}/threshold", "json": {"false_alarm_rate": 0.1, "by": "me", "why": "a try"}},
    {"method": "POST", "path": f"{PRODUCT}/inspect", "body": DEFECTIVE, "headers": PNG},
    {"method": "GET", "path": PRODUCT},
    {"method": "GET", "path": f"{PRODUCT}/versions"},
    {"method": "GET", "path": f"{PRODUCT}/threshold/preview", "params": {"false_alarm_rate": 0.2}},
    {"method": "GET", "path": "/v1/products"},
    {"method": "GET", "path": "/v1/inspections"},
    {"method": "GET", "path": "/v2/models/disc"},
    {"method": "GET", "path": "/readyz"},
    # Last: the images of a batch enter the history in the order in which they are done.
    {"method": "POST", "path": f"{PRODUCT}/inspect/batch", "files": [GOOD, DEFECTIVE]},
)  # fmt: skip


def main() -> None:
    """Write both files."""
    old = Path(sys.argv[1])
    interface = {"variables": record_variables(), "options": record_options(old), "settings": record_settings()}
    write("interface.json", interface)
    for name, picture in ((GOOD, good_part(7)), (DEFECTIVE, defective_part(7))):
        picture.save(HERE / name)
    write("answers.json", list(record_answers(old / "tests" / "fixtures" / "format1")))


def write(name: str, content: object) -> None:
    """Write JSON beside this file."""
    (HERE / name).write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def record_variables() -> list[dict[str, Any]]:
    """Return each variable with the values that were read."""
    defaults = Settings()
    return [read_variable(name, defaults) for name in Settings.model_fields]


def read_variable(name: str, defaults: Settings) -> dict[str, Any]:
    """Return a variable, a valid value, and the variables that it needs."""
    together = TOGETHER.get(name, {})
    os.environ |= {f"GOODPART_{name.upper()}": SERVICE[name], **together}
    read = read_settings()
    for variable in (f"GOODPART_{name.upper()}", *together):
        del os.environ[variable]
    if getattr(read, name) == getattr(defaults, name):
        raise ValueError(name)
    return {"name": f"GOODPART_{name.upper()}", "value": SERVICE[name], "with": together}


def record_options(old: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the parameters of each command by its words."""
    project = tomllib.loads((old / "pyproject.toml").read_text())["project"]
    added = {name: load(entry) for name, entry in project["entry-points"]["goodpart.commands"].items()}
    return dict(sorted(walk({**commands.commands, **added})))


def load(entry: str) -> click.Command:
    """Return the command of an entry point."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def walk(group: dict[str, click.Command], prefix: str = "") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield each command's words and parameters."""
    for name, command in group.items():
        if isinstance(command, click.Group):
            yield from walk(command.commands, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", [describe(one) for one in command.params]


def describe(parameter: click.Parameter) -> dict[str, Any]:
    """Return what a caller must know of an option or argument."""
    return {
        "kind": parameter.param_type_name,
        "names": [*parameter.opts, *parameter.secondary_opts] if parameter.param_type_name == "option" else [],
        "takes_a_value": not getattr(parameter, "is_flag", False),
        "nargs": parameter.nargs,
        "multiple": parameter.multiple,
        "required": parameter.required,
        "choices": list(getattr(parameter.type, "choices", [])),
    }


def record_settings() -> dict[str, Any]:
    """Return a valid value for each setting of a training."""
    for setting in known_settings():
        value = TRAINING[setting.name]
        outer, _, name = setting.name.rpartition(".")
        read = to_jsonable_python(settings_of({outer: {name: value}} if outer else {name: value}))
        found = read[outer][name] if outer else read[name]
        if found != value or found == to_jsonable_python(setting.default):
            raise ValueError(setting.name)
    return TRAINING


def record_answers(fixture: Path) -> Iterator[dict[str, Any]]:
    """Yield each request with its answer."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(shutil.copytree(fixture, Path(folder) / "store"))
        app = create_app(Settings(store=store, local=Path(folder) / "local", threads=1, decoders=2, instance="line"))
        with TestClient(app) as client:
            for request in REQUESTS:
                response = client.request(**prepare(request))
                yield {"request": request, "status": response.status_code, "body": response.json()}


def prepare(request: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the client's ``request``."""
    given = {name: request[name] for name in ("method", "headers", "params", "json") if name in request}
    if "body" in request:
        given["content"] = (HERE / request["body"]).read_bytes()
    if "files" in request:
        given["files"] = [("image", (Path(name).name, (HERE / name).read_bytes())) for name in request["files"]]
    return {**given, "url": request["path"]}


if __name__ == "__main__":
    main()
