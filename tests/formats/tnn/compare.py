"""What differs between two graphs, as words."""

from __future__ import annotations

from tnn_serving.graph import Graph
from tnn_serving.layers.base import Layer
from tnn_serving.tensor import BlobScale, Tensor


def differences(a: Graph, b: Graph) -> list[str]:
    """Everything that decides what a graph says, header data included; empty if the two are the same."""
    found = [
        f"{what}: {getattr(a, what)} / {getattr(b, what)}"
        for what in ("inputs", "outputs", "version", "encoding")
        if getattr(a, what) != getattr(b, what)
    ]
    if [layer.name for layer in a.layers] != [layer.name for layer in b.layers]:
        return [*found, f"layers: {[layer.name for layer in a.layers]} / {[layer.name for layer in b.layers]}"]
    for one, other in zip(a.layers, b.layers, strict=True):
        found += layer_differences(one, other)
    found += _mapping("constant", a.constants, b.constants)
    found += _mapping("scale", a.scales, b.scales)
    return found


def layer_differences(a: Layer, b: Layer) -> list[str]:
    """Fields of two layers that are not equal, as ``name.field: one / other``."""
    if type(a) is not type(b):
        return [f"{a.name}: {type(a).__name__} / {type(b).__name__}"]
    fields = ["type", "name", "inputs", "outputs", "surplus"]
    fields += [spec.name for spec in (*a.parameters, *a.payload)]
    return [
        f"{a.name}.{name}: {_shown(getattr(a, name))} / {_shown(getattr(b, name))}"
        for name in fields
        if getattr(a, name) != getattr(b, name)
    ]


def _mapping(what: str, a: dict[str, Tensor] | dict[str, BlobScale], b: object) -> list[str]:
    assert isinstance(b, dict)
    found = [f"{what} {name} is on one side only" for name in sorted(a.keys() ^ b.keys())]
    both = [name for name in a if name in b and a[name] != b[name]]
    return found + [f"{what} {name}: {_shown(a[name])} / {_shown(b[name])}" for name in both]


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype.name} {value.dims} {value.version:#x} {bytes(value.data[:16]).hex()}"
    return repr(value)
