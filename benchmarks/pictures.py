"""Encoded pictures to 224 x 224 pixels: our decoding and resizing beside Pillow's and OpenCV's.

    python benchmarks/pictures.py [--rounds 20] [--json out.json] [FILE ...]

Without files, a 12-megapixel and a 640 x 480 JPEG are generated. All methods run alternately. Medians of the elapsed
time and of the CPU time of all threads are printed, and ratios of the CPU time, which other work on the machine affects
less. OpenCV is included if it is installed (``pip install opencv-python-headless``).

- ours: TNN's bilinear resize, bit-identical: two taps per axis.
- Pillow: ``resize(BILINEAR)``, which averages all pixels when shrinking, and ``NEAREST``, which averages none.
- OpenCV: ``imdecode``, ``resize(INTER_LINEAR)``, ``cvtColor``; two taps per axis, other rounding.

"2 threads" is the work of two threads relative to that of one; "counting" is the relative speed of a plain Python loop
beside such a thread. If two cores are free, both show whether the interpreter lock is held. "batch" is the time of one
request with 8 pictures relative to that of 8 requests with one.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from tnn_serving.pictures.decode import decode_mat
from tnn_serving.pictures.fit import Fit
from tnn_serving.serving.pictures import PictureReader
from tnn_serving.serving.tensors import RequestTensor

try:
    import cv2
except ImportError:
    cv2 = None

SIZE = (224, 224)
BATCH = 8
FIT = Fit(SIZE)
Way = Callable[[], object]


@dataclass
class Row:
    """One method for one picture; times are medians in ms, the ratio is of CPU time."""

    picture: str
    way: str
    ms: float
    cpu_ms: float
    ratio: float
    two_threads: float
    counting: float


def photograph(height: int, width: int) -> bytes:
    """A JPEG with edges, surfaces and some noise, which takes about as long to decode as a photograph."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    file = io.BytesIO()
    noisy = np.clip(smooth + rng.integers(-8, 9, smooth.shape, dtype=np.int16), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()


def ours(data: bytes) -> np.ndarray:
    return np.ascontiguousarray(FIT.apply(decode_mat(data), 3))


def pillow(data: bytes, resample: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize(SIZE[::-1], resample))


def opencv(data: bytes) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(cv2.resize(decoded, SIZE[::-1], interpolation=cv2.INTER_LINEAR), cv2.COLOR_BGR2RGB)


def ways(data: bytes) -> dict[str, Way]:
    found: dict[str, Way] = {
        "ours": partial(ours, data),
        "ours, decoding alone": partial(decode_mat, data),
        "Pillow bilinear": partial(pillow, data, Image.Resampling.BILINEAR),
        "Pillow nearest": partial(pillow, data, Image.Resampling.NEAREST),
    }
    if cv2 is not None:
        found["OpenCV"] = partial(opencv, data)
    return found


def alternate(runs: dict[str, Way], rounds: int) -> dict[str, tuple[float, float]]:
    """Median elapsed and CPU time of each in ms, in rotating order."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    names = list(runs)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start, cpu_start = time.perf_counter(), time.process_time()
            runs[name]()
            cpu, wall = time.process_time() - cpu_start, time.perf_counter() - start
            times[name].append((wall * 1e3, cpu * 1e3))
    return {
        name: (statistics.median(wall for wall, _ in samples), statistics.median(cpu for _, cpu in samples))
        for name, samples in times.items()
    }


def repeat(run: Way, times: int) -> None:
    for _ in range(times):
        run()


def two_threads(run: Way, times: int) -> None:
    threads = [threading.Thread(target=repeat, args=(run, times)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def scaling(runs: dict[str, Way], rounds: int, times: dict[str, tuple[float, float]]) -> dict[str, float]:
    """The work of two threads relative to that of one in the same time."""
    many = {name: max(1, round(50 / cpu_ms)) for name, (_, cpu_ms) in times.items()}
    both = {f"1 {name}": partial(repeat, run, many[name]) for name, run in runs.items()}
    both |= {f"2 {name}": partial(two_threads, run, many[name]) for name, run in runs.items()}
    medians = alternate(both, rounds)
    return {name: 2 * medians[f"1 {name}"][0] / medians[f"2 {name}"][0] for name in runs}


def count_for(seconds: float) -> int:
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        count += 1
    return count


def counting(run: Way, rounds: int, seconds: float = 0.2) -> float:
    """The relative speed of a counting loop beside a thread that repeats ``run``."""
    active, stopped = threading.Event(), threading.Event()

    def work() -> None:
        while not stopped.is_set():
            if active.wait(0.05):
                run()

    thread = threading.Thread(target=work)
    thread.start()
    shares = []
    try:
        for _ in range(rounds):
            active.clear()
            alone = count_for(seconds)
            active.set()
            shares.append(count_for(seconds) / alone)
    finally:
        stopped.set()
        thread.join()
    return statistics.median(shares)


def batch_gain(data: bytes, rounds: int) -> float:
    """The time of one request with several pictures, relative to that of as many requests with one."""
    element = struct.pack("<I", len(data)) + data
    reader = PictureReader(3, encoded=True, fit=FIT)
    one = RequestTensor("x", "BYTES", (1, 1), memoryview(element))
    many = RequestTensor("x", "BYTES", (BATCH, 1), memoryview(element * BATCH))
    medians = alternate(
        {
            "singles": lambda: [reader.pixels(one) for _ in range(BATCH)],
            "batch": lambda: reader.pixels(many),
        },
        rounds,
    )
    return medians["batch"][0] / medians["singles"][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    pictures = {str(path): path.read_bytes() for path in arguments.files} or {
        "12 megapixels": photograph(3000, 4000),
        "640 x 480": photograph(480, 640),
    }
    console = Console(width=120)
    table = Table("picture", "way", "ms", "CPU ms", "way / ours", "2 threads", "counting")
    rows: list[Row] = []
    batches: dict[str, float] = {}
    for name, data in pictures.items():
        runs = ways(data)
        times = alternate(runs, arguments.rounds)
        scaled = scaling(runs, max(3, arguments.rounds // 4), times)
        for way, (ms, cpu_ms) in times.items():
            share = counting(runs[way], max(3, arguments.rounds // 4))
            rows.append(Row(name, way, ms, cpu_ms, cpu_ms / times["ours"][1], scaled[way], share))
        batches[name] = batch_gain(data, max(3, arguments.rounds // 4))
    for row in rows:
        table.add_row(
            row.picture,
            row.way,
            f"{row.ms:.2f}",
            f"{row.cpu_ms:.2f}",
            f"{row.ratio:.2f}",
            f"{row.two_threads:.2f}",
            f"{row.counting:.2f}",
        )
    console.print(f"{len(os.sched_getaffinity(0))} cores, median of {arguments.rounds}")
    console.print(table)
    for name, gain in batches.items():
        console.print(f"{name}: {BATCH} pictures in one request take {gain:.2f} of the time of {BATCH} requests")
    if cv2 is None:
        console.print("OpenCV is not installed and left out", style="yellow")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": [asdict(row) for row in rows], "batch": batches}, indent=1))


if __name__ == "__main__":
    main()
