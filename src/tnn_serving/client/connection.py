"""One door to a Triton server, over HTTP or gRPC, that says clearly what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPException
from types import TracebackType
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np

from tnn_serving.config.model_config import ModelConfig
from tnn_serving.errors import ConfigError, RequestError, ServerError

Protocol = Literal["http", "grpc"]
PORTS: dict[Protocol, int] = {"http": 8000, "grpc": 8001}
SCHEMES: dict[str, tuple[Protocol, bool]] = {
    "http": ("http", False),
    "https": ("http", True),
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
}
"""Scheme of an address to protocol and encryption."""

UNREACHABLE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
"""gRPC codes that mean that no answer came."""

PHASES = ("success", "queue", "compute_input", "compute_infer", "compute_output")
"""Triton's names of what it measures of a request; the first is all of it."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is: ``host:port`` with an optional path prefix (HTTP), the protocol, encrypted or not."""

    protocol: Protocol
    target: str
    encrypted: bool

    @property
    def url(self) -> str:
        """The address with its scheme."""
        scheme = next(name for name, meant in SCHEMES.items() if meant == (self.protocol, self.encrypted))
        return f"{scheme}://{self.target}"


def parse_url(url: str | None, protocol: Protocol | None = None) -> Address:
    """The address that a user means.

    Args:
        url: ``host``, ``host:port`` or one of these behind ``http://``, ``https://``, ``grpc://``, ``grpcs://``; the
            local server if left out.
        protocol: of an address without a scheme; HTTP if left out.

    Raises:
        ConfigError: an address that cannot be read, or that contradicts ``protocol``.
    """
    text = url or "127.0.0.1"
    scheme, separator, _ = text.partition("://")
    if not separator:
        scheme, text = protocol or "http", f"//{text}"
    if scheme not in SCHEMES:
        raise ConfigError("address has an unknown scheme", expected=", ".join(SCHEMES), found=scheme)
    meant, encrypted = SCHEMES[scheme]
    if protocol is not None and protocol != meant:
        raise ConfigError("address and protocol contradict each other", expected=protocol, found=url)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError("address cannot be read", expected="host:port", found=f"{url} ({error})") from error
    if not host or parts.query or parts.fragment or (meant == "grpc" and parts.path.strip("/")):
        raise ConfigError("address cannot be read", expected="host:port", found=url)
    name = f"[{host}]" if ":" in host else host
    return Address(meant, f"{name}:{port or PORTS[meant]}{parts.path.rstrip('/')}", encrypted)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a model: its name, Triton's name of its type, and its dims with the batch, -1 where free.

    An ``optional`` input may be left out of a request.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the server says of a model."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    max_batch_size: int

    @property
    def picture_input(self) -> TensorInfo:
        """The input that takes a picture: bytes [..., H, W, C], or an encoded file.

        Raises:
            RequestError: there is none, or more than one input.
        """
        found = [item for item in self.inputs if _takes_pictures(item)]
        if len(found) != 1 or len(self.inputs) != 1:
            raise RequestError(
                f"model `{self.name}` does not take one picture",
                expected="one input of type UINT8 [height, width, 3], or BYTES",
                found=", ".join(f"{i.name} {i.datatype} {list(i.shape)}" for i in self.inputs),
                hint="a picture input is declared in config.pbtxt, see docs/serving.md",
            )
        return found[0]


def _takes_pictures(item: TensorInfo) -> bool:
    return item.datatype == "BYTES" or (
        item.datatype == "UINT8" and len(item.shape) in (3, 4) and item.shape[-1] in (-1, 3)
    )


def connect(url: str | None = None, protocol: Protocol | None = None, *, timeout_s: float = 60.0) -> Connection:
    """A connection to the server at ``url``, see :func:`parse_url`; nothing is sent yet.

    Raises:
        ConfigError: the address cannot be read.
    """
    return Connection(parse_url(url, protocol), timeout_s=timeout_s)


class Connection(AbstractContextManager["Connection"]):
    """A server that can be asked for its models and for inferences. Not to be shared by threads."""

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        # Imported here: the HTTP one starts gevent, which takes a quarter of a second.
        if address.protocol == "http":
            import tritonclient.http as api

            options: dict[str, Any] = {"connection_timeout": timeout_s, "network_timeout": timeout_s}
            self._timeout: dict[str, Any] = {}
        else:
            import tritonclient.grpc as api

            options = {}
            self._timeout = {"client_timeout": timeout_s}
        self._api = api
        self._json: dict[str, Any] = {} if address.protocol == "http" else {"as_json": True}
        self.address = address
        self._client = api.InferenceServerClient(address.target, ssl=address.encrypted, **options)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def ready_models(self) -> list[str]:
        """Names of the models that can be asked.

        Raises:
            ServerError: no answer.
        """
        index = self._call(lambda: self._client.get_model_repository_index(**self._json, **self._timeout))
        entries = index.get("models", []) if isinstance(index, dict) else index
        return sorted({entry["name"] for entry in entries if entry.get("state", "READY") == "READY"})

    def model(self, name: str) -> ModelInfo:
        """Inputs and outputs of a model.

        Raises:
            ServerError: no answer.
            RequestError: the server has no such model ready.
        """
        self._check_ready(name)
        metadata = self._call(lambda: self._client.get_model_metadata(name, **self._json, **self._timeout))
        answer = self._call(lambda: self._client.get_model_config(name, **self._json, **self._timeout))
        config = ModelConfig.read(answer.get("config", answer))
        optional = {tensor.name for tensor in config.input if tensor.optional}
        return ModelInfo(
            name,
            tuple(_tensor(item, optional) for item in metadata.get("inputs", [])),
            tuple(_tensor(item) for item in metadata.get("outputs", [])),
            config.max_batch_size,
        )

    def infer(
        self, model: ModelInfo, inputs: Mapping[str, np.ndarray], *, classes: Mapping[str, int] | None = None
    ) -> dict[str, np.ndarray]:
        """All outputs for these inputs, sent and answered as binary tensors.

        Args:
            inputs: name to array; bytes objects in an object array for BYTES.
            classes: outputs to be answered with Triton's classification extension: name to how many classes. Only
                these are answered then, as BYTES "score:index:label".

        Raises:
            ServerError: no answer.
            RequestError: the server refuses, or the model fails.
        """
        types = {item.name: item.datatype for item in model.inputs}
        tensors = []
        for name, array in inputs.items():
            tensor = self._api.InferInput(name, list(array.shape), types[name])
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        wanted = [self._api.InferRequestedOutput(name, class_count=count) for name, count in (classes or {}).items()]
        answer = self._call(lambda: self._client.infer(model.name, tensors, outputs=wanted or None, **self._timeout))
        names = list(classes) if classes else [item.name for item in model.outputs]
        return {name: answer.as_numpy(name) for name in names}

    def statistics(self, name: str) -> dict[str, int]:
        """Triton's counters of a model since it was loaded, all its versions together.

        ``requests`` that succeeded, ``inferences`` (rows), ``executions``, and the nanoseconds that the requests spent
        in ``queue_ns``, ``compute_input_ns``, ``compute_infer_ns``, ``compute_output_ns`` and in all, ``success_ns``.

        Raises:
            ServerError: no answer.
            RequestError: the server has no such model.
        """
        told = self._call(lambda: self._client.get_inference_statistics(name, **self._json, **self._timeout))
        totals = dict.fromkeys(("requests", "inferences", "executions", *(f"{phase}_ns" for phase in PHASES)), 0)
        for version in told.get("model_stats", []):
            phases = version.get("inference_stats", {})
            # gRPC's JSON leaves out what is zero and writes numbers as text.
            totals["requests"] += int(phases.get("success", {}).get("count", 0))
            totals["inferences"] += int(version.get("inference_count", 0))
            totals["executions"] += int(version.get("execution_count", 0))
            for phase in PHASES:
                totals[f"{phase}_ns"] += int(phases.get(phase, {}).get("ns", 0))
        return totals

    def register_shared_memory(self, name: str, key: str, size_bytes: int) -> None:
        """Lets requests name a region of system shared memory, which only a server on this machine can map.

        Raises:
            ServerError: no answer.
            RequestError: the server cannot map it.
        """
        self._call(lambda: self._client.register_system_shared_memory(name, key, size_bytes))

    def unregister_shared_memory(self, name: str) -> None:
        """Takes a region back; one that is not registered is no error.

        Raises:
            ServerError: no answer.
        """
        self._call(lambda: self._client.unregister_system_shared_memory(name))

    def _check_ready(self, name: str) -> None:
        if self._call(lambda: self._client.is_model_ready(name, **self._timeout)):
            return
        ready = self.ready_models()
        raise RequestError(
            f"server at {self.address.url} has no model `{name}` ready",
            expected=", ".join(ready) or "none is ready",
            found=name,
            hint="the server's log says why a model was not loaded",
        )

    def _call(self, ask: Callable[[], T]) -> T:
        from tritonclient.utils import InferenceServerException

        try:
            return ask()
        except InferenceServerException as error:
            status = str(error.status() or "")
            if any(code in status for code in UNREACHABLE):
                raise self._unreachable(error.message()) from error
            raise RequestError(
                f"server at {self.address.url} refused the request", found=f"{error.message()} {status}".strip()
            ) from error
        except OSError as error:
            raise self._unreachable(error.strerror or str(error)) from error
        except HTTPException as error:
            raise self._unreachable(f"what answers is no HTTP server ({error})") from error

    def _unreachable(self, reason: str) -> ServerError:
        other = "grpc" if self.address.protocol == "http" else "http"
        return ServerError(
            f"no answer from {self.address.url}",
            found=reason.strip().splitlines()[0] if reason.strip() else None,
            hint=f"start one with `tnn-serving serve REPOSITORY`, or give --url; port {PORTS['http']} speaks HTTP, "
            f"{PORTS['grpc']} gRPC (--protocol {other})",
        )


def _tensor(item: Mapping[str, Any], optional: Collection[str] = ()) -> TensorInfo:
    name = str(item["name"])
    return TensorInfo(name, str(item["datatype"]), tuple(int(dim) for dim in item["shape"]), name in optional)
