"""The package's own exceptions.

Each is also the built-in exception that a NumPy user would catch, so `except ValueError` keeps
working, and `except gr.GradrouteError` catches everything that this package raises on purpose.
"""


class GradrouteError(Exception):
    """Base of every error this package raises on purpose."""


class ArgumentTypeError(GradrouteError, TypeError):
    """An argument is of the wrong kind: its type, dtype or array library."""


class ArgumentValueError(GradrouteError, ValueError):
    """An argument is of the right kind but has a value or shape that cannot be used."""


class IndexRangeError(ArgumentValueError, IndexError):
    """An index, label or winner points outside what it indexes."""


class ConfigError(GradrouteError, ValueError):
    """A setting or GRADROUTE_* variable has a value that cannot be used."""


class UnknownSettingError(ConfigError, AttributeError):
    """A setting of that name does not exist."""


class BackendError(GradrouteError, RuntimeError):
    """A backend cannot run here; the message says why and what to install."""


class WorkspaceError(GradrouteError, MemoryError):
    """A call needs more workspace than gr.config.workspace_limit allows, or than there is."""
