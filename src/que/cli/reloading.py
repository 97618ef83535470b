"""`que worker --reload`: what the code's files tell."""

import importlib.util
from collections.abc import AsyncIterator

from que.errors import ConfigurationError


def python_files_change() -> AsyncIterator[object]:
    """Return what yields once for each change of Python files below the working directory, virtual environments apart.

    Raises ConfigurationError where watchfiles is not installed.
    """
    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigurationError("--reload needs watchfiles: pip install 'que-jobs[reload]'")
    from watchfiles import (
        PythonFilter,
        awatch,  # pyright: ignore[reportUnknownVariableType] - its signature names trio, which need not be there
    )

    return awatch(".", watch_filter=PythonFilter(), stop_event=None)
