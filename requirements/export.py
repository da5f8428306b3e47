"""Write what each image installs, to the version, by what pip would take under the constraints; torch stays outside.

``constraints.txt`` is what the tests run on. ``service-gpu.txt`` differs from it by ONNX Runtime and brings CUDA's
libraries, which no machine without a GPU has installed.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
IMAGES = {"service-cpu": "cpu,otel,s3,sinks", "service-gpu": "gpu,otel,s3,sinks", "training": "cpu,mlflow,s3,train"}
# Our own wheel, and what is installed before everything else, with the one package that only it brings.
OUTSIDE = {"goodpart", "torch", "setuptools"}


def locked(extras: str, folder: Path) -> list[str]:
    """A line a package, sorted."""
    report = folder / "report.json"
    constraints = HERE / "constraints.txt"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    torch = f"torch=={version('torch')}"  # the build that is installed: another one has other needs
    required = [f"{HERE.parent}[{extras}]", *([torch] if "train" in extras.split(",") else [])]
    subprocess.run(  # noqa: S603  # our own command
        [*command, "--report", report, "--constraint", constraints, *required], check=True
    )
    found = [one["metadata"] for one in json.loads(report.read_text())["install"]]
    lines = [f"{one['name']}=={one['version']}" for one in found if one["name"].lower() not in OUTSIDE]
    return sorted(lines, key=str.lower)


def main() -> None:
    """Write every list."""
    with TemporaryDirectory() as folder:
        for image, extras in IMAGES.items():
            lines = locked(extras, Path(folder))
            (HERE / f"{image}.txt").write_text("\n".join(lines) + "\n")
            print(f"{image}: {len(lines)} packages")  # noqa: T201  # a program that prints


if __name__ == "__main__":
    main()
