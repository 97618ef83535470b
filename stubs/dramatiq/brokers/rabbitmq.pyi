from dramatiq import Broker

class RabbitmqBroker(Broker):
    def __init__(self, *, url: str, confirm_delivery: bool) -> None: ...
