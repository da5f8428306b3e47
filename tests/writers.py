"""Lines that write images into a folder slowly and at once."""

import os
import threading
import time

import numpy as np
from drawing import defective_part, encode, good_part

NUM_WRITERS = 4
# Longer than a file has to settle.
PAUSE_S = 0.8


def images(number):
    """So many images by name, a third of them of defective parts."""
    return {f"{n:05}.png": encode(defective_part(n) if n % 3 == 0 else good_part(n)) for n in range(number)}


def start(folder, files, *, pause_share):
    """Threads that write these files between them. ``pause_share``: how often one pauses in the middle of a file."""
    shares = [list(files.items())[start::NUM_WRITERS] for start in range(NUM_WRITERS)]
    threads = [
        threading.Thread(target=write, args=(folder, share, seed, pause_share)) for seed, share in enumerate(shares)
    ]
    for thread in threads:
        thread.start()
    return threads


def write(folder, files, seed, pause_share):
    """Each file in three pieces, the first of which may be less than a picture's head."""
    generator = np.random.default_rng(seed)
    for name, data in files:
        with (folder / name).open("wb") as file:
            cuts = sorted([int(generator.integers(1, 60)), int(generator.integers(60, len(data)))])
            for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
                file.write(data[start:stop])
                file.flush()
                time.sleep(PAUSE_S if generator.random() < pause_share else 0.002)
        os.utime(folder / name)
