from dramatiq import Broker

class RedisBroker(Broker):
    def __init__(self, *, url: str) -> None: ...
