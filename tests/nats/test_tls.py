"""tls://, with a nats-server that speaks it."""

import pytest

from tests.certificates import Certificates
from tests.engines.tls import *
from tests.engines.tls import PASSWORD, Secured, files
from tests.nats.conftest import StartNats


@pytest.fixture
def secured(own_nats: StartNats, certificates: Certificates) -> Secured:
    user = ("--user", "joe", "--pass", PASSWORD)
    words = {"user": "joe", "pass": PASSWORD}
    server = own_nats(
        *user, "--tlsverify", "--tlscacert", str(certificates.authority),
        *("--tlscert", str(certificates.certificate), "--tlskey", str(certificates.key)),
        tls=certificates.client_context(), **words,
    )  # fmt: skip
    trust, identity = files(certificates, "cafile", "certfile", "keyfile")
    return Secured(f"tls://joe:{PASSWORD}@{{place}}", trust, identity, server.port, own_nats(*user, **words).port)
