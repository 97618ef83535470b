"""The NATS JetStream driver: `nats://host:4222,…` and, over TLS, `tls://`."""

from que.drivers.nats.driver import NatsDriver

__all__ = ["NatsDriver"]
