"""How the backends of an app are made of its URLs; nothing is connected here."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from que.address import Address
from que.backend import Backend
from que.driver import open_driver
from que.errors import UnsupportedFeature

if TYPE_CHECKING:
    from que.observer import Observe


def open_backend(
    alias: str | None, url: str, max_unsent: int, watch_timeout: float | None, observers: "Sequence[Observe]"
) -> Backend:
    """Return the backend behind `url`, called by its scheme where it has no alias; raises UnknownDriver."""
    address = Address.parse(url)
    facts = (alias or address.scheme, address, open_driver(address), max_unsent, watch_timeout)
    if not observers:
        return Backend(*facts)
    from que.observing import ObservedBackend  # only those who look on pay for it

    return ObservedBackend(*facts, observers)


def open_store(url: str, watch_timeout: float | None) -> Backend:
    """Return the backend that keeps what others do not; raises UnsupportedFeature if it cannot."""
    address = Address.parse(url)
    store = Backend("results", address, open_driver(address), 1, watch_timeout)
    if store.store is None:
        raise UnsupportedFeature(address.scheme, "memory for results", 'let a file keep them: results="sqlite:///…"')
    return store
