"""The Lua that runs on the server: each script is the prelude, for some of them a part more, and a file of its own."""

import enum
from functools import cache
from hashlib import sha1
from importlib.resources import files


class Script(enum.Enum):
    """What a server can be asked to do at once."""

    ATTEND = "attend"
    BEGIN_TICKS = "begin_ticks"
    CANCEL = "cancel"
    DEPTHS = "depths"
    END_TICKS = "end_ticks"
    ENTER = "enter"
    EXTEND = "extend"
    FORGET = "forget"
    KEEP = "keep"
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


_ATTENDING = frozenset({Script.ATTEND, Script.KEEP, Script.LEAVE, Script.TICK})


@cache
def source(script: Script) -> bytes:
    """Return the whole text of a script."""
    here = files("que.drivers.redis")
    names = ("prelude", "attending", script.value) if script in _ATTENDING else ("prelude", script.value)
    return b"".join(here.joinpath(f"{name}.lua").read_bytes() for name in names)


@cache
def digest(script: Script) -> bytes:
    """Return the name under which a server that has seen a script knows it."""
    return sha1(source(script), usedforsecurity=False).hexdigest().encode()
