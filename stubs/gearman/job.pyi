from collections import deque

class GearmanJob:
    handle: bytes
    task: bytes
    unique: bytes
    data: bytes

class GearmanJobRequest:
    job: GearmanJob
    state: str
    timed_out: bool
    result: bytes | None
    exception: bytes | None
    data_updates: deque[bytes]
    warning_updates: deque[bytes]
    status: dict[str, object]
    @property
    def complete(self) -> bool: ...
