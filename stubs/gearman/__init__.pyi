"""gearman3 0.2.1, as far as the tests and the benchmarks use it; it has no types of its own."""

from collections.abc import Callable, Sequence
from typing import Literal

from gearman.connection import GearmanConnection
from gearman.job import GearmanJob, GearmanJobRequest

JOB_CREATED: Literal["CREATED"]
JOB_FAILED: Literal["FAILED"]
JOB_COMPLETE: Literal["COMPLETE"]
PRIORITY_NONE: None
PRIORITY_LOW: Literal["LOW"]
PRIORITY_HIGH: Literal["HIGH"]

class _ConnectionManager:
    connection_class: type[GearmanConnection]
    def __init__(self, host_list: Sequence[str | tuple[str, int]] | None = None) -> None: ...
    def shutdown(self) -> None: ...

class GearmanClient(_ConnectionManager):
    def submit_job(
        self,
        task: bytes,
        data: bytes,
        unique: bytes | None = None,
        priority: Literal["LOW", "HIGH"] | None = None,
        *,
        background: bool = False,
        wait_until_complete: bool = True,
        poll_timeout: float | None = None,
    ) -> GearmanJobRequest: ...
    def submit_multiple_jobs(
        self,
        jobs_to_submit: Sequence[dict[str, str | bytes]],
        background: bool = False,
        *,
        wait_until_complete: bool = True,
    ) -> Sequence[GearmanJobRequest]: ...

class GearmanWorker(_ConnectionManager):
    def register_task(self, task: bytes, callback_function: Callable[[GearmanWorker, GearmanJob], bytes]) -> bytes: ...
    def set_client_id(self, client_id: bytes) -> bytes: ...
    def work(self, poll_timeout: float = 60.0) -> None: ...
    def after_poll(self, any_activity: bool) -> bool: ...
    def send_job_status(self, current_job: GearmanJob, numerator: int, denominator: int) -> None: ...
    def send_job_data(self, current_job: GearmanJob, data: bytes) -> None: ...
    def send_job_warning(self, current_job: GearmanJob, data: bytes) -> None: ...
