"""Liveness and readiness settings as a Kubernetes manifest has them, so that the samples of a run can be
replayed through the rules of the very deployment they are meant for (`--k8s deployment.yaml`).

Any manifest with `containers:` in it will do, whatever its kind: a Pod, a Deployment, a List, a custom
resource. The fields and their defaults are those of the Probe type in Kubernetes' API reference
(https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#Probe).
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import yaml

from scenarios.errors import CouldNotRun, Malformed, UnknownName, did_you_mean, nearest
from scenarios.record import KubeletRules
from scenarios.spec.document import Key, spell
from scenarios.spec.placeholders import placeholder_names
from scenarios.spec.target import CommandProbe, GrpcProbe, HttpProbe, Role, Target, TcpProbe, not_replayed

_PROBE_KEYS = (
    "exec",
    "failureThreshold",
    "grpc",
    "httpGet",
    "initialDelaySeconds",
    "periodSeconds",
    "successThreshold",
    "tcpSocket",
    "terminationGracePeriodSeconds",
    "timeoutSeconds",
)
_HANDLERS = {
    "httpGet": ("host", "httpHeaders", "path", "port", "scheme"),
    "grpc": ("port", "service"),
    "tcpSocket": ("host", "port"),
    "exec": ("command",),
}
_KINDS = {HttpProbe: "http", GrpcProbe: "grpc", TcpProbe: "tcp"}
_URL = re.compile(r"(?P<scheme>\w+)://(?P<authority>[^/?]*)(?P<target>.*)")
_ROLES: Mapping[Role, str] = {"liveness": "livenessProbe", "readiness": "readinessProbe"}
_INT = "tag:yaml.org,2002:int"
_NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True, slots=True)
class ManifestProbe:
    """One probe of a container. `scheme` (http or https), `path` with its query and `headers` are of an HTTP
    probe, `service` of a gRPC one. `port` is a number as text, and `port_name` what the container calls it;
    it is empty where no port of the container has the name that the probe gives. `host` is empty for the
    pod's own. `line` is 1-based."""

    kind: Literal["http", "grpc", "tcp", "exec"]
    rules: KubeletRules
    line: int
    port: str = ""
    port_name: str = ""
    path: str = ""
    service: str = ""
    scheme: str = "http"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        sent = "".join(f" with {name}: {value}" for name, value in self.headers)
        over = f" over {self.scheme}" if self.scheme != "http" else ""
        at = f" of {self.host}" if self.host else ""
        port = f"port {self.port or self.port_name}{at}"
        asks = {
            "http": f"GET {self.path}{sent}{over} at {port}",
            "grpc": f"gRPC health of {self.service!r} at {port}",
            "tcp": f"TCP {port}",
            "exec": "a command (exec)",
        }[self.kind]
        rules = self.rules
        return (
            f"{asks}, timeout {rules.timeout_s:g} s, every {rules.period_s:g} s, "
            f"{rules.failure_threshold} failures in a row"
        )


@dataclass(frozen=True, slots=True)
class Container:
    """A container and the probes a kubelet would use on it. `owner` is `kind/name` of what it stands in."""

    name: str
    owner: str
    path: Path
    probes: Mapping[Role, ManifestProbe]

    @property
    def full_name(self) -> str:
        """`deployment/engine/server`."""
        return f"{self.owner}/{self.name}"


@dataclass(frozen=True, slots=True)
class KubeletProbes:
    """How to replay a run: for each role the rules and the target's probe (by name) that asks the same as the
    manifest does. A role that the manifest leaves out is in neither; one that cannot be asked from outside is
    in `not_replayed` with the reason. `notes` says both."""

    rules: Mapping[Role, KubeletRules] = field(default_factory=dict)
    probes: Mapping[Role, str] = field(default_factory=dict)
    not_replayed: Mapping[Role, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_manifest(path: Path, container: str | None = None) -> Container:
    """The container with probes that a manifest describes.

    Where there are several, `container` says which: its name, `name/container` or `kind/name/container`.
    Raises `Malformed` with file, line and key, and `UnknownName`.
    """
    found = [c for c in _containers(path) if container is not None or c.probes]
    if container is not None:
        names = [c.full_name for c in found]
        chosen = [c for c in found if f"/{c.full_name}".endswith(f"/{container}")]
        if not chosen:
            raise UnknownName(
                "container", container, [c.name for c in found], remedy=f"{path} has {_list(names)}"
            )
        found = chosen
    if not found:
        raise Malformed(path, None, "", "no container in it has a livenessProbe or a readinessProbe")
    if len(found) > 1:
        names = [c.full_name for c in found]
        raise Malformed(path, None, "", f"several containers have probes: say which of {_list(names)}")
    return found[0]


def read_argument(argument: str) -> Container:
    """`read_manifest` for what a command line gives: `FILE`, or `FILE:CONTAINER`."""
    file, colon, container = argument.rpartition(":")
    if not colon or Path(argument).is_file():
        return read_manifest(Path(argument))
    return read_manifest(Path(file), container)


def replay_for(container: Container, target: Target) -> KubeletProbes:
    """How this container's probes are replayed on the samples of that target.

    Raises `CouldNotRun` when the manifest asks something that no probe of the target asks: a verdict about
    another endpoint would be no verdict about this deployment.
    """
    rules: dict[Role, KubeletRules] = {}
    probes: dict[Role, str] = {}
    not_replayed: dict[Role, str] = {}
    ports: dict[str, str] = {}
    notes = []
    for role, key in _ROLES.items():
        probe = container.probes.get(role)
        if probe is None:
            would = "restart it" if role == "liveness" else "take it out of rotation"
            notes.append(f"{container.full_name} has no {key}: a kubelet would never {would}")
            continue
        if probe.kind == "exec":
            not_replayed[role] = f"{key} runs a command, which cannot be replayed"
            notes.append(f"{container.path}:{probe.line}: {not_replayed[role]}")
            continue
        try:
            found, port = _asking_the_same(probe, target, ports)
        except LookupError as error:
            raise CouldNotRun(f"{container.path}:{probe.line}: {key} asks {probe}, and {error}") from None
        ports[port] = probe.port or probe.port_name
        rules[role], probes[role] = probe.rules, found.name
    return KubeletProbes(rules, probes, not_replayed, tuple(notes))


def _asking_the_same(
    probe: ManifestProbe, target: Target, taken: Mapping[str, str]
) -> tuple[HttpProbe | GrpcProbe | TcpProbe, str]:
    """The target's probe that asks the same, and its port as the target file has it. `taken`: which of the
    manifest's ports stands for which of the file's already. Raises `LookupError` with the reason."""
    near = [
        one for one in target.probe if not isinstance(one, CommandProbe) and _KINDS[type(one)] == probe.kind
    ]
    reasons = {one.name: _difference(probe, one) for one in near}
    same = [(one, _port(one)) for one in near if reasons[one.name] is None]
    if not same:
        why = "; ".join(f"{name!r} {reason}" for name, reason in reasons.items() if reason)
        raise LookupError(
            f"no [[probe]] of target {target.name} does: {why or 'none is of its kind'}; add one"
        )
    wanted = probe.port or probe.port_name
    called = [(one, port) for one, port in same if port in (probe.port, probe.port_name)]
    free = [(one, port) for one, port in same if not port.isdigit() and taken.get(port, wanted) == wanted]
    known = [(one, port) for one, port in free if port in taken]
    fitting = called or known or free
    shown = " and ".join(dict.fromkeys(_spelled(port) for _, port in fitting or same))
    if not fitting:
        raise LookupError(
            f"target {target.name} asks the same at {shown} alone: add a [[probe]] for port {wanted}, or "
            "write {port:NAME} for a port that is another one in each run"
        )
    if len({port for _, port in fitting}) > 1:
        raise LookupError(
            f"target {target.name} asks the same at {shown}, and either may be meant: call the one that is, "
            f"{{port:{probe.port_name or wanted}}}"
        )
    found, port = fitting[0]
    for own, manifests in taken.items():
        if (own == port) != (manifests == wanted):
            raise LookupError(
                f"target {target.name} asks the same at {shown}, but {_spelled(own)} is the port "
                f"{manifests} of the manifest's other probe; add a [[probe]]"
            )
    return found, port


def _difference(probe: ManifestProbe, own: HttpProbe | GrpcProbe | TcpProbe) -> str | None:
    """What a target's probe of the same kind asks otherwise, but for its port; None where it is the same."""
    if (reason := not_replayed(own)) is not None:
        return reason
    if probe.host and probe.host != _host(own):
        return f"asks another host than {probe.host}"
    if isinstance(own, GrpcProbe):
        return None if own.service == probe.service else f"asks about {own.service!r}"
    if isinstance(own, TcpProbe):
        return None
    if (parts := _URL.fullmatch(own.url)) is None:
        return "asks over what a placeholder says: write http:// or https:// before it"
    scheme, path = parts["scheme"].lower(), parts["target"]
    path = path if path.startswith("/") else f"/{path}"
    if path != probe.path:
        return f"asks {path}"
    if scheme != probe.scheme:
        return f"asks over {scheme}"
    sent = [(name.lower(), value) for name, value in own.headers.items()]
    wanted = [(name.lower(), value) for name, value in probe.headers]
    if "user-agent" not in dict(wanted):  # then a kubelet's is kube-probe/VERSION
        sent = [(n, v) for n, v in sent if n != "user-agent" or not v.startswith("kube-probe/")]
    return None if sorted(sent) == sorted(wanted) else "sends other headers"


def _authority(own: HttpProbe | GrpcProbe | TcpProbe) -> str:
    if not isinstance(own, HttpProbe):
        return own.address
    parts = _URL.fullmatch(own.url)
    return parts["authority"] if parts else own.url


def _host(own: HttpProbe | GrpcProbe | TcpProbe) -> str:
    return re.sub(r":(\d+|\{[^{}]*\})$", "", _authority(own)).strip("[]")


def _port(own: HttpProbe | GrpcProbe | TcpProbe) -> str:
    """The port of a target's probe as its file has it: a number, or the name of the placeholder for it."""
    authority = _authority(own)
    if literal := re.search(r":(\d+)$", authority):
        return literal[1]
    if names := list(placeholder_names(authority)):
        return names[-1].removeprefix("port:")
    return "443" if isinstance(own, HttpProbe) and own.url.lower().startswith("https:") else "80"


def _spelled(port: str) -> str:
    return f"port {port}" if port.isdigit() else f"{{{port}}}"


def _containers(path: Path) -> Iterator[Container]:
    for document in _documents(path):
        for owner in document.each("items") if document.has("items") else [document]:
            kind = (owner.text("kind") or "manifest").lower()
            metadata = owner.table("metadata")
            name = (metadata.text("name") if metadata else None) or "unnamed"
            for container in owner.within("containers", "initContainers"):
                yield _container(path, f"{kind}/{name}", container)


def _documents(path: Path) -> Iterator[YamlTable]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Malformed(path, None, "", f"cannot be read: {error.strerror}") from error
    try:
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            if isinstance(node, yaml.MappingNode):
                yield YamlTable(path, node, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        problem = f"not YAML: {getattr(error, 'problem', None) or error}"
        if "{{" in text:
            problem += "; it looks like a template: render it first (helm template, kustomize build)"
        raise Malformed(path, line, "", problem) from error


def _container(path: Path, owner: str, container: YamlTable) -> Container:
    ports = {
        name: str(number)
        for port in container.each("ports")
        if (name := port.text("name")) and (number := port.number("containerPort", least=1)) is not None
    }
    probes = {
        role: _probe(probe, ports)
        for role, key in _ROLES.items()
        if (probe := container.table(key)) is not None
    }
    name = container.text("name")
    if name is None:
        raise container.malformed((), "the container has no name")
    return Container(name, owner, path, probes)


def _probe(probe: YamlTable, ports: Mapping[str, str]) -> ManifestProbe:
    probe.only(*_PROBE_KEYS)
    handlers = [name for name in _HANDLERS if probe.has(name)]
    if len(handlers) != 1:
        raise probe.malformed((), f"give exactly one of {', '.join(_HANDLERS)}")
    default = KubeletRules()
    rules = KubeletRules(
        timeout_s=float(probe.number("timeoutSeconds", least=1) or default.timeout_s),
        period_s=float(probe.number("periodSeconds", least=1) or default.period_s),
        failure_threshold=probe.number("failureThreshold", least=1) or default.failure_threshold,
    )
    name = handlers[0]
    if name == "exec":
        return ManifestProbe("exec", rules, probe.line)
    handler = probe.table(name)
    if handler is None:
        raise probe.malformed((name,), "is empty")
    handler.only(*_HANDLERS[name])
    port = handler.text("port")
    if port is None:
        raise handler.malformed((), "the key 'port' is missing")
    if port.isdigit():
        if not 0 < int(port) < 65536:
            raise handler.malformed(("port",), "must be from 1 to 65535")
        port_name = next((name for name, number in ports.items() if number == port), "")
    else:
        port_name, port = port, ports.get(port, "")
    host = handler.text("host") or ""
    if name == "httpGet":
        scheme = handler.text("scheme") or "HTTP"
        if scheme not in ("HTTP", "HTTPS"):
            raise handler.malformed(("scheme",), "must be HTTP or HTTPS")
        path = handler.text("path") or "/"
        return ManifestProbe(
            "http",
            rules,
            probe.line,
            port,
            port_name,
            quote(path if path.startswith("/") else f"/{path}", safe=string.punctuation),
            scheme=scheme.lower(),
            host=host,
            headers=tuple(_header(header) for header in handler.each("httpHeaders")),
        )
    if name == "grpc":
        service = handler.text("service") or ""
        return ManifestProbe("grpc", rules, probe.line, port, port_name, service=service)
    return ManifestProbe("tcp", rules, probe.line, port, port_name, host=host)


def _header(header: YamlTable) -> tuple[str, str]:
    header.only("name", "value")
    name = header.text("name")
    if not name:
        raise header.malformed((), "the key 'name' is missing")
    return name, header.text("value") or ""


def _list(names: list[str]) -> str:
    return ", ".join(names) or "none"


class YamlTable:
    """One mapping of a YAML file. Keys that are absent and keys that are null are the same."""

    def __init__(self, path: Path, node: yaml.MappingNode, key: Key) -> None:
        self._path, self._node, self._key = path, node, key

    @property
    def line(self) -> int:
        """The line at which the table begins, 1-based."""
        return int(self._node.start_mark.line) + 1

    def malformed(self, key: Key, problem: str) -> Malformed:
        """The error for a problem with `key` of this table, or with the table itself."""
        node = self._find(str(key[0])) if key else None
        line = int(node.start_mark.line) + 1 if node is not None else self.line
        return Malformed(self._path, line, spell((*self._key, *key)), problem)

    def has(self, name: str) -> bool:
        """Whether the key is there and not null."""
        return self._find(name) is not None

    def only(self, *known: str) -> None:
        """Raises `Malformed` for a key that is none of these."""
        for key, _ in self._node.value:
            if key.value not in known:
                hint = did_you_mean(nearest(key.value, known)) or f"; known here: {', '.join(known)}"
                line = int(key.start_mark.line) + 1
                raise Malformed(self._path, line, spell((*self._key, key.value)), f"unknown key{hint}")

    def text(self, name: str) -> str | None:
        """A scalar as it is written. Raises `Malformed` for a table or an array."""
        node = self._find(name)
        if node is None:
            return None
        if not isinstance(node, yaml.ScalarNode):
            raise self.malformed((name,), "must be a single value")
        return str(node.value)

    def number(self, name: str, *, least: int) -> int | None:
        """A whole number of at least `least`. Raises `Malformed`."""
        node = self._find(name)
        if node is None:
            return None
        if isinstance(node, yaml.ScalarNode) and node.tag == _INT:
            value = int(yaml.safe_load(node.value))
            if value >= least:
                return value
        raise self.malformed((name,), f"must be a whole number of at least {least}")

    def table(self, name: str) -> YamlTable | None:
        """The table under the key. Raises `Malformed` for anything else."""
        node = self._find(name)
        if node is None:
            return None
        if not isinstance(node, yaml.MappingNode):
            raise self.malformed((name,), "must be a table")
        return YamlTable(self._path, node, (*self._key, name))

    def each(self, name: str) -> Iterator[YamlTable]:
        """The tables in the array under the key; none where there is no such key. Raises `Malformed`."""
        node = self._find(name)
        if node is None:
            return
        if not isinstance(node, yaml.SequenceNode):
            raise self.malformed((name,), "must be an array")
        for i, item in enumerate(node.value):
            if not isinstance(item, yaml.MappingNode):
                raise Malformed(
                    self._path,
                    int(item.start_mark.line) + 1,
                    spell((*self._key, name, i)),
                    "must be a table",
                )
            yield YamlTable(self._path, item, (*self._key, name, i))

    def within(self, *names: str) -> Iterator[YamlTable]:
        """The tables in arrays under any of these keys, at any depth below this one."""
        for key, value in self._node.value:
            if key.value in names and isinstance(value, yaml.SequenceNode):
                yield from self.each(key.value)
            elif isinstance(value, yaml.MappingNode):
                yield from YamlTable(self._path, value, (*self._key, key.value)).within(*names)
            elif isinstance(value, yaml.SequenceNode):
                for i, item in enumerate(value.value):
                    if isinstance(item, yaml.MappingNode):
                        yield from YamlTable(self._path, item, (*self._key, key.value, i)).within(*names)

    def _find(self, name: str) -> yaml.Node | None:
        for key, value in self._node.value:
            if key.value == name:
                return None if value.tag == _NULL else value
        return None
