"""The version of the package, read by the build and written into exported models."""

from __future__ import annotations

VERSION = "0.1.0"
