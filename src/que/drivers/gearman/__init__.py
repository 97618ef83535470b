"""The Gearman driver: `gearman://host:4730,…` and, over TLS, `gearmans://`."""

from que.drivers.gearman.driver import GearmanDriver
from que.drivers.gearman.mapping import Receipt

__all__ = ["GearmanDriver", "Receipt"]
