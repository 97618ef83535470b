"""Finds an app by its name."""

import importlib
import os
import sys
import traceback
from typing import cast

from que.app import Que
from que.errors import ConfigurationError


def load(target: str) -> Que[object]:
    """Return the app that `module:name` is, the working directory first; raises ConfigurationError: what is wrong."""
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise ConfigurationError(f"{target!r} names no app: expected module:name, like tasks:app")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigurationError(f"cannot import {module_name!r}: {_described(error)}") from error
    if not hasattr(module, name):
        raise ConfigurationError(f"{module_name!r} ({module.__file__}) has no {name!r}")
    app: object = getattr(module, name)
    if not isinstance(app, Que):
        raise ConfigurationError(f"{target} is no que.Que but of type {type(app).__name__}")
    return cast(Que[object], app)


def _described(error: Exception) -> str:
    """Return the kind, the text and the place of `error`, in one line; no place if it is the import system's own."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if frame.filename.startswith("<frozen ") else f" ({frame.filename}:{frame.lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
