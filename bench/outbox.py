"""Results to a real broker while the service is killed and the broker is away: what is missing, out of order, double?

And what sinks cost: the latency of judging with them and without, request by request in turn. Writes
``{missing, out_of_order, duplicates, unmarked, p99_ratio, ...}``.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from drawing import encode, good_part
from receivers import MOSQUITTO, Broker
from serving import Service, until

from app.store.files import replace_file
from training.demo.demo import find_free_port

URL = "/v1/products/{}/inspect"
PNG = {"content-type": "image/png"}


def main() -> None:
    """Measure, print, write JSON; exit code 1 where something is missing or out of order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--product", required=True)
    parser.add_argument("--image", type=Path, help="a good part; a drawn one by default")
    parser.add_argument("--inspections", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if MOSQUITTO is None:
        sys.exit("goodpart: error: this needs mosquitto: apt-get install mosquitto")
    image = given.image.read_bytes() if given.image else encode(good_part(7))
    with TemporaryDirectory() as folder:
        work = Path(folder)
        broker = Broker(work, find_free_port())
        broker.start()
        sinks = work / "sinks.toml"
        sinks.write_text(f'[[mqtt]]\nname = "broker"\nhost = "127.0.0.1"\nport = {broker.port}\ntimeout_s = 5\n')
        trial = Trial(given.store, URL.format(given.product), image, work, sinks)
        figures = {**trial.costs(), **trial.deliver(broker, number=given.inspections)}
        broker.stop()
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    if given.json:
        replace_file(given.json, text.encode())
    if figures["missing"] or figures["out_of_order"] or figures["unmarked"]:
        raise SystemExit(1)


class Trial:
    """One product, judged with sinks and without."""

    def __init__(self, store: Path, url: str, image: bytes, work: Path, sinks: Path) -> None:
        self.store, self.url, self.image, self.work, self.sinks = store, url, image, work, sinks

    def service(self, *, has_sinks: bool, local: str) -> Service:
        """A service of its own, on one thread as the other."""
        more = {"sinks_file": self.sinks} if has_sinks else {}
        return Service(self.store, local=self.work / local, instance="line-1", threads=1, decoders=1, **more)

    def costs(self, *, num_turns: int = 1500) -> dict[str, float]:
        """Latency with sinks by that without, in turn on one machine."""
        spent: dict[bool, list[float]] = {True: [], False: []}
        with self.service(has_sinks=True, local="a") as one, self.service(has_sinks=False, local="b") as two:
            for turn in range(num_turns):
                for has_sinks, service in ((True, one), (False, two)) if turn % 2 else ((False, two), (True, one)):
                    began = time.perf_counter()
                    # Without a key: an answer with one waits for its record where there are no sinks too.
                    self.ask(service, part_id=f"c{turn}", has_key=False).raise_for_status()
                    spent[has_sinks].append((time.perf_counter() - began) * 1000)
        warm = {key: np.array(values[100:]) for key, values in spent.items()}
        with_, without = warm[True], warm[False]
        return {
            "p50_ms": round(float(np.quantile(with_, 0.5)), 2),
            "p50_without_ms": round(float(np.quantile(without, 0.5)), 2),
            "p99_ms": round(float(np.quantile(with_, 0.99)), 2),
            "p99_without_ms": round(float(np.quantile(without, 0.99)), 2),
            "p50_ratio": round(float(np.quantile(with_, 0.5) / np.quantile(without, 0.5)), 3),
            "p99_ratio": round(float(np.quantile(with_, 0.99) / np.quantile(without, 0.99)), 3),
        }

    def deliver(self, broker: Broker, *, number: int) -> dict[str, object]:
        """Inspect parts while processes are killed and the broker stops.

        Each request is repeated until it is answered.
        """
        broker.taken.clear()
        kills, away, back = (
            {number // 5, number // 2, 4 * number // 5},
            {number // 4, 3 * number // 5},
            {2 * number // 5, 7 * number // 10},
        )
        service = self.service(has_sinks=True, local="c")
        for index in range(number):
            if index in kills:
                service.process.kill()
                service.process.wait()
                service = self.service(has_sinks=True, local="c")
            if index in away:
                broker.stop()
            if index in back:
                broker.start()
            self.request_until_answered(service, part_id=f"p{index}")
        until(lambda: len({one["part_id"] for _, one in broker.taken}) == number, within_s=120)
        time.sleep(2)  # what comes twice may still be on its way
        service.process.terminate()
        service.process.wait()
        return count_received([one for _, one in broker.taken], number) | {
            "kills": len(kills),
            "broker_away": len(away),
        }

    def request_until_answered(self, service: Service, *, part_id: str) -> None:
        """Repeat a request until there is an answer, as a line does."""
        while True:
            try:
                if self.ask(service, part_id=part_id).is_success:
                    return
            except httpx2.HTTPError:
                time.sleep(0.1)

    def ask(self, service: Service, *, part_id: str, has_key: bool = True) -> httpx2.Response:
        """One request, by default with the key that makes it one inspection however often it is sent."""
        headers = {**PNG, **({"Idempotency-Key": part_id} if has_key else {})}
        query = {"heatmap": "none", "part_id": part_id}
        return service.client.post(self.url, content=self.image, headers=headers, params=query)


def count_received(taken: list[dict[str, object]], number: int) -> dict[str, object]:
    """Return what a consumer sees that keeps the first of each sequence number."""
    firsts, seen, num_unmarked = [], set(), 0
    for one in taken:
        if one["sequence"] in seen:
            num_unmarked += not one["repeated"]
            continue
        seen.add(one["sequence"])
        firsts.append(one)
    sequences = [one["sequence"] for one in firsts]
    parts = [one["part_id"] for one in firsts]
    return {
        "inspections": number,
        "missing": number - len(set(parts) & {f"p{index}" for index in range(number)}),
        "out_of_order": sum(later < earlier for earlier, later in itertools.pairwise(sequences)),
        "parts_twice": len(parts) - len(set(parts)),
        "duplicates": len(taken) - len(firsts),
        "unmarked": num_unmarked,
    }


if __name__ == "__main__":
    main()
