"""Writes docs/reference/benchmarks.md and its plots from the results in benchmarks/results.

python benchmarks/report.py            write them; needs matplotlib
python benchmarks/report.py --check    check whether the page matches the results, and write nothing
"""

from __future__ import annotations

import argparse
import difflib
import sys
import textwrap
from pathlib import Path

from machine import Machine
from results import Result, Row, heading, number, read

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images"

HEAD = """\
<!-- Written by benchmarks/report.py from benchmarks/results/*.json; do not edit. -->
# Benchmarks

Every figure comes from a program in [benchmarks](../../benchmarks), which runs the compared programs alternately.
Client and server share the machine's cores, so read ratios, not absolute figures. `make bench` repeats all measurements
and writes this page; install the other servers first, with `python benchmarks/peers.py install`.
"""

TITLES = {
    "served": (
        "A served network and the bare engine",
        """\
The cost of serving in addition to the engine: a network behind HTTP and gRPC, the bare engine called from Python with
the same threads, and the floor: an empty backend in C that takes the same tensor, which is the cost of tritonserver
itself. `of bare` is requests/s divided by the bare engine's runs/s.""",
    ),
    "floor": (
        "A network that costs nothing, and the floor",
        """\
One ReLU layer against the empty backend in C, over HTTP. `share` is requests/s divided by the floor's.""",
    ),
    "peers": (
        "Other servers",
        """\
Other servers from pip with the same engine (OpenVINO, float32, low latency), the same network and the same cores, each
with its natural binary protocol and its documented fast settings. The engine's threads are divided among a server's
workers; `batch` is the maximum number of requests per batch. `times ours` is our requests/s divided by theirs: above 1,
we are faster. Our server runs without configuration. mosec and FastAPI are web frameworks; the others are made to serve
models.""",
    ),
    "engines": (
        "The choice of the engine",
        """\
Each network on both engines, and on the choice of `engine="auto"`, alternately; median milliseconds per inference.
`auto to best` is auto's time divided by the better engine's.""",
    ),
    "int8_forms": (
        "Int8 and bf16",
        """\
Int8 networks in exact form (TNN's codes) and fast form (int8 kernels), beside the same network in float32 and in bf16;
see [int8.md](../concepts/int8.md). `speedup` is float32's time divided by the fast form's. `deviation` is the largest
difference of the fast form's output from the exact form's, relative to the largest value; `bf16 deviation` is that of
bf16 from float32.""",
    ),
    "load_time": (
        "Load time",
        """\
The time until a network can answer: `tnn_serving.load` in a new process, without its imports, and the whole server from
the command to READY. The first load starts with an empty `cache_dir`; the second one finds measurements and compiled
networks in it.""",
    ),
    "loading": (
        "Loads and their neighbours",
        """\
Loads beside those of another version, in turn. A neighbour is a network of about a millisecond that answers 16
connections while models load that the server has not seen before: over HTTP and gRPC, the load request over the same.
`p99 to rest` is its p99 during the loads divided by that at rest. A second start finds in `cache_dir` what the first
has left there.""",
    ),
    "memory": (
        "Memory",
        """\
PSS of all processes of the server: shared pages are divided among the processes that share them. All instances are
busy; each shape is new; one model is loaded and unloaded, and memory is sampled while it is unloaded.""",
    ),
}
"""Title and introduction of each program's section, in the order of the page."""

NOT_SHOWN = {"errors", "codes", "wrong_codes", "worst_step"}
"""Columns that are left out of the page if all their values are zero or empty."""


def results(folder: Path) -> dict[str, Result]:
    """All results by program, in the order of the page. Exits with a message if there are none."""
    found = {result.program: result for result in map(read, sorted(folder.glob("*.json")))}
    if not found:
        raise SystemExit(f"no results in {folder}; run: make bench")
    return {name: found[name] for name in TITLES if name in found}


def page(found: dict[str, Result]) -> str:
    """The whole page."""
    parts = [HEAD, summary(found)]
    for name, result in found.items():
        title, words = TITLES[name]
        parts += [f"## {title}\n", words + "\n"]
        parts += [f"![{title}](../images/{image_name(name)})\n"]
        if result.targets:
            parts.append(table(["target", "wanted", "measured", ""], [target.cells() for target in result.targets]))
        for heads, rows in result.tables.items():
            parts += [f"**{heads}**\n", rows_table(rows)]
        settings = ", ".join(
            f"{key} {setting_text(value)}" for key, value in result.settings.items() if value not in ([], "")
        )
        line = f"`benchmarks/{name}.py`, {settings}. {machine_line(result.machine)}"
        parts.append(textwrap.fill(line, 118, break_long_words=False, break_on_hyphens=False) + "\n")
    return "\n".join(parts)


def image_name(program: str) -> str:
    """The file name of a program's plot."""
    return f"bench_{program}.svg"


def setting_text(value: object) -> str:
    """A setting as text."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def machine_line(machine: Machine) -> str:
    """The machine, with a warning if it was busy, since the figures are then unreliable."""
    busy = " **The machine was busy: these figures are unreliable.**" if machine.load > machine.cores / 2 else ""
    return f"{machine.date}, {machine}.{busy}"


def summary(found: dict[str, Result]) -> str:
    """A table of the sections with the number of targets met."""
    rows = []
    for name, result in found.items():
        title = TITLES[name][0]
        met = sum(target.met for target in result.targets)
        anchor = "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-")
        rows.append([f"[{title}](#{anchor})", f"{met} of {len(result.targets)}" if result.targets else "none set"])
    return table(["", "targets met"], rows)


def rows_table(rows: list[Row]) -> str:
    """A program's table without the columns of :data:`NOT_SHOWN` that are empty."""
    keys = [key for key in rows[0] if any(row[key] for row in rows) or key not in NOT_SHOWN]
    return table([heading(key) for key in keys], [[number(row[key]) for key in keys] for row in rows])


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page does not match the results")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE")
    arguments = parser.parse_args()
    found = results(arguments.results)
    made = page(found)
    if arguments.check:
        old = arguments.page.read_text(encoding="utf-8") if arguments.page.is_file() else ""
        names = str(arguments.page), "from the results"
        difference = list(difflib.unified_diff(old.splitlines(), made.splitlines(), *names, lineterm="", n=0))
        missing = [name for name in found if not (IMAGES / image_name(name)).is_file()]
        print("\n".join([*difference, *(f"no plot {image_name(name)}" for name in missing)]), file=sys.stderr)
        return 1 if difference or missing else 0
    from plots import draw  # needs matplotlib, which checking does not

    for name, result in found.items():
        draw(result, IMAGES / image_name(name))
    arguments.page.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
