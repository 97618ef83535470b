"""Typed payloads: what turns params and results into bytes and back, built once per job."""

import typing
from collections.abc import Callable
from typing import Protocol, TypeVar, cast

import msgspec

from que.errors import ConfigurationError

ValueT = TypeVar("ValueT")


class PayloadError(ValueError):
    """A value does not fit its type; the text holds the path and what was expected there."""


class Codec(msgspec.Struct, frozen=True):
    """Both directions for one type. Each raises PayloadError."""

    encode: Callable[[object], bytes]
    decode: Callable[[bytes], object]


class Serializer(Protocol):
    """A payload format. `codec` raises ConfigurationError for a type that the format cannot carry."""

    @property
    def name(self) -> str: ...
    def codec(self, type_: object, root: str) -> Codec:
        """Return the codec of `type_`; `root` ("params" or "result") starts the paths in its errors."""
        ...


class _MsgspecSerializer(msgspec.Struct, frozen=True):
    name: str
    encoder: Callable[[], "_Encoder"]
    decoder: Callable[[object], "_Decoder"]
    null: bytes

    def codec(self, type_: object, root: str) -> Codec:
        encode_raw = self.encoder().encode
        class_ = _plain_class(type_)
        try:
            decode_raw = self.decoder(type_).decode
            foreign = _foreign_class(msgspec.inspect.type_info(type_), set())
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{self.name} cannot carry {root} of type {type_!r}: {error}") from error
        if foreign is not None:
            # msgspec leaves such a class to hooks, of which there are none here: every value would fail.
            raise ConfigurationError(f"{self.name} cannot carry {root} of type {type_!r}: {foreign!r} is no data type")
        empty = _decodes_null(decode_raw, self.null)

        def encode(value: object) -> bytes:
            if not isinstance(value, class_):
                raise PayloadError(f"{root}: expected {class_.__name__}, got {type(value).__name__}")
            try:
                return encode_raw(value)
            except Exception as error:
                # Any error: a value's own code may run here, as it may at the decoding.
                raise PayloadError(f"{root}: {error}") from error

        def decode(payload: bytes) -> object:
            if not payload and empty:
                return None
            try:
                return decode_raw(payload)
            except Exception as error:
                raise PayloadError(_located(root, error)) from error

        return Codec(encode, decode)


class _Encoder(Protocol):
    def encode(self, obj: object, /) -> bytes: ...


class _Decoder(Protocol):
    def decode(self, buf: bytes, /) -> object: ...


def _json_decoder(type_: object) -> _Decoder:
    return msgspec.json.Decoder(cast(type[object], type_))


def _msgpack_decoder(type_: object) -> _Decoder:
    return msgspec.msgpack.Decoder(cast(type[object], type_))


class _RawSerializer(msgspec.Struct, frozen=True):
    name: str = "RAW"

    def codec(self, type_: object, root: str) -> Codec:
        if type_ is not bytes:
            raise ConfigurationError(f"RAW carries bytes only, not {root} of type {type_!r}: use JSON or MSGPACK")

        def encode(value: object) -> bytes:
            if not isinstance(value, bytes):
                raise PayloadError(f"{root}: expected bytes, got {type(value).__name__}")
            return value

        return Codec(encode, lambda payload: payload)


def _decodes_null(decode: Callable[[bytes], object], null: bytes) -> bool:
    try:
        return decode(null) is None
    except msgspec.DecodeError:
        return False


# What payloads decode to where the type asks for no more; a class like object or Hashable takes them as they are.
_PLAIN = (type(None), bool, int, float, str, list, dict)


def _foreign_class(node: object, seen: set[int]) -> type | None:
    """Return a class within the described type `node` of which no payload can be, or None."""
    if id(node) in seen:
        return None
    seen.add(id(node))
    if isinstance(node, msgspec.inspect.CustomType):
        return None if any(issubclass(plain, node.cls) for plain in _PLAIN) else node.cls
    if isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field):
        parts = [getattr(node, name) for name in node.__struct_fields__]
    else:
        parts = list(cast(tuple[object], node)) if isinstance(node, tuple) else []
    return next((found for part in parts if (found := _foreign_class(part, seen)) is not None), None)


def _plain_class(type_: object) -> type:
    """Return the class that every value of `type_` is an instance of: object where isinstance cannot tell."""
    if type_ is None:
        return type(None)
    is_plain = isinstance(type_, type) and typing.get_origin(type_) is None and not typing.is_typeddict(type_)
    return cast(type, type_) if is_plain and type_ not in (float, typing.Any) else object


def _located(root: str, error: Exception) -> str:
    """Return msgspec's text with our path first: "params.width: expected int, got str"."""
    text, at, path = str(error).partition(" - at `$")
    place = root + path.removesuffix("`") if at else root
    lowered = text[:1].lower() + text[1:] if text[1:2].islower() else text
    return f"{place}: {lowered.replace('`', '')}"


JSON: Serializer = _MsgspecSerializer("JSON", msgspec.json.Encoder, _json_decoder, b"null")
MSGPACK: Serializer = _MsgspecSerializer("MSGPACK", msgspec.msgpack.Encoder, _msgpack_decoder, b"\xc0")
RAW: Serializer = _RawSerializer()
