"""The paths of KServe's protocol and Triton's extensions, by the names that Triton uses to restrict them.

Everything else is answered with 404. Source: Triton's protocol documents, and the endpoints that tritonserver 2.51
registers.
"""

from __future__ import annotations

from dataclasses import dataclass

_MODEL = "/v2/models/[^/]+"
_VERSION = f"{_MODEL}(/versions/[0-9]+)?"
_GRPC = "/inference.GRPCInferenceService"
_HEALTH = "/grpc.health.v1.Health"


@dataclass(frozen=True, slots=True)
class Path:
    """Requests of one kind.

    Attributes:
        api: Triton's name of the group, as in ``--http-restricted-api``.
        method: of HTTP.
        pattern: regular expression of the whole path, without the query.
        streams: whether the answer comes in parts, or requests follow each other in one call: it is not buffered, and
            may pause for any time.
        names_model: whether the message names a model that need not be loaded, so that its name is looked into.
    """

    api: str
    method: str
    pattern: str
    streams: bool = False
    names_model: bool = False


HTTP = (
    Path("inference", "POST", f"{_VERSION}/infer"),
    Path("inference", "POST", f"{_VERSION}/(generate|generate_stream)"),
    Path("health", "GET", f"/v2/health/(live|ready)|{_VERSION}/ready"),
    Path("statistics", "GET", f"/v2/models/stats|{_VERSION}/stats"),
    Path("metadata", "GET", f"/v2/?|{_VERSION}"),
    Path("model-config", "GET", f"{_VERSION}/config"),
    Path("model-repository", "POST", "/v2/repository(/[^/]+)?/(index|models/[^/]+/(load|unload))"),
    Path("shared-memory", "GET", "/v2/(system|cuda)sharedmemory(/region/[^/]+)?/status"),
    Path("shared-memory", "POST", "/v2/(system|cuda)sharedmemory/region/[^/]+/register"),
    Path("shared-memory", "POST", "/v2/(system|cuda)sharedmemory(/region/[^/]+)?/unregister"),
    Path("trace", "GET", f"(/v2|{_MODEL})/trace/setting"),
    Path("trace", "POST", f"(/v2|{_MODEL})/trace/setting"),
    Path("logging", "GET", "/v2/logging"),
    Path("logging", "POST", "/v2/logging"),
)

GRPC = (
    Path("inference", "POST", f"{_GRPC}/ModelInfer"),
    Path("inference", "POST", f"{_GRPC}/ModelStreamInfer", streams=True),
    Path("health", "POST", f"{_GRPC}/(ServerLive|ServerReady|ModelReady)|{_HEALTH}/Check"),
    Path("metadata", "POST", f"{_GRPC}/(ServerMetadata|ModelMetadata)"),
    Path("model-config", "POST", f"{_GRPC}/ModelConfig"),
    Path("statistics", "POST", f"{_GRPC}/ModelStatistics"),
    Path("model-repository", "POST", f"{_GRPC}/RepositoryIndex"),
    Path("model-repository", "POST", f"{_GRPC}/RepositoryModel(Load|Unload)", names_model=True),
    Path("shared-memory", "POST", f"{_GRPC}/(System|Cuda)SharedMemory(Status|Register|Unregister)"),
    Path("trace", "POST", f"{_GRPC}/TraceSetting"),
    Path("logging", "POST", f"{_GRPC}/LogSettings"),
)

METRICS = Path("metrics", "GET", "/metrics")
