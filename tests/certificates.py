"""An authority of the run's own, and what it signed: for servers that speak TLS."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.servers import require


@dataclass(frozen=True, slots=True)
class Certificates:
    """An authority, and a certificate that it signed for `localhost` alone, for servers and for clients."""

    authority: Path
    certificate: Path
    key: Path

    def context(self, client_certificates: bool = False) -> ssl.SSLContext:
        """What the server side needs."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.authority))
        context.load_cert_chain(self.certificate, self.key)
        if client_certificates:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self) -> ssl.SSLContext:
        """What the client side needs."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_certificates(room: Path) -> Certificates:
    """Return new ones, whose files are in the directory `room`."""
    authority, authority_key, request = room / "ca.pem", room / "ca.key", room / "request.pem"
    certificate, key, extensions = room / "server.pem", room / "server.key", room / "extensions"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl("req", "-x509", *curve, "-keyout", authority_key, "-out", authority, "-days", 2, "-subj", "/CN=test CA",
             "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    _openssl("req", *curve, "-keyout", key, "-out", request, "-subj", "/CN=localhost")
    extensions.write_text("subjectAltName=DNS:localhost\n")
    _openssl("x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority_key, "-CAcreateserial", "-days", 2,
             "-extfile", extensions, "-out", certificate)  # fmt: skip
    return Certificates(authority, certificate, key)


def _openssl(*arguments: object) -> None:
    subprocess.run([require("openssl"), *map(str, arguments)], check=True, capture_output=True, timeout=60)
