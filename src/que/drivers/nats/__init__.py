"""The NATS JetStream driver: `nats://host:4222,…` and, over TLS, `tls://`."""

from que.errors import ConfigurationError

try:
    from que.drivers.nats.driver import NatsDriver
except ModuleNotFoundError as _missing:
    if (_missing.name or "").partition(".")[0] != "nats":
        raise
    raise ConfigurationError("nats:// needs nats-py: pip install 'que-jobs[nats]'") from _missing

__all__ = ["NatsDriver"]
