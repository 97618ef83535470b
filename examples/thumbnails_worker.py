"""Makes thumbnails until it is told to stop. In this directory, with a gearmand running:

que worker thumbnails_worker:app -c 10 -w 2
"""

import que
from thumbnails import URL, Picture, Resize, resize

app = que.Que(URL)
app.add(resize)


@resize.handler
def shrink(params: Resize) -> Picture:
    rows = _spread(params.rows, params.height)
    return Picture(["".join(_spread(list(row), params.width)) for row in rows])


def _spread(items: list[str], count: int) -> list[str]:
    """Return `count` of `items`, evenly spread."""
    return [items[index * len(items) // count] for index in range(count)]
