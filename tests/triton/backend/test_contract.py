"""The C side of the contract is what its declaration says."""

from __future__ import annotations

from tnn_serving.triton.backend.contract_header import HEADER, header


def test_header_is_up_to_date() -> None:
    assert HEADER.read_text() == header(), "run: python -m tnn_serving.triton.backend.contract_header"
