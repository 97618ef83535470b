from dramatiq.results.backends import RedisBackend

class Results:
    def __init__(self, *, backend: RedisBackend) -> None: ...
