"""The real images, built and run without a Docker engine: do they do what the Dockerfile and Compose promise?

Buildah builds the Dockerfile over a base that debootstrap makes (both from Debian), with the environment's own settings
of pip. The service's image then runs as its user on a root that is read-only, while the training image publishes a
second version into the store that both share. Needs root. Writes sizes, seconds, and what the service does not need.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from posting import Load

from training.demo.demo import find_free_port

ROOT = Path(__file__).parents[1]
BASE = "localhost/goodpart-stand-in"
SUITE = "bookworm"  # whose Python is the one that the tests run on
PACKAGES = "python3,python3-pip,ca-certificates"
BUILDAH = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}
PROXIES = ("http_proxy", "https_proxy", "no_proxy")
PRODUCT = "flange"
SMALL = ("height=96", "width=96", "num_recall_items=500", "false_alarm_rate=0.1")
PATIENCE_S = 180


class Missing(Exception):
    """Something that this program needs."""


def main() -> None:
    """Build, run, print, write JSON; exit code 1 where a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", default="torch==2.13.0", help="what the training image installs first")
    parser.add_argument("--base", help="an image to build on, in place of one made by debootstrap")
    parser.add_argument("--gpu", action="store_true", help="build service-gpu too: it takes some 20 GB of disk")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    check_machine()
    figures: dict[str, object] = {}
    with TemporaryDirectory(prefix="goodpart-images-") as folder:
        work = Path(folder)
        base = given.base or time_step(figures, "base_s", made_base, work)
        for stage in ("service-cpu", "training", *(["service-gpu"] if given.gpu else [])):
            time_step(
                figures, f"{to_member_name(stage)}_build_s", build, stage, base=base, torch=given.torch, work=work
            )
            figures[f"{to_member_name(stage)}_mb"] = size_mb(stage)
        figures["base_mb"] = size_mb(base)
        figures |= run_both(work)
        if given.gpu:
            figures["service_gpu_without_a_gpu"] = refusal_of_gpu()
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    if given.json:
        given.json.write_text(text)
    promises = ("read_only_root", "version_taken_up", "healthy")
    if (
        not all(figures[one] for one in promises)
        or figures["torch_in_service"]
        or figures["failed"]
        or figures["exit_code"]
    ):
        raise SystemExit(1)


def check_machine() -> None:
    """Raise Missing in one line."""
    lacking = [tool for tool in ("buildah", "debootstrap", "unshare") if shutil.which(tool) is None]
    if lacking:
        raise Missing(f"{', '.join(lacking)}: apt-get install buildah debootstrap util-linux")
    if os.geteuid() != 0:
        raise Missing("root: mounts and users of images take it")


def made_base(work: Path) -> str:
    """An image that stands in for python's slim one: Debian's smallest, with Python and pip."""
    root = work / "base"
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, root)
    (root / "usr/bin/python").symlink_to("python3")
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()  # python's own image has no system packages that pip could harm
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
    container = buildah("from", "scratch").strip()
    buildah("copy", "--quiet", container, root, "/")
    buildah("commit", "--quiet", "--rm", container, BASE)
    shutil.rmtree(root)
    return BASE


def build(stage: str, *, base: str, torch: str, work: Path) -> None:
    """Build a stage of the real Dockerfile."""
    proxies = [f"--build-arg={name}={value}" for name, value in os.environ.items() if name.lower() in PROXIES]
    buildah(
        "build", "--quiet", "--format=docker", "--network=host", f"--target={stage}", f"--tag=goodpart:{stage}",
        f"--build-arg=PYTHON_IMAGE={base}", f"--build-arg=TORCH={torch}", *proxies, *pip_volumes(work), ROOT,
    )  # fmt: skip


def pip_volumes(work: Path) -> list[str]:
    """Pip's configuration on this machine, for builds on it: its settings as a file, and the files that these name."""
    listed = run(sys.executable, "-m", "pip", "config", "list")
    settings = dict(re.findall(r"^[\w:]*\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    config = work / "pip.conf"
    config.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in settings.items())]) + "\n")
    words = [word.removeprefix("file://") for value in settings.values() for word in value.split()]
    places = {Path(word) for word in words if word.startswith("/") and Path(word).exists()}
    # An index of files links to folders beside it.
    places = {place.parent if place.name == "simple" else place for place in places}
    return [f"--volume={config}:/etc/pip.conf:ro", *(f"--volume={place}:{place}:ro" for place in sorted(places))]


@dataclass
class Container:
    """A container of an image, mounted: ``root`` is its file system, ``config`` what the image says of itself."""

    name: str
    root: Path
    config: Mapping[str, object]

    def command(self, arguments: list[str], *, volumes: Mapping[str, tuple[Path, bool]], **variables: str) -> list[str]:
        """Run its program as its user on a read-only root. ``volumes``: place in it, folder here, and if writable."""
        root = shlex.quote(str(self.root))
        mounts = [f"mount --bind {root} {root}", f"mount -o remount,bind,ro {root}"]
        for place, (folder, is_writable) in volumes.items():
            mounts.append(f"mount --bind {shlex.quote(str(folder))} {root}{place}")
            if not is_writable:
                mounts.append(f"mount -o remount,bind,ro {root}{place}")
        mounts += [
            f"mount -t tmpfs tmpfs {root}/tmp",  # noqa: S108
            f"mount --rbind /dev {root}/dev",
            f"mount -t proc proc {root}/proc",
        ]
        environment = [*self.config.get("Env", ()), *(f"{name}={value}" for name, value in variables.items())]
        words = ["env", "-i", *environment, *arguments]
        inside = f"exec chroot --userspec={self.config['User']} {root} {shlex.join(words)}"
        return ["unshare", "--mount", "--propagation=private", "sh", "-euc", "\n".join([*mounts, inside])]


@contextmanager
def run_container(stage: str) -> Iterator[Container]:
    """Yield a container, removed at the end."""
    name = buildah("from", "--pull-never", f"goodpart:{stage}").strip()
    try:
        described = json.loads(buildah("inspect", "--type=image", f"goodpart:{stage}"))
        root = Path(buildah("mount", name).strip())
        yield Container(name, root, described["Docker"]["config"])
    finally:
        buildah("rm", name)


@dataclass
class Trial:
    """Both images over folders that they share, as volumes of an engine would be; ``figures``: what was found."""

    service: Container
    training: Container
    work: Path
    figures: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work.chmod(0o755)
        for name in ("data", "store", "state", "local"):
            (self.work / name).mkdir()
            os.chown(self.work / name, 10001, 10001)

    def run(self) -> dict[str, object]:
        """Train with one image, serve with the other, train again, and see what becomes of requests and versions."""
        draw = [*entry(self.training), "sample-data", "/work/flange"]
        run(*self.training.command(draw, volumes={"/work": (self.work / "data", True)}))
        first = time_step(self.figures, "train_s", self.train, 0)
        image = next((self.work / "data/flange/test/good").iterdir()).read_bytes()
        port = find_free_port()
        load = Load(f"127.0.0.1:{port}", PRODUCT, image)
        variables = {"GOODPART_PORT": str(port), "GOODPART_AUTH": "off", "GOODPART_STATE": "/state"}
        volumes = {"/store": (self.work / "store", False)} | {
            f"/{name}": (self.work / name, True) for name in ("state", "local")
        }
        command = [*entry(self.service), *self.service.config["Cmd"]]
        began = time.monotonic()
        with subprocess.Popen(
            self.service.command(command, volumes=volumes, **variables), stderr=subprocess.DEVNULL
        ) as process:
            try:
                health = [*entry(self.service), "health", "--ready"]
                wait(lambda: succeeds(self.service.command(health, volumes={}, **variables)))
                self.figures["ready_after_s"] = round(time.monotonic() - began, 1)
                self.take_up(load, first)
                check = self.service.config["Healthcheck"]["Test"]
                self.figures["health_check"] = check[1:]
                self.figures["healthy"] = succeeds(self.service.command(check[1:], volumes={}, **variables))
                process.terminate()
                self.figures["exit_code"] = process.wait(PATIENCE_S)
            finally:
                process.kill()
        return self.figures | check_service_image(self.service)

    def train(self, seed: int) -> str:
        """A version, by the training image."""
        chosen = [word for setting in (*SMALL, f"seed={seed}") for word in ("--set", setting)]
        words = ["train", "--quick", "--data", "/work", "--product", PRODUCT, "--force", "image test", *chosen]
        volumes = {f"/{name}": (self.work / name, True) for name in ("store", "state")}
        volumes["/work"] = (self.work / "data/flange", False)
        command = self.training.command([*entry(self.training), *words], volumes=volumes, GOODPART_STATE="/state")
        return run(*command).strip()

    def take_up(self, load: Load, first: str) -> None:
        """Publish a second version while a client asks."""
        client = load.start()
        second = self.train(1)
        wait(lambda: load.answers and load.answers[-1].version == second)
        load.ends.set()
        client.join()
        self.figures |= {
            "version_taken_up": first in load.versions and first != second,
            "requests": load.num_requests,
            "failed": len(load.failed),
        }


def run_both(work: Path) -> dict[str, object]:
    """Run both images together."""
    with run_container("service-cpu") as service, run_container("training") as training:
        return Trial(service, training, work).run()


def check_service_image(service: Container) -> dict[str, object]:
    """Return the checked facts of the service's image."""
    return {
        "read_only_root": is_read_only(service),
        "user": service.config["User"],
        "torch_in_service": "torch" in packages(service),
        "service_does_not_need": find_unneeded(service),
    }


def entry(container: Container) -> list[str]:
    """The program of an image."""
    return list(container.config["Entrypoint"])


IS_READ_ONLY = """
import errno, os, sys
for place in ("/usr/new", "/etc/new", "/store/new", "/work/new", "/new"):
    try:
        open(place, "w")
    except OSError as error:
        if error.errno == errno.EROFS:
            continue
    sys.exit(f"{place} can be written, or is closed for another reason than a read-only root")
open("/tmp/new", "w")
"""


def is_read_only(container: Container) -> bool:
    """Whether its user can write nowhere but in /tmp."""
    return succeeds(container.command(["python", "-c", IS_READ_ONLY], volumes={}))


PACKAGES_OF = """
import json
from importlib.metadata import distributions
print(json.dumps({
    one.name: sum(file.locate().stat().st_size for file in one.files or () if file.locate().is_file())
    for one in distributions()
}))
"""
# What a service has imported once it has judged an image, with every extra in use.
IMPORTED = """
import json, sys
from importlib.metadata import packages_distributions
import app.main, app.cli.main, uvloop, s3fs, aiomqtt, httpx2, opentelemetry.instrumentation.fastapi
import opentelemetry.exporter.otlp.proto.http.trace_exporter
named = packages_distributions()
print(json.dumps(sorted({one for module in sys.modules for one in named.get(module.partition(".")[0], ())})))
"""


def packages(container: Container) -> dict[str, int]:
    """Every installed package, with the bytes of its files."""
    found: dict[str, int] = json.loads(run(*container.command(["python", "-c", PACKAGES_OF], volumes={})))
    return found


def find_unneeded(container: Container) -> dict[str, float]:
    """Return packages that the service does not import, with their size in MB, the largest first."""
    imported = set(json.loads(run(*container.command(["python", "-c", IMPORTED], volumes={}))))
    others = {name: size for name, size in packages(container).items() if name not in imported}
    return {name: round(size / 1e6, 2) for name, size in sorted(others.items(), key=lambda one: -one[1])}


def refusal_of_gpu() -> str:
    """What service-gpu says on a machine without a GPU; it must not serve."""
    with run_container("service-gpu") as container:
        command = container.command([*entry(container), "serve"], volumes={})
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    if done.returncode == 0:
        raise SystemExit("service-gpu serves without a GPU")
    return done.stderr.strip().splitlines()[-1]


def size_mb(image: str) -> float:
    """What an image takes, unpacked."""
    name = image if "/" in image else f"goodpart:{image}"
    (one,) = json.loads(buildah("images", "--json", name))
    number, unit = str(one["size"]).split()
    return round(float(number) * {"KB": 1e-3, "MB": 1.0, "GB": 1e3}[unit], 1)


def to_member_name(stage: str) -> str:
    """Return a stage's name as a member of the figures."""
    return stage.replace("-", "_")


def time_step(figures: dict[str, object], name: str, done_by: object, *given: object, **options: object) -> str:
    """Run a step and note its seconds."""
    began = time.monotonic()
    done = done_by(*given, **options)  # type: ignore[operator]
    figures[name] = round(time.monotonic() - began, 1)
    print(f"{name}: {figures[name]}", file=sys.stderr, flush=True)
    return done


def buildah(*words: object) -> str:
    """Buildah's answer."""
    return run("buildah", *words, env=BUILDAH)


def run(*words: object, env: Mapping[str, str] | None = None) -> str:
    """A command's answer; ends the program with what it said where it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(map(str, words))[:400]}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def succeeds(command: list[str]) -> bool:
    """Whether a command ends well."""
    return subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE_S).returncode == 0


def wait(condition: object) -> None:
    """Until something holds."""
    ends = time.monotonic() + PATIENCE_S
    while not condition():  # type: ignore[operator]
        if time.monotonic() > ends:
            raise SystemExit("it did not come to pass")
        time.sleep(0.2)


if __name__ == "__main__":
    try:
        main()
    except Missing as lack:
        sys.exit(f"goodpart: error: this needs {lack}")
