"""Asks for thumbnails and shows them; thumbnails_worker.py has to run somewhere, this program does not import it.

python thumbnails_client.py
"""

import asyncio

import que
from thumbnails import URL, Resize, resize

CAT = [
    "................",
    "...##......##...",
    "...####..####...",
    "...##########...",
    "...##..##..##...",
    "...##########...",
    ".....######.....",
    "................",
]


async def main() -> None:
    async with que.Que(URL) as app:
        app.add(resize)
        sizes = [(16, 4), (8, 4)]
        for picture in await que.gather(*[resize.submit(Resize(CAT, *size)) for size in sizes]):
            print("\n".join(picture.rows))
        try:
            await resize.submit(Resize(CAT, width=0, height=4))
        except que.ParamsInvalid as error:
            print("refused:", error)


asyncio.run(main())
