"""adapter_config.json as it is read: every setting is known by name, and every value is checked before it is used.

A kind of adapter declares its settings in a table of `Setting`s; docs/reference/adapters.md shows them. What the table
does not name is refused, because a setting that is passed over may change what the adapter does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from genepool.errors import InputError
from genepool.weights.peft.patterns import unbounded


@dataclass(frozen=True)
class Setting:
    """What is done with one setting.

    Attributes:
        role: read: the arithmetic depends on it. unused: it does not, or the tensors in the file tell it already.
            refused: unless it is off.
        why: what it does, or why it is refused; a phrase.
        off: the values at which a refused setting does nothing.
        fix: the way out of a refusal.
    """

    role: Literal["read", "unused", "refused"]
    why: str
    off: tuple[object, ...] = ()
    fix: str = ""


def read(why: str) -> Setting:
    """A setting that the arithmetic depends on."""
    return Setting("read", why)


def unused(why: str) -> Setting:
    """A setting without effect on the result."""
    return Setting("unused", why)


def refused(why: str, fix: str, off: tuple[object, ...] = (None, False)) -> Setting:
    """A setting that is refused unless it is off."""
    return Setting("refused", why, off, fix)


def declared(table: Mapping[str, Setting]) -> Mapping[str, Setting]:
    """A table that stays as it is."""
    return MappingProxyType(dict(table))


_TARGETS = "the tensors in the file tell which modules are adapted"
TRAINING = unused("acts in training alone")
START = unused("how training started; the base stays as it is")
# What every kind has; a kind says more where it means more.
COMMON: Mapping[str, Setting] = {
    "peft_type": read("the kind"),
    "task_type": read("what a head that the base lacks is for"),
    "auto_mapping": unused("which class loads the base"),
    "peft_version": unused("who wrote the file"),
    "base_model_name_or_path": unused("the base is named by the user"),
    "revision": unused("the base is named by the user"),
    "inference_mode": TRAINING,
    "modules_to_save": read("modules that the adapter holds whole"),
}
TARGETING: Mapping[str, Setting] = {
    "target_modules": unused(_TARGETS),
    "exclude_modules": unused(_TARGETS),
    "layers_to_transform": unused(_TARGETS),
    "layers_pattern": unused(_TARGETS),
}
BIAS = {"bias": unused("trained biases are in the file")}
TRANSPOSED = {"fan_in_fan_out": read("whether the base stores weights as (in, out)")}


class AdapterSettings:
    """The settings of one adapter.

    Args:
        values: adapter_config.json, parsed.
        path: where it was read from.
        known: what is done with each setting.

    Raises:
        InputError: a setting is unknown, or refused.
    """

    def __init__(self, values: Mapping[str, Any], path: Path, known: Mapping[str, Setting]) -> None:
        self.path, self._values, self._known = path, values, known
        kind = values.get("peft_type")
        for key, value in values.items():
            setting = known.get(key)
            if setting is None and value is None:
                # PEFT writes every setting it knows; one of a later version that is not used says nothing.
                continue
            if setting is None:
                raise self.error(
                    key,
                    f"genepool does not know this setting of {kind} adapters",
                    "Merge the adapter with PEFT (merge_and_unload) and name the merged checkpoint, or remove the "
                    "setting if it has no effect on the weights",
                )
            if setting.role == "refused" and not any(value is off or value == off for off in setting.off):
                raise self.error(key, f"{setting.why}, got {_short(value)}", setting.fix)

    def arithmetic(self) -> dict[str, Any]:
        """The settings that the result depends on, for its fingerprint."""
        known = self._known
        return {key: self._values[key] for key in sorted(self._values) if key in known and known[key].role == "read"}

    def get(self, key: str) -> Any:
        """A setting as it stands in the file; None where it is not there."""
        return self._values.get(key)

    def flag(self, key: str) -> bool:
        """A yes or no; no where it is not there."""
        value = self._values.get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise self.error(key, f"got {_short(value)}, expected true or false")

    def integer(self, key: str, default: int, minimum: int = 0, maximum: int | None = None) -> int:
        """A whole number of at least `minimum`, and of at most `maximum` where that is said."""
        value = self._values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum or value >= 1 << 62:
            raise self.error(key, f"got {_short(value)}, expected a whole number of at least {minimum}")
        if maximum is not None and value > maximum:
            raise self.error(key, f"got {value}, expected a whole number of at most {maximum}")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number."""
        value = self._values.get(key)
        return default if value is None else self.finite(key, value)

    def finite(self, key: str, value: object) -> float:
        """A value inside a setting, which must be a finite number."""
        try:
            number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(key, f"got {_short(value)}, expected a number")
        return number

    def choice(self, key: str, options: Sequence[object], default: object) -> Any:
        """One of several values."""
        value = self._values.get(key)
        if value is None:
            return default
        if not any(type(value) is type(option) and value == option for option in options):
            raise self.error(key, f"got {_short(value)}, expected one of {', '.join(map(repr, options))}")
        return value

    def names(self, key: str) -> list[str]:
        """A list of names; empty where it is not there."""
        value = self._values.get(key)
        if value is None:
            return []
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"got {_short(value)}, expected a list of names")
        return value

    def by_module(self, key: str, module: str) -> float | None:
        """PEFT's patterns: the value of the first that matches the end of a module's name, at a dot; None for none."""
        patterns = self._values.get(key)
        if not patterns:
            return None
        if not isinstance(patterns, dict):
            raise self.error(key, f"got {_short(patterns)}, expected names with numbers")
        for pattern, value in patterns.items():
            if self.matches(key, rf"(.*\.)?({pattern})$", module):
                return self.finite(key, value)
        return None

    def matches(self, key: str, pattern: str, name: str, *, whole: bool = False) -> bool:
        """Whether a pattern out of the file matches a name, from its start or as a whole."""
        try:
            if why := unbounded(pattern):
                raise self.error(key, f"{_short(pattern)} {why}", "Write it without, or list the modules' names")
            return (re.fullmatch if whole else re.match)(pattern, name) is not None
        except (re.error, OverflowError, RecursionError) as error:
            raise self.error(key, f"{_short(pattern)} is no regular expression ({error})") from None

    def error(self, key: str, what: str, fix: str = "Correct it, or save the adapter again") -> InputError:
        """What is wrong with one setting."""
        return InputError(what, where=f"{self.path}:{key}", fix=fix)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
