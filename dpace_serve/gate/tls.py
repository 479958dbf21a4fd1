"""Encrypted connections: what is checked before a model is loaded for them."""

import os
import ssl
import stat
from typing import TypedDict

from dpace_serve.errors import ConfigError
from dpace_serve.gate_config import TlsConfig

_OPEN_TO_OTHERS = 0o007


class UvicornTls(TypedDict):
    """Arguments of uvicorn, and by the same names of both engines' servers."""

    ssl_certfile: str
    ssl_keyfile: str
    ssl_ca_certs: str | None
    ssl_cert_reqs: int


def uvicorn_tls(config: TlsConfig) -> UvicornTls:
    """What a server needs to encrypt its connections."""
    asks = config.client_ca_file is not None
    return UvicornTls(
        ssl_certfile=str(config.certificate_file),
        ssl_keyfile=str(config.key_file),
        ssl_ca_certs=str(config.client_ca_file) if asks else None,
        ssl_cert_reqs=int(ssl.CERT_REQUIRED if asks else ssl.CERT_NONE),
    )


def require_usable(config: TlsConfig) -> None:
    """Check that the certificate, its key and the authorities can be used together.

    Raises:
        ConfigError: If they cannot, or others may read the key.
    """
    try:
        mode = os.stat(config.key_file).st_mode  # noqa: PTH116  (of a file that may be a link)
    except OSError as error:
        raise ConfigError(
            f"{config.key_file}: the key of the certificate cannot be read ({error.strerror}). "
            "Check tls.key_file."
        ) from None
    if mode & _OPEN_TO_OTHERS:
        raise ConfigError(
            f"{config.key_file}: others must not be able to read the key of the certificate, the "
            f"mode is {stat.S_IMODE(mode):04o}. Run chmod 600 {config.key_file}."
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Asked for a pass phrase OpenSSL would wait at the terminal.
        context.load_cert_chain(config.certificate_file, config.key_file, password=_no_pass_phrase)
        if config.client_ca_file is not None:
            context.load_verify_locations(config.client_ca_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is one
        raise ConfigError(
            f"tls: certificate_file, key_file and client_ca_file must be PEM files that fit, but: "
            f"{error}. Check them; the key must not be encrypted."
        ) from None


def _no_pass_phrase() -> str:
    return ""
