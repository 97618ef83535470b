from collections.abc import Mapping

class AsyncResult:
    def get(self, timeout: float) -> Mapping[str, object]: ...
