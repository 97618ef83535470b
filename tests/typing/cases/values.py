"""The params and results that the cases speak of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    message: str


@dataclass(frozen=True, slots=True)
class Reversed:
    echo: str


@dataclass(frozen=True, slots=True)
class Pool:
    size: int
