"""Writes reference/layers.md, the reference of layers, from their declarations and from what the recorded cases gave.

    python docs/generate_layers.py            write it
    python docs/generate_layers.py --check    exit with 1 if it is not up to date

The counts come from conformance.json, which ``pytest tests/conformance --record docs/conformance.json`` writes.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generated import run

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests.conformance.differences import DIFFERENCES, Instead  # noqa: E402
from tnn_serving.layers.base import Layer  # noqa: E402
from tnn_serving.layers.operands import ANY, Operand, types_text  # noqa: E402
from tnn_serving.layers.parameters import REQUIRED, Parameter  # noqa: E402
from tnn_serving.layers.registry import declared, reserved  # noqa: E402
from tnn_serving.layers.weights import Stored  # noqa: E402

PAGE = HERE / "reference" / "layers.md"
COUNTS = HERE / "conformance.json"

ENGINES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "auto": "auto"}
COLLECTIONS = {
    "_networks": "small float networks",
    "_dynamic_range": "networks with int8 weights and float arithmetic",
    "_int8_networks": "int8 networks of one to four layers",
}
LABELS = ("ONNX", "TNN differs")
INSTEAD = {
    Instead.REFUSED: "refused by the engine",
    Instead.SAME_VALUES: "same values, other indices of equal elements",
}


@dataclass
class Contract:
    """A layer's docstring, taken apart: what it computes, and the labelled paragraphs."""

    summary: list[str] = field(default_factory=list)
    labelled: dict[str, str] = field(default_factory=dict)


def contract(cls: type[Layer]) -> Contract:
    """The docstring of a layer class. Raises ValueError if it does not say what it becomes in ONNX."""
    made = Contract()
    label: str | None = None
    for line in [*inspect.getdoc(cls).splitlines(), ""]:  # type: ignore[union-attr]
        found = re.match(rf"({'|'.join(LABELS)}): +(.*)", line)
        if found:
            label = found[1]
            made.labelled[label] = found[2]
        elif label is not None and line.strip():
            made.labelled[label] += " " + line.strip()
        elif label is None:
            made.summary.append(line.strip())
    if "ONNX" not in made.labelled:
        raise ValueError(f"the docstring of {cls.__name__} has no paragraph `ONNX:`")
    return made


def markdown(text: str) -> str:
    """Plain text of a docstring; code spans keep what they hold."""
    parts = re.split(r"(``.+?``|`.+?`)", text)
    for place, part in enumerate(parts):
        if place % 2:
            parts[place] = "`" + part.strip("`") + "`"
        else:
            parts[place] = re.sub(r"([*|<])", r"\\\1", part)
    return "".join(parts)


def layers() -> list[type[Layer]]:
    """The declared classes, by the usual name of their type."""
    return sorted(set(declared().values()), key=lambda cls: cls.types[0].lower())


def executable(cls: type[Layer]) -> bool:
    """It says what it computes."""
    return cls.to_onnx is not Layer.to_onnx


def state(name: str, cls: type[Layer]) -> str:
    """What becomes of a layer of that type."""
    if name.startswith("Quantized"):
        return "runs in int8" if cls.to_onnx_int8 is not Layer.to_onnx_int8 else "known, does not run"
    if not executable(cls):
        return "known, does not run"
    if name.startswith("DynamicRangeQuantized"):
        return "runs, int8 weights"
    return "runs" if name == cls.types[0] else f"runs, another name of {cls.types[0]}"


class Counts:
    """How many recorded cases there are of each type, and how many each engine reproduces."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.versions: dict[str, str] = data["versions"]
        self.cases: dict[str, dict[str, int]] = data["cases"]

    def version(self, engine: str) -> str:
        """Version of an engine, without its build."""
        return self.versions.get(engine, "the first of the two that takes the network").partition("-")[0]

    def of(self, folders: list[str]) -> dict[str, int]:
        """Sums over some folders; empty if there is no case."""
        total: dict[str, int] = {}
        for folder in folders:
            for what, count in self.cases.get(folder, {}).items():
                total[what] = total.get(what, 0) + count
        return total


def page(counts: Counts) -> str:
    """The whole reference."""
    return "\n".join(
        [
            *_head(counts),
            *_contents(),
            *_types(counts),
            *_deviations(),
            "## The layers",
            "",
            *(line for title, members in families() for line in _family(title, members, counts)),
        ]
    )


HEAD = """\
<!-- Written by docs/generate_layers.py from the layer declarations: do not edit. -->

# Layers

What a TNN network may contain, and what becomes of it. {running} layers are executed. For a network at hand,
`tnn-serving inspect MODEL` says in one go whether all of its layers are.

Each executed layer is compared with recordings of the real TNN (version 0.3, its plain CPU device): {recorded} small
networks. float32 may differ by 1e-4 of the largest magnitude (of 1 if that is less), whole numbers and int8 codes not
at all. Int8 layers are compared in their exact form. Equal are, of these,

| engine | version | cases |
|---|---|---|
{engines}

The others are listed under [where this differs from TNN](#where-this-differs-from-tnn).

How to read a layer's entry:

- **Parameters** are the tokens behind the blob names of a layer line, in this order. `h w` means two tokens, height
  first; `n, then n` a count and then that many values. A token that is missing at the end takes its default.
- **Weights** are the fields of the layer's entry in the model file, in this order.
- **Shapes**: `[N, C, H, W]` and the like are dims in the order of the blob, `...` is any number of axes. Sizes that no
  weight fixes are free.
- **Types**: a blob is float32, int32, int8, int64 or uint32. TNN's own indices and shapes are int32, its truth values
  int8 0 or 1.
- **Further inputs** than those listed are ignored by TNN, and here with a warning, unless the entry says otherwise.
"""

ALL_TYPES = """\
## All type names

Names that TNN accepts. One that does not run can be read, inspected and written back; so can any other name.
"""

DEVIATIONS = """\
## Where this differs from TNN

Where TNN does otherwise than one would expect of a layer. Its answers are reproduced wherever they could be recorded;
what an entry calls a defect, a refusal, a crash or undefined is not: there the meaning of the framework counts that the
layer comes from.
"""

UNEQUAL = """
Recorded cases that are not reproduced:

| layer | engine | cases | what happens | why |
|---|---|---|---|---|"""


def _head(counts: Counts) -> Iterator[str]:
    total = counts.of(list(counts.cases))
    rows = (f"| {name} | {counts.version(engine)} | {total[engine]} |" for engine, name in ENGINES.items())
    yield HEAD.format(running=sum(map(executable, layers())), recorded=total["recorded"], engines="\n".join(rows))


def _contents() -> Iterator[str]:
    yield from ("## Contents", "")
    yield from (
        "- [All type names](#all-type-names)",
        "- [Where this differs from TNN](#where-this-differs-from-tnn)",
        "- [The layers](#the-layers)",
    )
    for title, members in families():
        links = ", ".join(f"[{cls.types[0]}](#{_anchor(cls.types[0])})" for cls in members)
        yield f"  - {title}: {links}"
    yield ""


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


def _types(counts: Counts) -> Iterator[str]:
    yield ALL_TYPES
    yield from ("| type | number | state | layer | recorded cases |", "|---|---|---|---|---|")
    rows = {
        name: (cls.number, state(name, cls), f"[{cls.types[0]}](#{_anchor(cls.types[0])})", _recorded(counts, name))
        for name, cls in declared().items()
    }
    rows |= {name: (number, "known, does not run", "", "") for name, number in reserved().items()}
    for name, (number, what, layer, recorded) in sorted(rows.items(), key=lambda row: (row[0].lower(), row[0])):
        yield f"| `{name}` | {number} | {what} | {layer} | {recorded} |"
    yield ""
    yield from ("Besides, in networks of several layers:", "", "| collection | " + " | ".join(ENGINES.values()) + " |")
    yield "|---" * (1 + len(ENGINES)) + "|"
    for folder, what in COLLECTIONS.items():
        found = counts.cases[folder]
        yield f"| {what} | " + " | ".join(f"{found[engine]} of {found['recorded']}" for engine in ENGINES) + " |"
    yield ""


def _recorded(counts: Counts, name: str) -> str:
    found = counts.cases.get(name)
    return str(found["recorded"]) if found else ""


def _deviations() -> Iterator[str]:
    yield DEVIATIONS
    for cls in layers():
        text = contract(cls).labelled.get("TNN differs")
        if text is not None:
            yield f"- [{cls.types[0]}](#{_anchor(cls.types[0])}): {markdown(text)}"
    yield UNEQUAL
    for item in DIFFERENCES:
        engines = "both" if set(item.engines) == set(ENGINES) else ", ".join(ENGINES[name] for name in item.engines)
        yield f"| {item.layer} | {engines} | {len(item.cases)} | {INSTEAD[item.instead]} | {markdown(item.reason)} |"
    yield ""


def families() -> list[tuple[str, list[type[Layer]]]]:
    """Modules of layers with the first sentence of their docstrings, and their classes."""
    modules: dict[str, list[type[Layer]]] = {}
    for cls in layers():
        modules.setdefault(cls.__module__, []).append(cls)
    titled = [(_title(name), members) for name, members in modules.items()]
    return sorted(titled, key=lambda pair: pair[0].lower())


def _title(module: str) -> str:
    first = (sys.modules[module].__doc__ or module).strip().splitlines()[0]
    return re.split(r"[.:]( |$)", first)[0]


def _family(title: str, members: list[type[Layer]], counts: Counts) -> Iterator[str]:
    yield from (f"### {title}", "")
    for cls in members:
        yield from _layer(cls, counts)


def _layer(cls: type[Layer], counts: Counts) -> Iterator[str]:
    found = contract(cls)
    yield from (f"#### {cls.types[0]}", "")
    others = [f"`{name}`" for name in cls.types[1:]]
    yield (f"Also {', '.join(others)}. " if others else "") + f"Number {cls.number}."
    yield ""
    yield from (markdown(line) for line in found.summary)
    yield f"- **Inputs:** {_operands(cls.operands)}{' TNN refuses more.' if cls.counts_inputs else ''}"
    yield f"- **Outputs:** {_operands(cls.results, results=True)}"
    for label, text in found.labelled.items():
        yield f"- **{label}:** {markdown(text)}"
    yield f"- **Int8:** {_int8(cls)}"
    yield f"- **Recorded:** {_results(cls, counts)}"
    yield ""
    yield from _parameters(cls)
    yield from _weights(cls)


def _operands(operands: Sequence[Operand], *, results: bool = False) -> str:
    return "; ".join(_operand(operand, result=results) for operand in operands) + "." if operands else "none."


def _operand(operand: Operand, *, result: bool) -> str:
    """An operand as a phrase: "reps [...] int32 or int64 (optional, overrides `reps`)"."""
    words = [operand.name + (", ..." if operand.repeated else "")]
    facts = []
    if operand.shape.startswith("as "):
        facts.append(f"shape of {operand.shape[3:]}")
    else:
        words.append(operand.shape)
    if operand.like:
        facts.append(f"type of {operand.like}")
    elif operand.types != ANY:
        words.append(types_text(operand.types))
    elif not result:
        words.append("of any type")
    if len(facts) == 2 and operand.shape == f"as {operand.like}":
        facts = [f"shape and type of {operand.like}"]
    facts += ["optional"] * operand.optional + ["ignored by TNN"] * operand.ignored + [operand.doc] * bool(operand.doc)
    return markdown(" ".join(words) + (f" ({', '.join(facts)})" if facts else ""))


def _int8(cls: type[Layer]) -> str:
    marked = [name for name in cls.types if name.startswith("Quantized")]
    weights = [name for name in cls.types if name.startswith("DynamicRangeQuantized")]
    found = []
    if marked and cls.to_onnx_int8 is not Layer.to_onnx_int8:
        found.append("runs on codes where the type says so (" + ", ".join(f"`{name}`" for name in marked) + ")")
    elif marked:
        found.append("does not run (" + ", ".join(f"`{name}`" for name in marked) + ")")
    if weights:
        found.append("int8 weights with float arithmetic (" + ", ".join(f"`{name}`" for name in weights) + ")")
    return "; ".join(found) + "." if found else "none; its blobs are float32 between int8 layers."


def _results(cls: type[Layer], counts: Counts) -> str:
    found = counts.of(list(cls.types))
    if not found:
        return "no case: TNN cannot run it alone." if executable(cls) else "no case: TNN cannot run it."
    results = [f"{name} {found[engine]}" for engine, name in ENGINES.items()]
    return f"{found['recorded']} cases; equal on " + ", ".join(results) + "."


def _parameters(cls: type[Layer]) -> Iterator[str]:
    if not cls.parameters:
        yield from ("No parameters.", "")
        return
    yield from ("| parameter | tokens | default | meaning |", "|---|---|---|---|")
    for spec in cls.parameters:
        yield f"| `{spec.name}` | {_tokens(spec)} | {_default(spec)} | {_meaning(spec)} |"
    yield ""


def _tokens(spec: Parameter) -> str:
    kind = {"CBool": "bool", "Int64": "int"}.get(spec.kind.__name__, spec.kind.__name__)
    if spec.form == "group":
        assert spec.group is not None
        return " ".join(spec.group._fields)  # type: ignore[attr-defined]
    if spec.form == "counted":
        return f"n, then {f'{spec.per} * n' if spec.per > 1 else 'n'} of {kind}"
    if spec.form == "rest":
        return f"all that follow, {kind}"
    return "h w, or none" if spec.form == "pair" else kind


def _default(spec: Parameter) -> str:
    if spec.form in ("rest", "pair"):
        return "none"
    if spec.default is REQUIRED:
        return "required"
    if isinstance(spec.default, tuple):
        return " ".join(f"{value:g}" for value in spec.default) or "empty"
    if isinstance(spec.default, float):
        return f"{spec.default:g}"
    return f"`{spec.default}`" if isinstance(spec.default, str) and spec.default else str(spec.default or 0)


def _meaning(spec: Parameter) -> str:
    found = [markdown(spec.doc)]
    if spec.values:
        found.append(", ".join(f"{value}: {markdown(word)}" for value, word in spec.values.items()))
    if spec.ge is not None:
        found.append(f"at least {spec.ge:g}")
    return "; ".join(found)


def _weights(cls: type[Layer]) -> Iterator[str]:
    if not cls.payload:
        if not cls.entry_allowed:
            yield from ("No entry in the model file is allowed.", "")
        return
    yield from ("| in the model file | as | layout and meaning |", "|---|---|---|")
    for spec in cls.payload:
        yield f"| `{spec.name}` | {_stored_as(spec)} | {_layout(spec)} |"
    yield ""


def _stored_as(spec: Stored) -> str:
    return {"text": "string", "flag": "int32", "byte": "byte", "beside": "buffer"}.get(spec.form, "buffer")


def _layout(spec: Stored) -> str:
    found = [markdown(spec.doc)]
    if spec.form == "beside":
        found.append("in front of the scale, where there are any")
    if spec.when is not None:
        found.append(f"there if `{spec.when}` is not 0")
    if spec.when_int8 is not None:
        found.append(f"there if `{spec.when_int8}` is int8")
    return "; ".join(found)


def fresh(_: str) -> str:
    return page(Counts(json.loads(COUNTS.read_text(encoding="utf-8")))).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(run(__doc__, PAGE, fresh))
