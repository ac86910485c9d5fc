"""The endpoints that a command line names: those of a target file, URLs, gRPC addresses, TCP ports."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from scenarios.errors import CouldNotRun, did_you_mean, nearest
from scenarios.prober.series import SeriesSet, series_set
from scenarios.spec import GrpcProbe, HttpProbe, LoadedTarget, Probe, Target, TcpProbe, address, target_file
from scenarios.spec.placeholders import fill, placeholder_names
from scenarios.spec.target import Launch, Ready
from scenarios.spec.target_file import find

_SEED = 0
_TCP_ADDRESS = re.compile(r"(?P<host>[^/]+):(?P<port>\d{1,5})")
_GRPC_ADDRESS = re.compile(r"(?P<host>[^/]+):(?P<port>\d{1,5})(?:/(?P<service>.*))?")


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """The series that are to be watched, and the title above them."""

    title: str
    series: SeriesSet


def watch_request(
    target: str | None,
    urls: Iterable[str],
    addresses: Iterable[str],
    settings: Iterable[str],
    ports: Iterable[str] = (),
) -> WatchRequest:
    """The series to watch. Raises `CouldNotRun`."""
    loaded = target_file.load(find(target)) if target is not None else None
    given = _settings(settings)
    probes = [*(_filled(loaded, given) if loaded is not None else ())]
    if loaded is None and given:
        raise CouldNotRun("--set fills a target file's placeholders, and there is no --target")
    parsed = [_http(url) for url in urls]
    paths = [probe.name for probe in parsed]
    for probe in parsed:
        known = [other.name for other in probes]
        whole = f"http {urlsplit(probe.url).netloc}{urlsplit(probe.url).path}"
        name = whole if paths.count(probe.name) > 1 or probe.name in known else probe.name
        probes.append(HttpProbe(_unused(name, known), probe.url))
    for grpc_address in addresses:
        found = _grpc(grpc_address)
        known = [other.name for other in probes]
        name = found.name if found.name not in known else f"grpc {grpc_address}"
        probes.append(GrpcProbe(_unused(name, known), found.address, found.service))
    for tcp_address in ports:
        accepting = _tcp(tcp_address)
        _unused(accepting.name, [other.name for other in probes])
        probes.append(accepting)
    if not probes:
        raise CouldNotRun(
            "nothing to watch: give --target FILE|NAME, --http URL, --grpc HOST:PORT or --tcp HOST:PORT"
        )
    title = loaded.name if loaded is not None else ", ".join(_hosts(probes))
    watched = Target(Launch(name=title, command=(), ready=Ready()), tuple(probes))
    return WatchRequest(title, series_set(watched, {}, _SEED))


def _settings(settings: Iterable[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise CouldNotRun(f"--set {setting}: write NAME=VALUE, such as --set http=127.0.0.1:8000")
        given[name] = value
    return given


def _filled(loaded: LoadedTarget, given: Mapping[str, str]) -> Iterable[Probe]:
    names = {"python": sys.executable, "here": str(loaded.path.parent), **given}
    places = {probe.name: address(probe) for probe in loaded.spec.probe}
    wanted = dict.fromkeys(name for text in places.values() for name in placeholder_names(text))
    if missing := [name for name in wanted if name not in names]:
        fields = ", ".join(f"{{{name}}}" for name in missing)
        options = " ".join(f"--set {name}={_example(name)}" for name in missing)
        raise CouldNotRun(
            f"the endpoints of {loaded.name} need {fields}, known only once it runs; give {options}"
        )
    if unknown := [name for name in given if name not in wanted]:
        hint = did_you_mean(nearest(unknown[0], wanted)) or f"; they use {', '.join(wanted) or 'none'}"
        raise CouldNotRun(f"--set {unknown[0]}: no endpoint of {loaded.name} uses {{{unknown[0]}}}{hint}")
    for probe in loaded.spec.probe:
        yield _checked(probe, fill(places[probe.name], names))


def _checked(probe: Probe, at: str) -> Probe:
    """The probe with its address filled in. Raises `CouldNotRun` for an invalid address, which would be shown
    as dark later.
    """
    if isinstance(probe, HttpProbe):
        _http(at)
        return msgspec.structs.replace(probe, url=at)
    if isinstance(probe, GrpcProbe):
        _grpc(at)
    else:
        _tcp(at)
    return msgspec.structs.replace(probe, address=at)


def _example(name: str) -> str:
    return "PORT" if name.startswith("port") else "HOST:PORT"


def _http(text: str) -> HttpProbe:
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise CouldNotRun(f"{text!r} is no URL; write http://HOST:PORT/PATH")
    return HttpProbe(f"http {parts.path or '/'}", url)


def _grpc(text: str) -> GrpcProbe:
    found = _GRPC_ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise CouldNotRun(f"{text!r} is no gRPC address; write HOST:PORT, or HOST:PORT/SERVICE")
    service = found["service"] or ""
    name = f"grpc {service}" if service else "grpc health"
    return GrpcProbe(name, f"{found['host']}:{found['port']}", service)


def _tcp(text: str) -> TcpProbe:
    found = _TCP_ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise CouldNotRun(f"{text!r} is no TCP address; write HOST:PORT")
    return TcpProbe(f"tcp {text}", text)


def _unused(name: str, known: Iterable[str]) -> str:
    if name in known:
        raise CouldNotRun(f"{name} is asked for twice; give it once")
    return name


def _hosts(probes: Iterable[Probe]) -> list[str]:
    places = (urlsplit(p.url).netloc if isinstance(p, HttpProbe) else p.address for p in probes)
    return list(dict.fromkeys(places))
