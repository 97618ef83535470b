"""gearmans://: TLS with verification, against a proxy that speaks it; gearmand itself only pretends to."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from que.address import Address
from que.drivers.gearman import GearmanDriver
from que.errors import ConfigurationError, ConnectError
from que.model import Completed, Delivery, Verdict
from tests.certificates import Certificates
from tests.gearman.driving import Events, driving, jobs, run, serving
from tests.gearman.proxy import Proxy, proxying
from tests.servers import Gearmand


@asynccontextmanager
async def secured(
    gearmand: Gearmand, certificates: Certificates, client_certificates: bool = False
) -> AsyncGenerator[Proxy, None]:
    """A TLS proxy in front of the server."""
    async with proxying(gearmand.port, tls=certificates.context(client_certificates)) as proxy:
        yield proxy


async def echo_large(delivery: Delivery) -> Verdict:
    return Completed(delivery.payload + bytes(3 << 20))


by_name_and_by_address = pytest.mark.parametrize(
    ("host", "options"), [("localhost", ""), ("127.0.0.1", "&server_hostname=localhost")], ids=["by name", "by address"]
)


@by_name_and_by_address
def test_jobs_cross_tls_both_ways(
    gearmand: Gearmand, certificates: Certificates, function: bytes, host: str, options: str
) -> None:
    name = function.decode()

    async def scenario() -> None:
        async with secured(gearmand, certificates) as proxy:
            url = f"gearmans://{host}:{proxy.port}?cafile={certificates.authority}{options}"
            async with driving(url) as (driver, events), serving(driver, [name], handler=echo_large) as served:
                await driver.submit(jobs(name, 5))
                ends = await events.ended(*(f"job-{number}" for number in range(5)))
                assert [end[1] for end in ends] == [b"payload-%d" % number + bytes(3 << 20) for number in range(5)]
                assert len(served.deliveries) == 5

    run(scenario())


@by_name_and_by_address
def test_the_text_protocol_crosses_tls_too(
    gearmand: Gearmand, certificates: Certificates, function: bytes, host: str, options: str
) -> None:
    name = function.decode()

    async def scenario() -> None:
        async with secured(gearmand, certificates) as proxy:
            url = f"gearmans://{host}:{proxy.port}?cafile={certificates.authority}{options}"
            async with driving(url) as (driver, events):
                await driver.submit(jobs(name, 1))
                receipt = await events.receipt("job-0")
                assert (name, 1) in [(depth.function, depth.queued) for depth in await driver.depths()]
                assert await driver.cancel(receipt)

    run(scenario())


def test_a_client_certificate_is_shown_where_the_server_asks_for_one(
    gearmand: Gearmand, certificates: Certificates, function: bytes
) -> None:
    async def scenario() -> None:
        async with secured(gearmand, certificates, client_certificates=True) as proxy:
            url = f"gearmans://localhost:{proxy.port}?connect_timeout=2&cafile={certificates.authority}"
            with pytest.raises(ConnectError):
                await GearmanDriver(Address.parse(url)).connect(Events())
            async with driving(f"{url}&certfile={certificates.certificate}&keyfile={certificates.key}") as (
                driver,
                events,
            ):
                await driver.submit(jobs(function.decode(), 1))
                await events.receipt("job-0")

    run(scenario())


@pytest.mark.parametrize(
    ("host", "options", "reason"),
    [
        pytest.param("localhost", "", "certificate is not trusted", id="an unknown authority"),
        pytest.param("127.0.0.1", "&cafile={cafile}", "certificate is not trusted", id="another name"),
    ],
)
def test_a_certificate_that_does_not_verify_is_refused(
    gearmand: Gearmand, certificates: Certificates, host: str, options: str, reason: str
) -> None:
    async def scenario() -> None:
        async with secured(gearmand, certificates) as proxy:
            options_ = options.format(cafile=certificates.authority)
            with pytest.raises(ConnectError, match=reason):
                await GearmanDriver(Address.parse(f"gearmans://{host}:{proxy.port}?heartbeat=9{options_}")).connect(
                    Events()
                )
            assert proxy.sent == [], "not a byte of ours has left"

    run(scenario())


def test_a_server_without_tls_is_refused_aloud(gearmand: Gearmand) -> None:
    async def scenario() -> None:
        driver = GearmanDriver(Address.parse(f"gearmans://127.0.0.1:{gearmand.port}?connect_timeout=1"))
        with pytest.raises(ConnectError, match="does it speak TLS"):
            await driver.connect(Events())

    run(scenario())


@pytest.mark.parametrize("option", ["cafile", "certfile"])
def test_a_file_that_cannot_be_read_is_a_mistake_of_configuration(option: str) -> None:
    async def scenario() -> None:
        driver = GearmanDriver(Address.parse(f"gearmans://127.0.0.1:1?{option}=absent.pem"))
        with pytest.raises(ConfigurationError, match="No such file"):
            await driver.connect(Events())

    run(scenario())


@pytest.mark.parametrize("option", ["verify=0", "insecure=1", "cafile="])
def test_verification_cannot_be_switched_off(gearmand: Gearmand, certificates: Certificates, option: str) -> None:
    async def scenario() -> None:
        async with secured(gearmand, certificates) as proxy:
            url = f"gearmans://localhost:{proxy.port}?{option}"
            with pytest.raises((ConfigurationError, ConnectError)):
                await GearmanDriver(Address.parse(url)).connect(Events())

    run(scenario())
