"""A folder that lines write to slowly and at once, watched by ``goodpart watch``, which is killed in the middle.

Writes ``{files, results, rows, half, seconds}``: half is how many results are not of the whole file.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from serving import GOODPART, until
from writers import images, start

from app.store.files import replace_file
from model.bundle import sha256_hex

# So often a writer pauses in the middle of a file for longer than a file has to settle.
PAUSE_SHARE = 0.02


def main() -> None:
    """Write, watch, kill, count; exit code 1 where a result is missing or half."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--product", required=True)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        figures = measure(Path(folder), given.store, given.product, number=given.files)
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    if given.json:
        replace_file(given.json, text.encode())
    if figures["half"] or not figures["files"] == figures["results"] == figures["rows"]:
        raise SystemExit(1)


def measure(folder: Path, store: Path, product: str, *, number: int) -> dict[str, object]:
    """Measure everything."""
    files = images(number)
    command = [GOODPART, "watch", folder, "--store", store, "--product", product]
    began = time.monotonic()
    watcher = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    writers = start(folder, files, pause_share=PAUSE_SHARE)
    until(lambda: len(list(folder.glob("*.json"))) > number // 3, within_s=300)
    watcher.kill()
    watcher.wait()
    watcher = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for writer in writers:
        writer.join()
    until(lambda: len(list(folder.glob("*.json"))) == number, within_s=300)
    seconds = round(time.monotonic() - began, 1)
    watcher.terminate()
    watcher.wait()
    found = {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in folder.glob("*.json")}
    half = [name for name, one in found.items() if one["sha256"] != sha256_hex(files[name]) or "error" in one]
    rows = (folder / "results.csv").read_text().splitlines()
    return {
        "files": number,
        "results": len(found),
        "rows": len(rows) - 1,
        "half": len(half),
        "kills": 1,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
