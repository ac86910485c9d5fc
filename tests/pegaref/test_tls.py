"""TLS and mutual TLS on both wires."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from pegaref.client import Client, ClientError
from tests.pegaref.conftest import Serve
from tests.pegaref.crowds import closed, crowd
from tests.pegaref.running import DEADLINE_S, eventually

pytestmark = pytest.mark.torch


@dataclass(frozen=True)
class Certificates:
    """An authority, and what it certified for a server and for a client."""

    authority: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], check=True, capture_output=True, cwd=folder, timeout=DEADLINE_S
        )

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    # All that strict verification asks for, which is Python's default from 3.13 on.
    authority = (
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    )
    openssl(
        "req", "-x509", *curve, *authority, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority"
    )
    for name in ("server", "client"):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / f"{name}.ext").write_text(
            "subjectAltName=IP:127.0.0.1,DNS:localhost\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
        )
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip
    return Certificates(
        folder / "ca.pem",
        (folder / "server.pem", folder / "server.key"),
        (folder / "client.pem", folder / "client.key"),
    )


def tls_flags(certificates: Certificates, *, mutual: bool) -> list[str]:
    certificate, key = certificates.server
    flags = [f"--tls-cert={certificate}", f"--tls-key={key}"]
    return [*flags, f"--tls-client-ca={certificates.authority}"] if mutual else flags


def browser(certificates: Certificates, *, certified: bool) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(certificates.authority))
    if certified:
        context.load_cert_chain(*certificates.client)
    return httpx.Client(verify=context, timeout=DEADLINE_S)


def channel_credentials(certificates: Certificates, *, certified: bool) -> grpc.ChannelCredentials:
    certificate, key = certificates.client if certified else (None, None)
    return grpc.ssl_channel_credentials(
        certificates.authority.read_bytes(),
        key.read_bytes() if key else None,
        certificate.read_bytes() if certificate else None,
    )


def test_with_tls_both_wires_are_encrypted_and_plain_ones_refused(
    serve: Serve, certificates: Certificates
) -> None:
    server = serve(*tls_flags(certificates, mutual=False), loads=False)
    with browser(certificates, certified=False) as https:
        assert https.get(server.url("/health", "https")).text == "ok"
        assert https.post(server.url("/instances/cleanup?id=nobody", "https")).status_code == 404
    with pytest.raises(httpx.HTTPError):
        server.get("/health")
    with Client(server.grpc, credentials=channel_credentials(certificates, certified=False)) as client:
        client.health()
    with server.client() as plain, pytest.raises(ClientError):
        plain.health()


@pytest.mark.promise("open-probes")
def test_with_mutual_tls_a_probe_needs_no_certificate_and_a_change_does(
    serve: Serve, certificates: Certificates
) -> None:
    server = serve(*tls_flags(certificates, mutual=True), loads=False)
    cleanup = server.url("/instances/cleanup?id=nobody", "https")
    with browser(certificates, certified=False) as https:
        assert https.get(server.url("/health", "https")).status_code == 200
        assert https.post(cleanup).status_code == 401
    with browser(certificates, certified=True) as https:
        assert https.post(cleanup).status_code == 404
    with Client(server.grpc, credentials=channel_credentials(certificates, certified=False)) as client:
        with pytest.raises(ClientError):
            client.shut_down(deadline_s=3)
    with Client(server.grpc, credentials=channel_credentials(certificates, certified=True)) as client:
        client.shut_down()
    assert server.process.wait(DEADLINE_S) == 0


def test_a_tls_handshake_that_never_begins_is_closed_in_time(
    serve: Serve, certificates: Certificates
) -> None:
    server = serve(*tls_flags(certificates, mutual=False), "--header-timeout=1", loads=False)
    with crowd(server.http, 5) as silent:
        eventually(lambda: all(map(closed, silent)), within_s=10, what="all were closed")
