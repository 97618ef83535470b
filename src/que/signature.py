"""What a handler's signature says, read once when it is declared."""

import inspect
import re
import typing
from collections.abc import Callable
from functools import partial
from types import UnionType

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
    first = _positional(function)[0].name
    name = _name_of(function)
    try:
        hints = typing.get_type_hints(_annotated(function), include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        hint = "declare the type at module level, where annotations can be resolved"
        raise ConfigurationError(f"handler {name}: {error}; {hint}") from error
    for part in (first, "return"):
        if part not in hints:
            what = "result" if part == "return" else f"parameter {part!r}"
            raise ConfigurationError(f"handler {name}: its {what} has no type; annotate it")
    return hints[first], hints["return"]


def takes(function: Callable[..., object], context: type) -> bool:
    """Return whether `function` is to be called with a `context` after its params, as a type checker reads it.

    A required second parameter takes it, unless its annotation rules that out; one with a default takes it only if
    its annotation names `context`, and keeps its default otherwise. Raises ConfigurationError for what could be called
    in neither way.
    """
    parameters = _positional(function)
    if len(parameters) == 1:
        return False
    second = parameters[1]
    is_required = second.default is second.empty
    if second.annotation is second.empty:
        return is_required
    fits, is_named = _reading(_resolved(function, second), context)
    if is_required and not fits:
        raise ConfigurationError(
            f"handler {_name_of(function)}: expected (params) or (params, context), and its second parameter"
            f" {second.name!r} is no {context.__name__}: annotate it as one, or give it a default"
        )
    return fits if is_required else is_named


def place_of(function: Callable[..., object] | None) -> tuple[str, str]:
    """Return the module of a `def`, and its path there, by which a new process finds it.

    Raises ConfigurationError for anything else than a function at module level: with the way out.
    """
    if not inspect.isfunction(function):
        why, way = "no plain function", "put a `def` at module level around it"
    elif inspect.iscoroutinefunction(function):
        why, way = "an `async def`, which runs in the event loop", "write it as a `def`, or leave executor= out"
    elif "<" in function.__qualname__:
        why, way = "no function of a module", "move it there, where a new process can import it"
    else:
        return function.__module__, function.__qualname__
    raise ConfigurationError(f'handler {_name_of(function)}: executor="process", and it is {why}: {way}')


def _resolved(function: Callable[..., object], parameter: inspect.Parameter) -> object:
    """Return the annotation of one parameter, as it is written where it names what cannot be had while running."""
    holder = type("_Holder", (), {"__annotations__": {parameter.name: parameter.annotation}})
    names = getattr(inspect.unwrap(_annotated(function)), "__globals__", {})
    try:
        return typing.get_type_hints(holder, names)[parameter.name]
    except (NameError, AttributeError, SyntaxError, TypeError):
        return parameter.annotation


def _reading(annotation: object, context: type) -> tuple[bool, bool]:
    """Return whether `annotation` may be meant for a `context`, and whether it names it."""
    if isinstance(annotation, str):
        is_named = re.search(rf"\b{context.__name__}\b", annotation) is not None
        return is_named, is_named
    if annotation is typing.Any:
        return True, False
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, UnionType):
        readings = [_reading(part, context) for part in typing.get_args(annotation)]
        return any(fits for fits, _ in readings), any(is_named for _, is_named in readings)
    kind = annotation if origin is None else origin
    try:
        return issubclass(context, typing.cast(type, kind)), kind is context
    except TypeError:
        # A protocol, a type variable: a context may be what it means.
        return True, False


def _name_of(function: object) -> str:
    return getattr(function, "__qualname__", repr(function))


def _annotated(function: Callable[..., object]) -> Callable[..., object]:
    """Return the function that holds the annotations of `function`."""
    while isinstance(function, partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _positional(function: Callable[..., object]) -> list[inspect.Parameter]:
    """Return the parameters that may be given by position; the first is the params, and those after two are optional.

    Raises ConfigurationError for a function of another shape.
    """
    name = _name_of(function)
    if not callable(function):
        raise ConfigurationError(f"handler {name}: expected a function")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:
        raise ConfigurationError(f"handler {name}: expected a function of ours; {error}") from error
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    required = [each.name for each in positional if each.default is each.empty]
    keywords = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    if not positional or len(required) > 2 or keywords:
        given = ", ".join([*required, *(f"{keyword}=" for keyword in keywords)])
        raise ConfigurationError(f"handler {name}: expected (params) or (params, context), not ({given})")
    return positional


def type_name(type_: object) -> str:
    """Return how a person would write `type_`."""
    return getattr(type_, "__name__", str(type_)) if typing.get_origin(type_) is None else str(type_)
