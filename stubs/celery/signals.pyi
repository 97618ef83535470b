from collections.abc import Callable

class Signal:
    def connect(self, receiver: Callable[..., None], *, weak: bool) -> None: ...

worker_ready: Signal
