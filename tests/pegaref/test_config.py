"""Settings become one frozen value, or one line that says how to fix them."""

from pathlib import Path

import pytest

from pegaref.config import (
    Address,
    ConfigError,
    ServerConfig,
    Tls,
    is_loopback,
    parse_device_ids,
    parse_placement,
    read_token,
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:9091", "127.0.0.1", 9091), ("localhost:0", "localhost", 0), ("[::1]:65535", "::1", 65535)],
)
def test_an_address_is_host_and_port_and_prints_as_it_was_written(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("9091", "write HOST:PORT"),
        (":9091", "write HOST:PORT"),
        ("", "write HOST:PORT"),
        ("::1:80", "in brackets"),
        ("host:", "0 to 65535"),
        ("host:http", "0 to 65535"),
        ("host:-1", "0 to 65535"),
        ("host:65536", "0 to 65535"),
        ("host:٣", "0 to 65535"),
    ],
)
def test_a_bad_address_is_refused_with_its_remedy(text: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        Address.parse(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_hosts_are_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "localhost.example", ""])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(("text", "devices"), [("0", (0,)), ("0,1", (0, 1)), ("3, 1", (3, 1))])
def test_devices_are_numbers_in_the_order_given(text: str, devices: tuple[int, ...]) -> None:
    assert parse_device_ids(text) == devices


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "such as 0,1"),
        ("0,", "such as 0,1"),
        ("-1", "such as 0,1"),
        ("cuda:0", "such as 0,1"),
        ("0,0", "once"),
    ],
)
def test_bad_devices_are_refused_with_their_remedy(text: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        parse_device_ids(text)


def test_an_unknown_placement_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'process'.* inline, pool, thread, process"):
        parse_placement("proces")


def test_a_placement_near_to_none_is_refused_with_the_list_alone() -> None:
    with pytest.raises(ConfigError, match="unknown placement 'xyz': choose one of inline"):
        parse_placement("xyz")


def test_any_client_version_is_accepted_by_default() -> None:
    assert ServerConfig().accepts("")
    assert ServerConfig().accepts("9.9.9")


def test_only_client_versions_that_match_a_pattern_are_accepted_once_there_is_one() -> None:
    config = ServerConfig(client_versions=("0.22.*", "1.0.0"))
    assert [config.accepts(v) for v in ("0.22.4", "1.0.0", "0.23.0", "")] == [True, True, False, False]


def test_a_token_is_read_without_the_newline_and_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    config = ServerConfig(token=read_token(tmp_path / "token"))
    assert config.token == "0123456789abcdef"
    assert "0123456789abcdef" not in repr(config)


@pytest.mark.parametrize("content", ["", "short\n", "0123456789 abcdef", "0123456789abcdéf"])
def test_a_weak_token_is_refused_with_a_way_to_a_better_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(ConfigError, match="openssl rand"):
        read_token(tmp_path / "token")


def test_a_missing_token_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.txt"):
        read_token(tmp_path / "none.txt")


def test_tls_is_mutual_only_with_an_authority_for_clients() -> None:
    plain = Tls(Path("cert.pem"), Path("key.pem"))
    mutual = Tls(Path("cert.pem"), Path("key.pem"), Path("ca.pem"))
    assert [ServerConfig(tls=tls).mutual_tls for tls in (None, plain, mutual)] == [False, False, True]
