"""TLS by the usual spelling of each engine's URL, against the engine's own server.

These are tests of each engine whose test_tls.py imports them; its room has the fixture `secured`.
"""

import asyncio
from dataclasses import dataclass

import pytest

import que
from tests.certificates import Certificates
from tests.engines.wiretap import Wiretap, wiretapped
from tests.unit.loops import in_loop

WORD, PASSWORD = "shibboleth", "open-sesame"


@dataclass(frozen=True, slots=True)
class Secured:
    """`url`: what begins an engine's URL over TLS, with {place} in it; `trust` and `identity`: options that follow.

    At `port` a server speaks TLS, as localhost, with clients that have a certificate; at `plain_port` one does not.
    """

    url: str
    trust: str
    identity: str
    port: int
    plain_port: int

    def at(self, host: str, port: int, *options: str) -> str:
        """Return the URL of that place."""
        return f"{self.url.format(place=f'{host}:{port}')}?{'&'.join(options)}"


def files(certificates: Certificates, authority: str, certificate: str, key: str) -> tuple[str, str]:
    """Return the options that name these files, under an engine's words for them."""
    trust = f"{authority}={certificates.authority}"
    return trust, f"{certificate}={certificates.certificate}&{key}={certificates.key}"


async def refusal(url: str) -> str:
    """Return why an app cannot connect: it must be told in time, with the server's name and without the password."""
    async with asyncio.timeout(30):
        with pytest.raises(que.ConnectError) as caught:
            await que.Que(url).connect()
    said = str(caught.value)
    print(said)
    assert PASSWORD not in said
    assert "localhost" in said or "127.0.0.1" in said
    return said


def assert_secret(tap: Wiretap) -> None:
    assert tap.heard, "nobody came this way"
    assert WORD.encode() not in tap.heard
    assert PASSWORD.encode() not in tap.heard


@in_loop
async def test_jobs_and_results_cross_tls_and_no_word_of_them_can_be_read_on_the_way(secured: Secured) -> None:
    job = que.Job("repeat", str, str)

    @job.handler
    async def repeat(word: str) -> str:
        return f"{word} and {word}"

    async with wiretapped(secured.port) as (port, tap):
        url = secured.at("localhost", port, secured.trust, secured.identity)
        async with que.Que(url) as client, que.Que(url) as app:
            app.add(job)
            async with app.worker():
                assert await client.submit(que.Job("repeat", str, str), WORD) == f"{WORD} and {WORD}"
        assert_secret(tap)


@in_loop
async def test_an_authority_that_nobody_named_is_not_trusted(secured: Secured) -> None:
    async with wiretapped(secured.port) as (port, tap):
        assert "certificate" in await refusal(secured.at("localhost", port, secured.identity))
        assert_secret(tap)


@in_loop
async def test_a_certificate_of_another_host_is_not_trusted(secured: Secured) -> None:
    async with wiretapped(secured.port) as (port, tap):
        said = await refusal(secured.at("127.0.0.1", port, secured.trust, secured.identity))
        assert "certificate" in said
        assert "127.0.0.1" in said
        assert_secret(tap)


@in_loop
async def test_a_client_without_a_certificate_is_told_that_the_server_wants_one(secured: Secured) -> None:
    assert "certificate" in await refusal(secured.at("localhost", secured.port, secured.trust))


@in_loop
async def test_a_server_without_tls_is_refused_before_a_password_leaves(secured: Secured) -> None:
    async with wiretapped(secured.plain_port) as (port, tap):
        said = await refusal(secured.at("localhost", port, secured.trust, secured.identity, "timeout=1"))
        assert "TLS" in said or "SSL" in said
        assert_secret(tap)
