"""Compiling for the shapes that a configuration declares, before the first request."""

from __future__ import annotations

from tnn_serving.errors import ConfigError, RequestError
from tnn_serving.prepare.configuring import Configured
from tnn_serving.session import Session


def warm(model: Session, configured: Configured) -> None:
    """Compiles for the shapes that a configuration declares. Raises ConfigError: they do not fit the network."""
    try:
        for shapes in configured.settings.warm_shapes:
            model.warm(dict(shapes))
        for rows in configured.config.preferred_batch_size:
            model.warm({name: (rows, *shape[1:]) for name, shape in model.sizes.items()})
    except RequestError as error:
        raise ConfigError(f"declared shapes do not fit the network: {error}") from error
