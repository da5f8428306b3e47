"""Posts every test image of a data set to a running service, and holds the answers against the version's report.

The JSON has this run's figures, and under ``runs`` the last of each data set and method.

The service is the real one in a process of its own, started here on a free port, unless --url names one.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from loading.served import serve
from sklearn.metrics import roc_auc_score

from app.store.state import State
from app.store.store import Store
from training.data.dataset import Sample, find_images

AUROC_TOLERANCE = 1e-3
SCORE_TOLERANCE = 1e-4


def main() -> None:
    """Post, compare, print, write JSON; exit code 1 where HTTP and report differ."""
    given = arguments()
    store = Store(given.store)
    current = State(given.store / "state").read_current(given.product)
    if current is None:
        sys.exit(f"product {given.product} has no active version in {given.store}")
    bundle = store.load_bundle(given.product, current.version)
    report = json.loads(bundle.files["metrics.json"])
    samples = find_images(given.data).test
    with service(given.url, given.store) as url:
        answers = list(post_all(url, given.product, samples))
    result = {
        "data": given.data.name,
        "version": current.version,
        "method": bundle.manifest.method,
        **compare(samples, answers, report, folder=given.data),
    }
    runs = json.loads(given.out.read_text())["runs"] if given.out.exists() else {}
    runs[f"{given.data.name}_{bundle.manifest.method}"] = result
    given.out.write_text(json.dumps({**result, "runs": runs}, indent=1) + "\n")
    for name, value in result.items():
        print(f"{name:<28} {value}")
    if result["auroc_difference"] > AUROC_TOLERANCE or result["max_score_difference"] > SCORE_TOLERANCE:
        sys.exit("HTTP and report differ")


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data set in MVTec layout")
    parser.add_argument("--product", required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--url", help="a service that runs already")
    parser.add_argument("--out", type=Path, default=Path("bench/results/over_http.json"))
    return parser.parse_args()


@contextmanager
def service(url: str | None, store: Path) -> Iterator[str]:
    """The address of a service over the store."""
    if url is not None:
        yield url
        return
    with serve(store) as running:
        yield running.address


def post_all(url: str, product: str, samples: tuple[Sample, ...]) -> Iterator[dict[str, float]]:
    """Return score and verdict of each sample, and the milliseconds of its request."""
    with httpx2.Client(base_url=url, timeout=60) as client:
        for sample in samples:
            data = sample.path.read_bytes()
            began = time.perf_counter()
            response = client.post(f"/v1/products/{product}/inspect", files={"image": data})
            spent_ms = (time.perf_counter() - began) * 1000
            response.raise_for_status()
            answer = response.json()
            yield {"score": answer["score"], "is_ng": answer["verdict"] == "ng", "request_ms": spent_ms}


def compare(
    samples: tuple[Sample, ...], answers: list[dict[str, float]], report: dict[str, object], *, folder: Path
) -> dict[str, float]:
    """Compare the answers over HTTP with the report."""
    reported = {row["path"]: row["score"] for row in report["test_scores"]}
    expected = [reported[sample.path.relative_to(folder).as_posix()] for sample in samples]
    defective = [sample.is_defective for sample in samples]
    auroc = roc_auc_score(defective, [answer["score"] for answer in answers])
    differences = [abs(answer["score"] - score) for answer, score in zip(answers, expected, strict=True)]
    verdicts = list(zip(defective, answers, strict=True))
    good = [answer["is_ng"] for is_defective, answer in verdicts if not is_defective]
    bad = [not answer["is_ng"] for is_defective, answer in verdicts if is_defective]
    return {
        "num_images": len(samples),
        "image_auroc_http": auroc,
        "image_auroc_report": report["image_auroc"],
        "auroc_difference": abs(auroc - report["image_auroc"]),
        "max_score_difference": max(differences),
        "pixel_auroc_report": report.get("pixel_auroc"),
        "aupro_report": report.get("aupro"),
        "false_alarm_rate_http": statistics.mean(good),
        "escape_rate_http": statistics.mean(bad),
        "training_s": report["training_s"],
        "median_request_ms": statistics.median(answer["request_ms"] for answer in answers),
    }


if __name__ == "__main__":
    main()
