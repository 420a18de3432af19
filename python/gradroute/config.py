"""The typed settings: `gr.config.threads = 1`, or `with gr.config(threads=1): ...`.

Assigning sets the process default; a `with` block overrides it in its own thread and asyncio
task.  Each field is read once, at import, from GRADROUTE_<NAME>.
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from dataclasses import dataclass, field
from numbers import Integral

from .errors import ConfigError, UnknownSettingError

_PREFIX = "GRADROUTE_"
_ENVIRONMENT_ONLY = {"GRADROUTE_REQUIRE"}  # read by the tests


def available_threads() -> int:
    """How many threads this process may use: its CPU affinity, and NUMBA_NUM_THREADS if set."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        count = os.cpu_count() or 1
    pinned = os.environ.get("NUMBA_NUM_THREADS", "")
    return max(1, min(count, int(pinned))) if pinned.isdigit() else count


@dataclass(frozen=True)
class Settings:
    """One consistent set of values, as kernels and plans see it; threads is resolved."""

    backend: str = "auto"
    threads: int = 1
    precision: str = "standard"
    workspace_limit: int | None = None
    tune: bool = False
    value_checks: str = "now"
    kept_memory: int = field(default=0, compare=False)  # no plan depends on it
    #: what calls under these settings have settled: see ops/settled.py
    settled: dict = field(default_factory=dict, init=False, compare=False, repr=False)


# ---- what each field accepts --------------------------------------------------------------


def _one_of(*choices):
    def check(name, value):
        if not isinstance(value, str) or value not in choices:
            raise ConfigError(f"config.{name} must be one of {list(choices)}, got {value!r}")
        return value

    return check


def _integer_or_none(name, value, at_least):
    return None if value is None else _integer(name, value, at_least, "an integer or None")


def _integer(name, value, at_least, kind="an integer"):
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"config.{name} must be {kind}, got {value!r}")
    value = int(value)
    if value < at_least:
        raise ConfigError(f"config.{name} must be at least {at_least}, got {value}")
    return value


def _threads(name, value):
    value = _integer_or_none(name, value, 1)
    if value is not None and value > available_threads():
        raise ConfigError(
            f"config.threads must not be above the {available_threads()} threads that this "
            f"process may use, got {value}"
        )
    return value


def _boolean(name, value):
    if not isinstance(value, bool):
        raise ConfigError(f"config.{name} must be True or False, got {value!r}")
    return value


_FIELDS = {
    "backend": (_one_of("auto", "reference", "numba", "cuda"), "auto"),
    "threads": (_threads, None),
    "precision": (_one_of("strict", "standard", "tf32"), "standard"),
    "workspace_limit": (lambda name, value: _integer_or_none(name, value, 0), None),
    "tune": (_boolean, False),
    "value_checks": (_one_of("now", "later"), "now"),
    "kept_memory": (lambda name, value: _integer(name, value, 0), 256 << 20),
}
_WORDS = {"true": True, "1": True, "false": False, "0": False}


def _checked(name, value):
    if name not in _FIELDS:
        raise UnknownSettingError(f"config has no field {name!r}; it has {sorted(_FIELDS)}")
    return _FIELDS[name][0](name, value)


def _from_text(name, text):
    """The value that GRADROUTE_<NAME>=text stands for."""
    value = text.strip()
    try:
        if name in ("threads", "workspace_limit", "kept_memory"):
            value = None if value.lower() in ("", "none") else int(value)
        elif name == "tune":
            value = _WORDS[value.lower()]
        return _checked(name, value)
    except (ConfigError, ValueError, KeyError) as error:
        reason = str(error) if isinstance(error, ConfigError) else "not a value of this field"
        raise ConfigError(f"{_PREFIX}{name.upper()}={text!r} cannot be used: {reason}") from None


def _from_environment(environment) -> dict:
    values = {name: default for name, (_, default) in _FIELDS.items()}
    for variable, text in environment.items():
        if not variable.startswith(_PREFIX) or variable in _ENVIRONMENT_ONLY:
            continue
        name = variable[len(_PREFIX) :].lower()
        if name not in _FIELDS or variable != _PREFIX + name.upper():
            known = sorted(_PREFIX + field.upper() for field in _FIELDS)
            raise ConfigError(f"unknown environment variable {variable}; known are {known}")
        values[name] = _from_text(name, text)
    return values


# ---- the object ---------------------------------------------------------------------------

_overrides: ContextVar[dict | None] = ContextVar("gradroute_config", default=None)


class Config:
    """The settings in force; read, assign, or call it for a `with` block.

    Fields: backend, threads, precision, workspace_limit, tune, value_checks,
    kept_memory.  Raises ConfigError (a ValueError) for a value that cannot be used, and
    UnknownSettingError (also an AttributeError) for a field that does not exist.

    >>> import gradroute as gr
    >>> with gr.config(threads=1, precision="strict"):
    ...     gr.config.precision
    'strict'
    >>> gr.config.precision
    'standard'
    """

    def __init__(self, environment=None):
        object.__setattr__(self, "_defaults", _from_environment(environment or {}))
        object.__setattr__(self, "_settings", {})

    def __getattr__(self, name):
        if name not in _FIELDS:
            raise UnknownSettingError(f"config has no field {name!r}; it has {sorted(_FIELDS)}")
        inside = _overrides.get()
        return inside[name] if inside and name in inside else self._defaults[name]

    def __setattr__(self, name, value):
        value = _checked(name, value)
        inside = _overrides.get()
        if inside and name in inside:
            raise ConfigError(
                f"config.{name} is overridden by the `with gr.config({name}=...)` around this "
                "line; the process default cannot be set here"
            )
        self._defaults[name] = value
        # a new dict: a thread that is filling the old one cannot leave a stale entry in this one
        object.__setattr__(self, "_settings", {})

    def __call__(self, **overrides):
        """A context manager under which the given fields have the given values."""
        return _Override({name: _checked(name, value) for name, value in overrides.items()})

    def __dir__(self):
        return [*super().__dir__(), *_FIELDS]

    def __repr__(self):
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in _FIELDS)
        return f"gradroute.config({fields})"

    def current(self) -> Settings:
        """The settings in force here, threads resolved; the same object while nothing changes."""
        inside = _overrides.get()
        key = None if inside is None else tuple(inside.items())
        settings = self._settings
        found = settings.get(key)
        if found is None:
            values = {**self._defaults, **(inside or {})}
            values["threads"] = values["threads"] or available_threads()
            found = settings[key] = Settings(**values)
        return found


class _Override:
    def __init__(self, fields):
        self._fields = fields
        self._tokens = []

    def __enter__(self):
        merged = {**(_overrides.get() or {}), **self._fields}
        self._tokens.append(_overrides.set(merged))
        return config

    def __exit__(self, *exception):
        _overrides.reset(self._tokens.pop())


config = Config(os.environ)
