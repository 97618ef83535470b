from collections.abc import Mapping

class Result:
    return_value: Mapping[str, object]

class Job:
    def latest_result(self, timeout: int) -> Result | None: ...
