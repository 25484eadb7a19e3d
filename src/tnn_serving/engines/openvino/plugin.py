"""OpenVINO's CPU plugin: how networks are compiled with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import openvino as ov

from tnn_serving.engines.base import Options
from tnn_serving.engines.cpu import cpu_name
from tnn_serving.engines.openvino import profile
from tnn_serving.engines.openvino.errors import reason
from tnn_serving.engines.store import FileStore
from tnn_serving.errors import EngineError
from tnn_serving.version import VERSION

NOTHING_STORED = FileStore(None)

LEAST_KERNELS = 256
"""Kernels that an executable with free shapes keeps, or one for each of its operators if these are more: those of
several shapes, or of one. OpenVINO would keep 5000, some 0.1 MB each, for every network. Shapes that come often are
compiled for anyway."""

KERNELS_IN_COMMON = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""What oneDNN, below OpenVINO, keeps for the next equal layer that is compiled: 1024 kernels by default, some 0.1 MB
for every new shape of a network. Compiled networks keep their own; equal layers of one network still share theirs."""

# OpenVINO's bindings fill a table of types when first asked, without the care that several threads need: two of them
# that ask at once can wait for each other for ever. Asked here, the table is full before there is a second thread.
ov.Type.f32.to_dtype()


@cache
def core() -> ov.Core:
    """OpenVINO's entry, made when it is first used."""
    for name, value in KERNELS_IN_COMMON.items():
        os.environ.setdefault(name, value)  # oneDNN reads it when it first compiles
    return ov.Core()


def properties_of(network: ov.Model, options: Options) -> dict[str, Any]:
    """What a network is compiled with."""
    operators = sum(node.get_type_name() != "Constant" for node in network.get_ops())
    properties: dict[str, Any] = {
        # Without this, CPUs with bf16 units compute in bf16 silently: 0.4 to 2 % off.
        "INFERENCE_PRECISION_HINT": options.precision,
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned threads of several models sit on the same cores, and wait there behind the server's own threads.
        "ENABLE_CPU_PINNING": False,
        "CPU_RUNTIME_CACHE_CAPACITY": max(LEAST_KERNELS, operators),
    }
    if options.threads:
        properties["INFERENCE_NUM_THREADS"] = options.threads
    if options.streams:
        properties["NUM_STREAMS"] = options.streams
    if options.profile:
        properties |= profile.PROPERTIES
    return properties


def compile_network(
    network: ov.Model, properties: Mapping[str, Any], store: FileStore = NOTHING_STORED, serialized: bytes = b""
) -> ov.CompiledModel:
    """Compiles, or takes what was compiled of the same model before.

    OpenVINO's own cache (CACHE_DIR) looks at no more than the version in its files: one with a flipped bit gives wrong
    answers. It also maps them, so that one that is cut short later ends the process.

    Args:
        serialized: the ONNX model, which names what is stored.

    Raises:
        EngineError: OpenVINO cannot compile the network.
    """
    name = ""
    if store.folder is not None:
        facts = f"{ov.__version__} {VERSION} {cpu_name()} {sorted(properties.items())}"
        name = hashlib.sha256(hashlib.sha256(serialized).digest() + facts.encode()).hexdigest() + ".blob"
        blob = store.get(name)
        if blob is not None:
            with suppress(RuntimeError):  # it was exported by another build of the same version, at worst
                return core().import_model(blob, "CPU", dict(properties))
    try:
        compiled = core().compile_model(network, "CPU", dict(properties))
        if store.folder is not None:
            store.put(name, compiled.export_model().getvalue())
    except RuntimeError as error:
        raise EngineError("OpenVINO cannot compile the network", found=reason(error)) from error
    return compiled
