"""TLS and mutual TLS, for HTTP and gRPC."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import trustme

from tests.servers import ask
from tests.shield.conftest import Shielded, StartAlone
from tests.shield.raw import JSON, connect, send, with_length
from tnn_serving.shield.configuration import Tls

pytestmark = pytest.mark.slow

X = np.array([-1, 2, -3, 4], np.float32).reshape(1, 1, 2, 2)


class Authority:
    """An authority and what it has signed, as files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.certificate = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.certificate))
        self.server = self._signed(authority, folder, "server", "localhost")
        self.client = self._signed(authority, folder, "client", "client.example")
        self.stranger = self._signed(trustme.CA(), folder, "stranger", "client.example")

    @staticmethod
    def _signed(authority: trustme.CA, folder: Path, name: str, host: str) -> tuple[Path, Path]:
        leaf = authority.issue_cert(host)
        chain, key = folder / f"{name}.pem", folder / f"{name}.key"
        leaf.cert_chain_pems[0].write_to_path(str(chain))
        leaf.private_key_pem.write_to_path(str(key))
        return chain, key

    def context(self, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.certificate))
        if client is not None:
            context.load_cert_chain(*map(str, client))
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize("mutual", [False, True])
def test_official_clients_over_tls(start_shielded: Callable[..., Shielded], authority: Authority, mutual: bool) -> None:
    chain, key = authority.server
    shielded = start_shielded(tls=Tls(chain, key, authority.certificate if mutual else None))
    client_chain, client_key = authority.client if mutual else (None, None)
    http_port, grpc_port = (url.rpartition(":")[2] for url in (shielded.running.http_url, shielded.running.grpc_url))
    context = authority.context(authority.client if mutual else None)
    with tritonclient.http.InferenceServerClient(
        f"localhost:{http_port}", ssl=True, ssl_context_factory=lambda: context
    ) as client:
        np.testing.assert_array_equal(ask((tritonclient.http, client), "relu", X).as_numpy("y"), np.maximum(X, 0))
    with tritonclient.grpc.InferenceServerClient(
        f"localhost:{grpc_port}",
        ssl=True,
        root_certificates=str(authority.certificate),
        private_key=client_key and str(client_key),
        certificate_chain=client_chain and str(client_chain),
    ) as client:
        np.testing.assert_array_equal(ask((tritonclient.grpc, client), "relu", X).as_numpy("y"), np.maximum(X, 0))


def test_without_tls_nothing_is_answered(start_alone: StartAlone, authority: Authority) -> None:
    alone = start_alone(tls=Tls(*authority.server))
    assert alone.send(with_length(JSON)).status == 0
    assert send(alone.address, with_length(JSON), tls=authority.context()).status == 200
    assert len(alone.behind.requests) == 1


def test_a_caller_without_a_certificate_of_the_authority_is_refused(
    start_alone: StartAlone, authority: Authority
) -> None:
    alone = start_alone(tls=Tls(*authority.server, authority.certificate))
    for refused in (authority.context(), authority.context(authority.stranger)):
        # TLS 1.3 tells a refused client with its first answer.
        with pytest.raises(ssl.SSLError):
            send(alone.address, with_length(JSON), tls=refused)
    assert not alone.behind.requests
    assert send(alone.address, with_length(JSON), tls=authority.context(authority.client)).status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(start_alone: StartAlone, authority: Authority, version: ssl.TLSVersion) -> None:
    alone = start_alone(tls=Tls(*authority.server))
    context = authority.context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSVersion"):
        context.minimum_version = context.maximum_version = version
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(alone.address, tls=context)


def test_grpc_of_a_stranger_is_refused(start_alone: StartAlone, authority: Authority) -> None:
    alone = start_alone(tls=Tls(*authority.server, authority.certificate))
    endpoint = alone.front.public.endpoint("grpc")
    assert endpoint is not None
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    with grpc.secure_channel(f"localhost:{endpoint[1]}", credentials) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=30)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
