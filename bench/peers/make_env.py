"""Make the environment of the peers, ``.venv`` beside this file: anomalib and its runtimes, apart from the project's.

    python bench/peers/make_env.py --torch "torch==2.13.0"

Nothing of the project imports anomalib. torch comes first, so that each machine gets the build it can use; everything
else is in requirements.txt and comes without asking what it needs, since torchvision would pull another torch.
"""

import argparse
import shlex
import subprocess
import venv
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / ".venv"


def main() -> None:
    """Make it anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", default="torch==2.13.0", help="requirement that pip installs first")
    given = parser.parse_args()
    venv.create(FOLDER, clear=True, with_pip=True)
    install(*shlex.split(given.torch))
    install("--no-deps", "--requirement", str(HERE / "requirements.txt"))
    (FOLDER / ".ready").touch()


def install(*what: str) -> None:
    """Raises CalledProcessError."""
    subprocess.run([FOLDER / "bin/python", "-m", "pip", "install", "--quiet", *what], check=True)


if __name__ == "__main__":
    main()
