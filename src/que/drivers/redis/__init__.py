"""The Redis driver: queues on a Redis or Valkey server. `redis://127.0.0.1:6379/0`, `rediss://` with TLS."""

from que.drivers.redis.driver import RedisDriver

__all__ = ["RedisDriver"]
