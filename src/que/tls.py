"""TLS as an engine's URL asks for it: always with verification."""

import ssl
from dataclasses import dataclass

from que.address import Address
from que.errors import ConfigurationError

OPTIONS = ("cafile", "certfile", "keyfile", "server_hostname")

# What a handshake ends with when the other side does not speak TLS, or does not like the client.
_BROKEN_OFF = (ssl.SSLError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError, EOFError, TimeoutError)


@dataclass(frozen=True, slots=True)
class TLS:
    """The files to use. No `cafile`: the system's authorities. `server_hostname`: who it is, if not the URL's host."""

    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""
    server_hostname: str = ""

    @classmethod
    def of(cls, address: Address) -> "TLS":
        """Return what the options of `address` say."""
        return cls(*map(address.text, OPTIONS))

    def context(self) -> ssl.SSLContext:
        """Return the context; raises ConfigurationError for a file that cannot be read."""
        try:
            context = ssl.create_default_context(cafile=self.cafile or None)
            if self.certfile:
                context.load_cert_chain(self.certfile, self.keyfile or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"TLS: cafile, certfile or keyfile cannot be used: {error}") from error
        return context

    def explained(self, error: Exception, host: str) -> Exception:
        """Return what a first exchange with `host` has ended with, saying what TLS may have to do with it."""
        if isinstance(error, ssl.SSLCertVerificationError):
            name = self.server_hostname or host
            return ConnectionError(f"its TLS certificate is not trusted for {name}: {error.verify_message}")
        if not isinstance(error, _BROKEN_OFF):
            return error
        anonymous = "" if self.certfile else ", and take clients without a certificate (certfile=, keyfile=)"
        return ConnectionError(f"{str(error) or type(error).__name__}: does it speak TLS at this port{anonymous}?")
