"""Training steps beside a busy process: seconds a step by number of threads and by how OpenMP threads wait."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

NUM_STEPS = 5
CASES = [(1, "active"), (1, "passive"), (2, "active"), (2, "passive")]


def time_step(num_threads: int) -> float:
    """Return the seconds of one training step of the default student."""
    import torch  # noqa: PLC0415  # OpenMP reads its variables when torch is loaded

    from model.recall import Recalled  # noqa: PLC0415
    from model.student import Student  # noqa: PLC0415
    from training.fit.networks import make_student_spec  # noqa: PLC0415
    from training.settings import TrainSettings  # noqa: PLC0415

    torch.set_num_threads(num_threads)
    student = Student(make_student_spec(TrainSettings(), (112, 192, 40))).train()
    scales = tuple(torch.randn(16, c, s, s) for c, s in ((112, 16), (192, 8), (40, 32)))
    values = (torch.randn(16, 112, 16, 16), torch.randn(16, 192, 16, 16))
    recalled = Recalled(values, (torch.ones(16, 16, 16),) * 2, torch.zeros(1), torch.zeros(1))

    def run() -> None:
        outputs = (*student.decode(recalled, scales)[0], *student.extract(recalled, scales))
        torch.stack([one.mean() for one in outputs]).sum().backward()

    run()
    began = time.perf_counter()
    for _ in range(NUM_STEPS):
        run()
    return (time.perf_counter() - began) / NUM_STEPS


def main() -> None:
    """Time every case in a process of its own, alone and beside busy processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, default=1, help="busy processes beside the training")
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("bench/results/contention.json"))
    given = parser.parse_args()
    if given.step:
        print(time_step(given.step))
        return
    rows = []
    for num_busy in (0, given.busy):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_busy)]
        for num_threads, policy in CASES:
            done = subprocess.run(
                [sys.executable, __file__, "--step", str(num_threads)],
                env={**os.environ, "OMP_WAIT_POLICY": policy},
                capture_output=True,
                text=True,
                check=True,
            )
            row = {"busy": num_busy, "threads": num_threads, "wait_policy": policy, "step_s": float(done.stdout)}
            rows.append(row)
            print(row, flush=True)
        for other in others:
            other.kill()
    given.out.write_text(json.dumps({"num_cpus": os.cpu_count(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
