"""A client of one Triton server, over HTTP or gRPC, with clear errors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPException
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from tnn_serving.config.model_config import ModelConfig
from tnn_serving.errors import ConfigError, RequestError, ServerError
from tnn_serving.nearest import did_you_mean

if TYPE_CHECKING:
    import numpy as np

Protocol = Literal["http", "grpc"]
PORTS: dict[Protocol, int] = {"http": 8000, "grpc": 8001}
SCHEMES: dict[str, tuple[Protocol, bool]] = {
    "http": ("http", False),
    "https": ("http", True),
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
}
"""Protocol and encryption for each scheme of an address."""

UNREACHABLE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
"""gRPC codes of a call without an answer."""

PHASES = ("success", "queue", "compute_input", "compute_infer", "compute_output")
"""Triton's names of the durations it measures per request; the first is the total."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a server.

    Attributes:
        target: ``host:port``, for HTTP with an optional path prefix.
    """

    protocol: Protocol
    target: str
    encrypted: bool

    @property
    def url(self) -> str:
        """The address with its scheme."""
        scheme = next(name for name, kind in SCHEMES.items() if kind == (self.protocol, self.encrypted))
        return f"{scheme}://{self.target}"


def parse_url(url: str | None, protocol: Protocol | None = None) -> Address:
    """The address in a URL.

    Args:
        url: ``host`` or ``host:port``, with or without ``http://``, ``https://``, ``grpc://`` or ``grpcs://``; the
            local server by default.
        protocol: for an address without a scheme; HTTP by default.

    Raises:
        ConfigError: an address that cannot be parsed, or that contradicts ``protocol``.
    """
    text = url or "127.0.0.1"
    scheme, separator, _ = text.partition("://")
    if not separator:
        scheme, text = protocol or "http", f"//{text}"
    if scheme not in SCHEMES:
        raise ConfigError("address has an unknown scheme", expected=", ".join(SCHEMES), found=scheme)
    chosen, encrypted = SCHEMES[scheme]
    if protocol is not None and protocol != chosen:
        raise ConfigError("address and protocol contradict each other", expected=protocol, found=url)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError("invalid address", expected="host:port", found=f"{url} ({error})") from error
    if not host or parts.query or parts.fragment or (chosen == "grpc" and parts.path.strip("/")):
        raise ConfigError("invalid address", expected="host:port", found=url)
    name = f"[{host}]" if ":" in host else host
    return Address(chosen, f"{name}:{port or PORTS[chosen]}{parts.path.rstrip('/')}", encrypted)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of a model.

    Attributes:
        datatype: Triton's name of the type.
        shape: dims with the batch, -1 where free.
        optional: whether an input may be left out of a request.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model's inputs and outputs, as the server reports them."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    max_batch_size: int

    @property
    def picture_input(self) -> TensorInfo:
        """The input that takes a picture: pixels [..., H, W, C], or an encoded file.

        Raises:
            RequestError: there is no such input, or there are several inputs.
        """
        found = [item for item in self.inputs if _takes_pictures(item)]
        if len(found) != 1 or len(self.inputs) != 1:
            raise RequestError(
                f"model `{self.name}` does not take one picture",
                expected="one input of type UINT8 [height, width, 3], or BYTES",
                found=", ".join(f"{i.name} {i.datatype} {list(i.shape)}" for i in self.inputs),
                hint="a picture input is declared in config.pbtxt, see docs/guides/serving.md",
            )
        return found[0]


def _takes_pictures(item: TensorInfo) -> bool:
    return item.datatype == "BYTES" or (
        item.datatype == "UINT8" and len(item.shape) in (3, 4) and item.shape[-1] in (-1, 3)
    )


def connect(url: str | None = None, protocol: Protocol | None = None, *, timeout_s: float = 60.0) -> Connection:
    """A connection to the server at ``url``, see :func:`parse_url`. Nothing is sent yet.

    Raises:
        ConfigError: the address cannot be parsed.
    """
    return Connection(parse_url(url, protocol), timeout_s=timeout_s)


class Connection(AbstractContextManager["Connection"]):
    """A client for a server's models, statistics and inferences. Not thread-safe."""

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        # Imported here: the HTTP client starts gevent, which takes a quarter of a second.
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
        """Closes the connection."""
        self._client.close()

    def ready_models(self) -> list[str]:
        """Names of the models that are ready.

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
        """All outputs for these inputs. Tensors are sent and received in binary form.

        Args:
            inputs: arrays by name; for BYTES, object arrays of bytes objects.
            classes: number of classes by output, for Triton's classification extension. If given, only these outputs
                are returned, as BYTES "score:index:label".

        Raises:
            ServerError: no answer.
            RequestError: the server refuses the request, or the model fails.
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
        """Triton's counters of a model since it was loaded, summed over its versions.

        ``requests`` that succeeded, ``inferences`` (rows), ``executions``, and the requests' durations in nanoseconds:
        ``success_ns`` is the total, ``queue_ns``, ``compute_input_ns``, ``compute_infer_ns`` and ``compute_output_ns``
        are its parts.

        Raises:
            ServerError: no answer.
            RequestError: the server has no such model.
        """
        answer = self._call(lambda: self._client.get_inference_statistics(name, **self._json, **self._timeout))
        totals = dict.fromkeys(("requests", "inferences", "executions", *(f"{phase}_ns" for phase in PHASES)), 0)
        for version in answer.get("model_stats", []):
            phases = version.get("inference_stats", {})
            # gRPC's JSON omits zeros and writes numbers as text.
            totals["requests"] += int(phases.get("success", {}).get("count", 0))
            totals["inferences"] += int(version.get("inference_count", 0))
            totals["executions"] += int(version.get("execution_count", 0))
            for phase in PHASES:
                totals[f"{phase}_ns"] += int(phases.get(phase, {}).get("ns", 0))
        return totals

    def register_shared_memory(self, name: str, key: str, size_bytes: int) -> None:
        """Registers a region of system shared memory for use in requests. Only a server on this machine can map it.

        Raises:
            ServerError: no answer.
            RequestError: the server cannot map it.
        """
        self._call(lambda: self._client.register_system_shared_memory(name, key, size_bytes))

    def unregister_shared_memory(self, name: str) -> None:
        """Unregisters a region. Does nothing if it is not registered.

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
            hint=did_you_mean(name, ready) or "see the server's log for why a model was not loaded",
        )

    def _call(self, call: Callable[[], T]) -> T:
        from tritonclient.utils import InferenceServerException

        try:
            return call()
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
            raise self._unreachable(f"it is not an HTTP server ({error})") from error

    def _unreachable(self, reason: str) -> ServerError:
        other = "grpc" if self.address.protocol == "http" else "http"
        return ServerError(
            f"no answer from {self.address.url}",
            found=reason.strip().splitlines()[0] if reason.strip() else None,
            hint=f"start a server with `tnn-serving serve REPOSITORY`, or give --url; HTTP uses port {PORTS['http']}, "
            f"gRPC {PORTS['grpc']} (--protocol {other})",
        )


def _tensor(item: Mapping[str, Any], optional: Collection[str] = ()) -> TensorInfo:
    name = str(item["name"])
    return TensorInfo(name, str(item["datatype"]), tuple(int(dim) for dim in item["shape"]), name in optional)
