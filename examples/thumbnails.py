"""What the client and the worker of the thumbnails agree on: where, and what goes in and comes out.

Neither imports the other's code; this module imports no more than both need.
"""

import os
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

import que

URL = os.environ.get("QUE_URL", "gearman://127.0.0.1:4730")


@dataclass(frozen=True, slots=True)
class Resize:
    """A picture made of letters, and the size that it should have."""

    rows: list[str]
    width: Annotated[int, Meta(gt=0)]
    height: Annotated[int, Meta(gt=0)]


@dataclass(frozen=True, slots=True)
class Picture:
    """The picture in that size."""

    rows: list[str]


resize = que.Job("resize", Resize, Picture, run_timeout=30)
