"""Reads the settings of a model from its configuration and the server's command line."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tnn_serving.config.model_config import CONFIG_FILE, ModelConfig
from tnn_serving.config.settings import SETTINGS, ModelSettings, PictureSettings
from tnn_serving.errors import ConfigError
from tnn_serving.nearest import did_you_mean

log = logging.getLogger(__name__)

CommandLine = Mapping[str, str]
"""Parameters of the server's command line, ``--backend-config=tnn,KEY=VALUE``: defaults for all models."""


def read_settings(config: ModelConfig, options: CommandLine) -> ModelSettings:
    """The settings of a model.

    Raises:
        ConfigError: a parameter has a value that cannot be read, is not allowed in a model folder, names no picture
            input, or contradicts another one.
    """
    settings, problems = try_settings(config, options)
    if problems:
        raise problems[0]
    return settings


def try_settings(config: ModelConfig, options: CommandLine) -> tuple[ModelSettings, list[ConfigError]]:
    """The settings of a model, with the default in place of each that is wrong, and what is wrong. Unknown parameters
    are warned of: Triton's parameters are free text."""
    problems = list(_not_allowed(config))
    pictures = [tensor.name for tensor in config.input if tensor.datatype in ("UINT8", "BYTES")]
    texts: dict[str, str] = {}
    values: dict[str, Any] = {}
    for key, text in _written(config, options).items():
        name, _, base = key.rpartition(".")
        known = SETTINGS.get(base)
        if known is None or (name and not known.per_input):
            hint = did_you_mean(key, SETTINGS)
            log.warning("parameter `%s` is not known%s", key, f": {hint}" if hint else "")
            continue
        try:
            if name and name not in pictures:
                raise ConfigError(
                    f"parameter `{key}` names no picture input",
                    expected=", ".join(sorted(pictures)) or "an input of data_type TYPE_UINT8 or TYPE_STRING",
                    found=name,
                )
            values[key] = known.value(text, key)
            texts[key] = text
        except ConfigError as problem:
            problems.append(problem)
    found = []
    for name in pictures:
        picture = _Picture(name, texts)
        settings = PictureSettings(**picture.chosen(values))
        wrong = list(picture.contradictions(settings))
        problems += wrong
        found.append((name, PictureSettings() if wrong else settings))
    whole = {one.name: values[one.key] for one in SETTINGS.values() if not one.per_input and one.key in values}
    return ModelSettings(**whole, pictures=tuple(found)), problems


def _written(config: ModelConfig, options: CommandLine) -> dict[str, str]:
    """The texts of all parameters: a model's own before the command line's, except where the operator decides."""
    defaults = {key.replace("-", "_"): text for key, text in options.items()}
    decided = {key: text for key, text in defaults.items() if key in SETTINGS and SETTINGS[key].operators}
    return {**defaults, **config.parameters, **decided}


def _not_allowed(config: ModelConfig) -> Iterator[ConfigError]:
    """Parameters of a model folder that only the command line may have: engines read and write a cache as their own."""
    for key in config.parameters:
        if key in SETTINGS and SETTINGS[key].operators == "only":
            yield ConfigError(
                f"parameter `{key}` is not allowed in {CONFIG_FILE}", hint=f"--backend-config=tnn,{key}=VALUE sets it"
            )


@dataclass(frozen=True, slots=True)
class _Picture:
    """The parameters of one picture input as they are written: for it alone, or for all."""

    name: str
    texts: Mapping[str, str]

    def key(self, setting: str) -> str:
        """A parameter as it is written for this input."""
        return f"{self.name}.{setting}" if f"{self.name}.{setting}" in self.texts else setting

    def chosen(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by field."""
        return {
            one.name: values[self.key(one.key)]
            for one in SETTINGS.values()
            if one.per_input and self.key(one.key) in values
        }

    def contradictions(self, picture: PictureSettings) -> Iterator[ConfigError]:
        """Parameters that exclude each other, or have no effect."""
        for setting in ("resize_mode", "interpolation"):
            if picture.resize is None and self._has_no_effect(setting, "resize"):
                yield self._error(setting, "resize", "a size to resize to")
        if picture.resize_mode != "letterbox" and self._has_no_effect("border", "resize_mode"):
            yield self._error("border", "resize_mode", "`resize_mode` letterbox")
        if picture.crop is None:
            return
        if picture.resize_mode == "letterbox":
            yield self._error("crop", "resize_mode", "`resize_mode` stretch or cover")
        if picture.resize is not None and (picture.crop[0] > picture.resize[0] or picture.crop[1] > picture.resize[1]):
            yield self._error("crop", "resize", "a crop within the size")

    def _has_no_effect(self, setting: str, other: str) -> bool:
        """It is written. One for all inputs may have no effect on an input with an ``other`` of its own."""
        key = self.key(setting)
        return key in self.texts and not (key == setting and f"{self.name}.{other}" in self.texts)

    def _error(self, setting: str, other: str, expected: str) -> ConfigError:
        keys = [(self.key(one), SETTINGS[one].default) for one in (setting, other)]
        return ConfigError(
            f"parameters `{keys[0][0]}` and `{keys[1][0]}` do not go together",
            expected=expected,
            found=", ".join(f"`{key}` {self.texts.get(key, default)}" for key, default in keys),
        )
