"""How large a picture may be."""

from __future__ import annotations

MAX_PIXELS = 50_000_000
"""Default limit of width x height of an encoded picture: 200 MB while it is decoded."""

PILLOW_MAX_PIXELS = 2 * 89_478_485
"""Pillow's hard limit of width x height (twice its default ``MAX_IMAGE_PIXELS``)."""

MAX_SIDE = 1280
"""Default of the longest side that a client sends to a detector: larger pictures are shrunk, which bounds time and
memory per request."""
