"""TLS for both wires from the same PEM files.

With an authority for clients, gRPC lets in nobody without a certificate of it. HTTP asks for one and lets
everybody in, since a kubelet has none to show: only what changes things needs it (pegaref.serving.access).
"""

import ssl
from pathlib import Path

import grpc

from pegaref.config import ConfigError, Tls


def http_context(tls: Tls) -> ssl.SSLContext:
    """The context that HTTP listens with. Raises ConfigError for files that are missing or do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificate {tls.certificate} with the key {tls.key} cannot be used ({error}): "
            "name two PEM files that belong together"
        ) from None
    if tls.client_authority is not None:
        try:
            context.load_verify_locations(tls.client_authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the clients' authority {tls.client_authority} cannot be used ({error}): name a PEM file"
            ) from None
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def grpc_credentials(tls: Tls) -> grpc.ServerCredentials:
    """What gRPC listens with. Raises ConfigError for files that cannot be read."""
    authority = None if tls.client_authority is None else _read(tls.client_authority)
    return grpc.ssl_server_credentials(
        [(_read(tls.key), _read(tls.certificate))],
        root_certificates=authority,
        require_client_auth=authority is not None,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error}): name a readable PEM file") from None
