"""Writes the tables of reference/conversion.md: what is made from which ONNX operators, and what was tried of it.

    python docs/generate_conversion.py            write it
    python docs/generate_conversion.py --check    exit with 1 if it is not up to date

The counts come from conversion.json and round_trip.json. ``python -m tests.conversion.node_cases docs/conversion.json``
writes the one, ``python -m tests.conversion.round_trip docs/round_trip.json`` the other.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from generated import run
from tnn_serving.conversion.lowering import LOWERINGS
from tnn_serving.layers.registry import declared

HERE = Path(__file__).parent
PAGE = HERE / "reference" / "conversion.md"
CASES = HERE / "conversion.json"
TRIPS = HERE / "round_trip.json"
START, END = "<!-- generated: {} -->", "<!-- end: {} -->"

RIGHT = ("right", "right, parameters stored")
WIDTH = 126


def patterns() -> Iterator[str]:
    """A row for each layer that is made from something."""
    yield "| layer | made from |"
    yield "|---|---|"
    for cls in sorted(dict.fromkeys(declared().values()), key=lambda cls: cls.types[0].lower()):
        if cls.made_from:
            yield f"| {cls.types[0]} | {'<br>'.join(f'`{text}`' for text in cls.made_from)} |"
    yield ""
    yield f"Said in other operators first: {', '.join(sorted(LOWERINGS))}."


def operators(record: Mapping[str, Any]) -> Iterator[str]:
    """A row for each operator: its cases of one node."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for case in record.values():
        if len(case["operators"]) == 1:
            (operator,) = case["operators"]
            found[operator][case["result"]] += 1
            reasons[operator][case["reason"]] += 1
    answered = sum(any(results[kind] for kind in RIGHT) for results in found.values())
    total = Counter(case["result"] for case in record.values())
    yield (
        f"Of ONNX's {len(record)} cases, {sum(total[kind] for kind in RIGHT)} are converted and answer as the "
        f"case says ({total[RIGHT[1]]} of them with inputs behind the first stored), {total['refused']} are refused, "
        f"and {total['wrong']} answer otherwise. {answered} operators have a case of their own that is right."
    )
    yield ""
    yield "| operator | cases | right | refused | why |"
    yield "|---|---|---|---|---|"
    for operator, results in sorted(found.items()):
        right = sum(results[kind] for kind in RIGHT)
        why = [reason for reason, _ in reasons[operator].most_common() if reason]
        text = why[0].replace("|", "\\|")[:160] if why else ""
        yield f"| {operator} | {sum(results.values())} | {right} | {results['refused']} | {text} |"


def trips(record: Mapping[str, Any]) -> Iterator[str]:
    """A row for each layer of which not every recorded case comes back."""
    total: Counter[str] = Counter()
    for entry in record.values():
        total.update(entry["results"])
    yield (
        f"Of {total.total()} recorded cases of single layers and small networks, {total['right']} come back from their "
        f"export with the same answers, {total['refused']} are refused and {total['wrong']} answer otherwise."
    )
    yield ""
    yield "| cases of | number | right | why not the others |"
    yield "|---|---|---|---|"
    for folder, entry in sorted(record.items()):
        results = entry["results"]
        if set(results) != {"right"}:
            why = "; ".join(f"{reason} ({count})" for reason, count in list(entry["reasons"].items())[:3])
            number = sum(results.values())
            yield f"| {folder} | {number} | {results.get('right', 0)} | {why[:240]} |".replace("\n", " ")


def fresh(present: str) -> str:
    """The page with new tables."""
    parts = {"patterns": patterns(), "operators": operators(_read(CASES)), "trips": trips(_read(TRIPS))}
    for name, lines in parts.items():
        start, end = START.format(name), END.format(name)
        before, _, rest = present.partition(start)
        _, _, after = rest.partition(end)
        shown = "\n".join(line if line.startswith("|") else textwrap.fill(line, WIDTH) for line in lines)
        present = "\n".join([before + start, "", shown, "", end]) + after
    return present


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", PAGE, fresh))
