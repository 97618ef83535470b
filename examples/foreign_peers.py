"""Work with programs that have never heard of que: here the command `gearman`, as client and as worker.

apt-get install gearman-job-server gearman-tools
python foreign_peers.py
"""

import asyncio
import os
from dataclasses import dataclass

import que
from que.address import Address

URL = os.environ.get("QUE_URL", "gearman://127.0.0.1:4730")
app = que.Que(URL)


@dataclass(frozen=True, slots=True)
class Message:
    message: str


@dataclass(frozen=True, slots=True)
class Reversed:
    echo: str


@app.job("echoReverse")
async def echo_reverse(params: Message) -> Reversed:
    return Reversed(params.message[::-1])


# Bytes in, bytes out: what the other side calls its payload.
shout = que.Job("shout", bytes, bytes, serializer=que.RAW)


async def gearman(*arguments: str) -> asyncio.subprocess.Process:
    """Start the command `gearman` against the same server."""
    (server,) = Address.parse(URL).hosts
    where = ["-h", server.name, "-p", str(server.port or 4730)]
    return await asyncio.create_subprocess_exec("gearman", *where, *arguments, stdout=asyncio.subprocess.PIPE)


async def main() -> None:
    async with app, app.worker():
        client = await gearman("-f", "echoReverse", '{"message":"2pac"}')
        output, _ = await client.communicate()
        print("the client of the gearman command got", output.decode())

        worker = await gearman("-w", "-f", "shout", "--", "tr", "a-z", "A-Z")
        try:
            print("its worker answered", (await app.submit(shout, b"hey").result(timeout=10)).decode())
        finally:
            worker.terminate()
            await worker.wait()


asyncio.run(main())
