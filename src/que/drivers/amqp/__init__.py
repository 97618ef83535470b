"""The RabbitMQ driver: `amqp://user:password@host/virtual-host`, and `amqps://` over TLS."""

from que.errors import ConfigurationError

try:
    from que.drivers.amqp.driver import AmqpDriver
except ModuleNotFoundError as _missing:
    if (_missing.name or "").partition(".")[0] != "pamqp":
        raise
    raise ConfigurationError("amqp:// needs the library pamqp: pip install 'que-jobs[amqp]'") from _missing

__all__ = ["AmqpDriver"]
