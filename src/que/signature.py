"""What a handler's signature says, read once when it is declared."""

import inspect
import typing
from collections.abc import Callable
from functools import partial

from que.errors import ConfigurationError, InvalidName

_MOST_NAME_BYTES = 512


def checked_name(name: object) -> str:
    """Return `name` if every engine can carry it: 1 to 512 bytes of UTF-8, no blanks or control characters.

    Raises InvalidName. The bound is Gearman's: gearmand closes every worker that grabs a job with a longer name.
    """
    if not isinstance(name, str):
        raise ConfigurationError(f'a job needs a name: write @app.job("{getattr(name, "__name__", name)}")')
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidName("job name", name, "it is not valid Unicode") from error
    if not 0 < size <= _MOST_NAME_BYTES:
        raise InvalidName("job name", name[:80], f"expected 1 to {_MOST_NAME_BYTES} bytes, not {size}")
    if not name.isprintable() or any(letter.isspace() for letter in name):
        raise InvalidName("job name", name, "it holds blanks or control characters")
    return name


def types_of(function: Callable[..., object]) -> tuple[object, object]:
    """Return the annotated types of the params and of the result; raises ConfigurationError if one is missing."""
    first = positional(function)[0]
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", repr(function))
    annotated = function if inspect.isroutine(function) else type(function).__call__
    try:
        hints = typing.get_type_hints(annotated, include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        hint = "declare the type at module level, where annotations can be resolved"
        raise ConfigurationError(f"handler {name}: {error}; {hint}") from error
    for part in (first, "return"):
        if part not in hints:
            what = "result" if part == "return" else f"parameter {part!r}"
            raise ConfigurationError(f"handler {name}: its {what} has no type; annotate it")
    return hints[first], hints["return"]


def positional(function: Callable[..., object]) -> list[str]:
    name = getattr(function, "__qualname__", repr(function))
    if not callable(function):
        raise ConfigurationError(f"handler {name}: expected a function")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:
        raise ConfigurationError(f"handler {name}: expected a function of ours; {error}") from error
    positional = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    required = [each for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
    if len(positional) not in (1, 2) or len(required) > len(positional):
        raise ConfigurationError(
            f"handler {name}: expected (params) or (params, context), not {len(positional)} parameters"
        )
    return positional


def type_name(type_: object) -> str:
    """Return how a person would write `type_`."""
    return getattr(type_, "__name__", str(type_)) if typing.get_origin(type_) is None else str(type_)
