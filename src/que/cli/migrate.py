"""`que migrate`: an engine is prepared before anybody connects."""

from que.address import Address
from que.cli.console import say
from que.driver import Migrates, open_driver
from que.errors import UnsupportedFeature


async def migrate(url: str) -> None:
    """Prepare the engine at `url` and say what was done; raises UnsupportedFeature where nothing can be."""
    address = Address.parse(url)
    driver = open_driver(address)
    if not isinstance(driver, Migrates):
        raise UnsupportedFeature(address.scheme, "schema to migrate", "connect() does all that it needs")
    say(f"{address}: {await driver.migrate()}")
