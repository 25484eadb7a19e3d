"""Hostile HTTP requests to a real server behind the shield: each is refused or answered, and neighbours are well."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest

from tests.shield.conftest import Alone, Shielded, StartAlone
from tests.shield.raw import INFER, JSON, RIGHT, chunked, with_length
from tnn_serving.shield.configuration import CallerLimits

DEEP = 40_000
NESTED = b"[" * DEEP + b"]" * DEEP


def binary_request(header: bytes, tensor: bytes) -> bytes:
    return with_length(header + tensor, b"Inference-Header-Content-Length: %d" % len(header))


def test_600000_chunks_of_one_byte(shielded: Shielded) -> None:
    answer = shielded.send(INFER + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 600_000 + b"0\r\n\r\n")
    assert "failed to parse the request JSON" in answer.error
    shielded.assert_well()


@pytest.mark.parametrize(
    "request_bytes",
    [
        with_length(NESTED),
        with_length(b'{"inputs": ' + b'{"a": ' * DEEP),
        with_length(b'{"id": "a quote \\" and a backslash \\\\", "inputs": ' + NESTED + b"}"),
        chunked(NESTED, 1000),
        binary_request(b'{"inputs": ' + NESTED + b"}", bytes(16)),
        with_length(gzip.compress(NESTED), b"Content-Encoding: gzip"),
        with_length(NESTED, start=b"POST /v2/models/relu/generate HTTP/1.1\r\nHost: x\r\n"),
        with_length(NESTED, start=b"POST /v2/models/relu/versions/1/infer HTTP/1.1\r\nHost: x\r\n"),
    ],
    ids=[
        "arrays",
        "objects",
        "after a string",
        "in chunks",
        "before binary tensors",
        "compressed",
        "generate",
        "version",
    ],
)
def test_json_that_is_nested_deep(shielded: Shielded, request_bytes: bytes) -> None:
    answer = shielded.send(request_bytes)
    assert answer.status == 400
    assert answer.error == "the request's JSON is nested more than 64 deep"
    shielded.assert_well()


def test_nested_json_for_the_repository_needs_the_token_first(shielded: Shielded) -> None:
    start = b"POST /v2/repository/models/idle/load HTTP/1.1\r\nHost: x\r\n"
    assert shielded.send(with_length(NESTED, start=start)).status == 403
    token = f"tnn-admin-token: {shielded.running.supervisor.token}".encode()
    assert shielded.send(with_length(NESTED, token, start=start)).status == 400
    shielded.assert_well()


def test_brackets_in_strings_and_in_binary_tensors_do_not_nest(shielded: Shielded) -> None:
    tensor = {"name": "x", "shape": [1, 1, 2, 2], "datatype": "FP32"}
    named = {"id": "[" * 200 + '\\"{' * 200 + "\\", "inputs": [{**tensor, "data": [-1, 2, -3, 4]}]}
    assert shielded.send(with_length(json.dumps(named).encode())).outputs == RIGHT
    brackets = b"[[[[" * (64 * 64)
    values = np.frombuffer(brackets, np.float32)
    header = {**tensor, "shape": [1, 1, 64, 64], "parameters": {"binary_data_size": len(brackets)}}
    answer = shielded.send(binary_request(json.dumps({"inputs": [header]}).encode(), brackets))
    np.testing.assert_array_equal(np.array(answer.outputs, np.float32), np.maximum(values, 0))


def test_a_tensor_of_sixteen_dims_in_json_is_not_nested_too_deep(shielded: Shielded) -> None:
    data: object = 1.0
    for _ in range(16):
        data = [data]
    request = {"inputs": [{"name": "x", "shape": [1] * 16, "datatype": "FP32", "data": data}]}
    answer = shielded.send(with_length(json.dumps(request).encode()))
    assert "nested" not in answer.body


@pytest.mark.parametrize("stated", [b"-1", b"+1", b"0x10", b"99999999", b"1e2", b"1 2", b"", b"99999999999999999999"])
def test_a_header_length_that_is_none(shielded: Shielded, stated: bytes) -> None:
    answer = shielded.send(with_length(JSON, b"Inference-Header-Content-Length: " + stated))
    assert answer.status == 400
    shielded.assert_well()


def test_two_header_lengths(shielded: Shielded) -> None:
    stated = b"Inference-Header-Content-Length: %d" % len(JSON)
    assert shielded.send(with_length(JSON, stated)).outputs == RIGHT
    assert shielded.send(with_length(JSON, stated, stated)).status == 400


def test_too_much(start_alone: StartAlone) -> None:
    alone = start_alone(CallerLimits(request_bytes=100_000, json_bytes=50_000))
    assert alone.send(with_length(bytes(100_001))).status == 413
    assert alone.send(INFER + b"Content-Length: 99999999999\r\n\r\n").status == 413
    assert alone.send(chunked(bytes(100_001), 5000)).status == 413
    assert alone.send(with_length(gzip.compress(bytes(100_001)), b"Content-Encoding: gzip")).status == 413
    bomb = gzip.compress(bytes(50 << 20))
    assert len(bomb) < 100_000
    assert alone.send(with_length(bomb, b"Content-Encoding: gzip")).status == 413
    answer = alone.send(with_length(b" " * 50_001))
    assert (answer.status, "50000 bytes of JSON" in answer.error) == (413, True)
    assert not alone.behind.requests
    assert alone.send(binary_request(b"{}", bytes(99_998))).status == 200
    assert alone.send(with_length(b" " * 50_000)).status == 200
    assert [len(request.partition(b"\r\n\r\n")[2]) for request in alone.behind.requests] == [100_000, 50_000]


def test_compressed_bodies_arrive_unpacked(alone: Alone) -> None:
    zeros = b"{}" + bytes(602_112)  # compressed to a thousandth, nearly the most that is possible
    request = with_length(gzip.compress(zeros), b"Content-Encoding: gzip", b"Inference-Header-Content-Length: 2")
    assert alone.send(request).status == 200
    lines, body = alone.behind.newest()
    assert body == zeros
    assert b"content-length: %d" % len(zeros) in lines
    assert not any(line.startswith(b"content-encoding") for line in lines)


@pytest.mark.parametrize("encoding", [b"deflate", b"gzip, gzip", b"br", b"GZIP, deflate", b"chunked"])
def test_other_compression_is_refused(shielded: Shielded, encoding: bytes) -> None:
    answer = shielded.send(with_length(zlib.compress(JSON), b"Content-Encoding: " + encoding))
    assert (answer.status, answer.error) == (415, "request bodies may be compressed with gzip only")


REFUSED = {
    "two lengths": INFER + b"Content-Length: 5\r\nContent-Length: %d\r\n\r\n" % len(JSON) + JSON,
    "length twice": INFER + b"Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (len(JSON), len(JSON)) + JSON,
    "length with a sign": INFER + b"Content-Length: +%d\r\n\r\n" % len(JSON) + JSON,
    "length in hexadecimal": INFER + b"Content-Length: 0x10\r\n\r\n" + JSON,
    "length before a blank": INFER + b"Content-Length : %d\r\n\r\n" % len(JSON) + JSON,
    "length and chunks": chunked(JSON, 5, b"", b"Content-Length: 5"),
    "chunks twice": chunked(JSON, 5, b"", b"Transfer-Encoding: chunked"),
    "chunks and gzip": chunked(JSON, 5, b"", b"Transfer-Encoding: gzip"),
    "unknown encoding": INFER + b"Transfer-Encoding: xchunked\r\n\r\n" + JSON,
    "chunk of negative size": INFER + b"Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",
    "chunk of endless size": INFER + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\na\r\n",
    "zero byte": with_length(JSON, b"X: a\0b"),
    "name with an underscore": with_length(JSON, b"content_length: 5"),
    "200 headers": with_length(JSON, *(b"X%d: y" % k for k in range(200))),
    "a header of 100 kB": with_length(JSON, b"X: " + b"y" * 100_000),
    "no host": with_length(JSON, start=b"POST /v2/models/relu/infer HTTP/1.1\r\n"),
    "HTTP/1.0": with_length(JSON, start=b"POST /v2/models/relu/infer HTTP/1.0\r\n"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x00\xa5\x01\x00\x00" * 20,
}


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_requests_are_refused(alone: Alone, name: str) -> None:
    assert alone.send(REFUSED[name]).status in (0, 400, 403, 404, 426, 431, 501)
    assert not alone.behind.requests


ODD = {
    "length": with_length(JSON),
    "chunks": chunked(JSON),
    "chunk extensions": chunked(JSON, 7, b';a="b";c'),
    "long chunk extensions": chunked(JSON, 50, b";" + b"x" * 1000),
    "trailers": chunked(JSON, 9)[:-2] + b"X-Trailer: y\r\n\r\n",
    "leading zeros": INFER + b"Transfer-Encoding: chunked\r\n\r\n%016x\r\n%s\r\n0\r\n\r\n" % (len(JSON), JSON),
    "folded header": with_length(JSON, b"X: a\r\n b"),
    "folded length": INFER + b"Content-Length:\r\n %d\r\n\r\n" % len(JSON) + JSON,
    "lines without carriage return": with_length(JSON).replace(b"\r\n", b"\n"),
    "Expect": with_length(JSON, b"Expect: 100-continue"),
    "Upgrade": with_length(JSON, b"Connection: Upgrade", b"Upgrade: h2c"),
    "hop-by-hop length": with_length(JSON, b"Connection: Content-Length"),
    "whole URL": with_length(JSON, start=b"POST http://y/v2/models/relu/infer HTTP/1.1\r\nHost: x\r\n"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_requests_arrive_in_the_usual_form_or_not_at_all(alone: Alone, name: str) -> None:
    answer = alone.send(ODD[name])
    assert answer.status in (200, 400, 403)
    if answer.status != 200:
        assert not alone.behind.requests
        return
    lines, body = alone.behind.newest()
    assert lines[0] == b"post /v2/models/relu/infer http/1.1"
    assert body == JSON
    assert lines.count(b"content-length: %d" % len(JSON)) == 1
    names = [line.partition(b":")[0] for line in lines[1:]]
    assert not {b"transfer-encoding", b"expect", b"upgrade", b"trailer"} & set(names)
    assert all(name and not name[:1].isspace() for name in names)


def test_requests_that_follow_each_other_in_one_connection(shielded: Shielded) -> None:
    answer = shielded.send(with_length(JSON) + with_length(NESTED) + with_length(JSON))
    assert answer.outputs == RIGHT
    shielded.assert_well()
