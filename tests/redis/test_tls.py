"""rediss://, with a redis-server that speaks it."""

from pathlib import Path

import pytest

import que
from tests.certificates import Certificates
from tests.engines.tls import *
from tests.engines.tls import PASSWORD, Secured, files
from tests.redis.conftest import StartRedis
from tests.servers import free_port


@pytest.fixture
def secured(own_redis: StartRedis, certificates: Certificates) -> Secured:
    port = free_port()
    server = own_redis(
        *("--requirepass", PASSWORD, "--tls-port", str(port), "--tls-ca-cert-file", str(certificates.authority)),
        *("--tls-cert-file", str(certificates.certificate), "--tls-key-file", str(certificates.key)),
    )
    trust, identity = files(certificates, "cafile", "certfile", "keyfile")
    return Secured(f"rediss://:{PASSWORD}@{{place}}", trust, identity, port, server.port)


def test_a_file_that_is_not_there_is_a_mistake_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(que.ConfigurationError, match="cafile"):
        que.Que(f"rediss://localhost?cafile={tmp_path}/none")
