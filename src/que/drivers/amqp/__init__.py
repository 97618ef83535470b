"""The RabbitMQ driver: `amqp://user:password@host/virtual-host`, and `amqps://` over TLS."""

from que.errors import ConfigurationError

try:
    from que.drivers.amqp.driver import AmqpDriver
except ModuleNotFoundError as error:
    if error.name != "pamqp":
        raise
    raise ConfigurationError("amqp:// needs the library pamqp: pip install que-jobs[amqp]") from error

__all__ = ["AmqpDriver"]
