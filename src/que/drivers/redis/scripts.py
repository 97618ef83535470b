"""The Lua that runs on the server: each script is the prelude and a file of its own."""

import enum
from functools import cache
from hashlib import sha1
from importlib.resources import files


class Script(enum.Enum):
    """What a server can be asked to do at once."""

    CANCEL = "cancel"
    DEPTHS = "depths"
    ENTER = "enter"
    EXTEND = "extend"
    LEAVE = "leave"
    LETTERS = "letters"
    REPORT = "report"
    SETTLE = "settle"
    STATUS = "status"
    SUBMIT = "submit"
    TAKE = "take"
    TICK = "tick"
    UNBURY = "unbury"
    WATCH = "watch"


@cache
def source(script: Script) -> bytes:
    """Return the whole text of a script."""
    here = files("que.drivers.redis")
    return b"".join(here.joinpath(f"{name}.lua").read_bytes() for name in ("prelude", script.value))


@cache
def digest(script: Script) -> bytes:
    """Return the name under which a server that has seen a script knows it."""
    return sha1(source(script), usedforsecurity=False).hexdigest().encode()
