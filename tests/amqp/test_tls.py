"""amqps://, with a RabbitMQ that speaks it."""

from uuid import uuid4

import pytest

from tests.amqp.server import RabbitMQ
from tests.certificates import Certificates
from tests.engines.tls import *
from tests.engines.tls import PASSWORD, Secured, files


@pytest.fixture
def secured(node: RabbitMQ, certificates: Certificates) -> Secured:
    node.add_user("joe", PASSWORD)
    trust, identity = files(certificates, "cafile", "certfile", "keyfile")
    identity += f"&prefix=t{uuid4().hex[:8]}"
    return Secured(f"amqps://joe:{PASSWORD}@{{place}}", trust, identity, node.tls_port, node.port)
