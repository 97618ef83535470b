"""repid 2.1, as far as the benchmarks use it: checking them shall not take the package."""

from contextlib import AbstractAsyncContextManager

class NatsServer:
    def __init__(self, dsn: str) -> None: ...
    def connection(self) -> AbstractAsyncContextManager[NatsServer]: ...

class ServerRegistry:
    def register_server(self, name: str, server: NatsServer, *, is_default: bool) -> None: ...

class Repid:
    servers: ServerRegistry
    async def send_message_json(self, *, channel: str, payload: object) -> None: ...
