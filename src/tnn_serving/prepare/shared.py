"""Models that several servables use: one compilation and one copy of the weights for equal files and settings."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

from tnn_serving.session import Session

if TYPE_CHECKING:
    from tnn_serving.model import Model


SharedModel = TypeVar("SharedModel", bound=Session)


class SharedModels(Generic[SharedModel]):
    """The models in use by all that they depend on, each until its last user is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: weakref.WeakValueDictionary[Hashable, SharedModel] = weakref.WeakValueDictionary()
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], SharedModel]) -> SharedModel:
        """The model of ``key``, made if there is none; other threads that ask meanwhile wait for it."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            model = self._models.get(key)
            if model is None:
                model = self._models[key] = make()
        with self._lock:
            self._making.pop(key, None)
        return model


SHARED: SharedModels[Model] = SharedModels()
"""The models that this process has compiled itself."""
