"""The endpoints that a command line names: those of a target file, URLs, gRPC addresses, TCP ports."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from scenarios.address import BadAddress, http_url, place
from scenarios.errors import CouldNotRun, did_you_mean, nearest
from scenarios.prober.series import SeriesSet, series_set
from scenarios.spec import GrpcProbe, HttpProbe, LoadedTarget, Probe, Target, TcpProbe, address, target_file
from scenarios.spec.placeholders import escape, placeholder_names
from scenarios.spec.probes import TEXTS
from scenarios.spec.target import Launch, Ready
from scenarios.spec.target_file import find

_SEED = 0


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
    names = _filled(loaded, given) if loaded is not None else {}
    probes = [*(loaded.spec.probe if loaded is not None else ())]
    if loaded is None and given:
        raise CouldNotRun("--set fills a target file's placeholders, and there is no --target")
    parsed = [_http(url) for url in urls]
    paths = [probe.name for probe in parsed]
    for probe in parsed:
        known = [other.name for other in probes]
        whole = f"http {urlsplit(probe.url).netloc}{urlsplit(probe.url).path}"
        name = whole if paths.count(probe.name) > 1 or probe.name in known else probe.name
        probes.append(HttpProbe(_unused(name, known), escape(probe.url)))
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
    return WatchRequest(title, series_set(watched, names, _SEED))


def _settings(settings: Iterable[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise CouldNotRun(f"--set {setting}: write NAME=VALUE, such as --set http=127.0.0.1:8000")
        given[name] = value
    return given


def _filled(loaded: LoadedTarget, given: Mapping[str, str]) -> dict[str, str]:
    """The values of the placeholders of a target's probes. Raises `CouldNotRun` where one is missing, or
    makes a probe one that cannot be asked: it would be shown as darkness later."""
    names = {"python": sys.executable, "here": str(loaded.path.parent), **given}
    texts = [getattr(probe, key, None) for probe in loaded.spec.probe for key in TEXTS]
    wanted = dict.fromkeys(placeholder_names(texts))
    if missing := [name for name in wanted if name not in names]:
        fields = ", ".join(f"{{{name}}}" for name in missing)
        options = " ".join(f"--set {name}={_example(name)}" for name in missing)
        raise CouldNotRun(
            f"the endpoints of {loaded.name} need {fields}, known only once it runs; give {options}"
        )
    if unknown := [name for name in given if name not in wanted]:
        hint = did_you_mean(nearest(unknown[0], wanted)) or f"; they use {', '.join(wanted) or 'none'}"
        raise CouldNotRun(f"--set {unknown[0]}: no endpoint of {loaded.name} uses {{{unknown[0]}}}{hint}")
    target_file.check_filled(loaded, names)
    return names


def _example(name: str) -> str:
    return "PORT" if name.startswith("port") else "HOST:PORT"


def _http(text: str) -> HttpProbe:
    url = text if "://" in text else f"http://{text}"
    try:
        asked = http_url(url)
    except BadAddress as error:
        raise CouldNotRun(f"--http {text}: {error}") from None
    return HttpProbe(f"http {asked.target.partition('?')[0]}", url)


def _grpc(text: str) -> GrpcProbe:
    at, _, service = (text, "", "") if text.startswith("unix:") else text.partition("/")
    return GrpcProbe(f"grpc {service}" if service else "grpc health", _place("--grpc", at), service)


def _tcp(text: str) -> TcpProbe:
    return TcpProbe(f"tcp {text}", _place("--tcp", text))


def _place(option: str, text: str) -> str:
    try:
        return str(place(text))
    except BadAddress as error:
        raise CouldNotRun(f"{option} {text}: {error}") from None


def _unused(name: str, known: Iterable[str]) -> str:
    if name in known:
        raise CouldNotRun(f"{name} is asked for twice; give it once")
    return name


def _hosts(probes: Iterable[Probe]) -> list[str]:
    places = (urlsplit(p.url).netloc if isinstance(p, HttpProbe) else address(p) for p in probes)
    return list(dict.fromkeys(places))
