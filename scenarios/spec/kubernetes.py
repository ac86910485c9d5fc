"""Liveness and readiness settings as a Kubernetes manifest has them, so that the samples of a run can be
replayed through the rules of the very deployment they are meant for (`--k8s deployment.yaml`).

Any manifest with `containers:` in it will do, whatever its kind: a Pod, a Deployment, a List, a custom
resource. The fields and their defaults are those of the Probe type in Kubernetes' API reference
(https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#Probe).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from scenarios.errors import CouldNotRun, Malformed, UnknownName, did_you_mean, nearest
from scenarios.record import KubeletRules
from scenarios.spec.document import Key, spell
from scenarios.spec.target import GrpcProbe, Role, Target

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
_HANDLERS = ("httpGet", "grpc", "tcpSocket", "exec")
_ROLES: Mapping[Role, str] = {"liveness": "livenessProbe", "readiness": "readinessProbe"}
_INT = "tag:yaml.org,2002:int"
_NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True, slots=True)
class ManifestProbe:
    """One probe of a container. `path` is of an HTTP probe, with its query; `service` of a gRPC one; `port`
    is a number as text, or a name where the container declares no such port. `line` is 1-based."""

    kind: Literal["http", "grpc", "tcp", "exec"]
    rules: KubeletRules
    line: int
    port: str = ""
    path: str = ""
    service: str = ""

    def __str__(self) -> str:
        asks = {
            "http": f"GET {self.path}",
            "grpc": f"gRPC health of {self.service!r}",
            "tcp": f"TCP port {self.port}",
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
    manifest does. A role the manifest leaves out, or that cannot be asked from outside, is in neither;
    `notes` says so."""

    rules: Mapping[Role, KubeletRules] = field(default_factory=dict)
    probes: Mapping[Role, str] = field(default_factory=dict)
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
    notes = []
    for role, key in _ROLES.items():
        probe = container.probes.get(role)
        if probe is None:
            would = "restart it" if role == "liveness" else "take it out of rotation"
            notes.append(f"{container.full_name} has no {key}: a kubelet would never {would}")
            continue
        if probe.kind == "exec":
            notes.append(f"{container.path}:{probe.line}: {key} runs a command, which cannot be replayed")
            continue
        name = _asks_the_same(probe, target)
        if name is None:
            raise CouldNotRun(
                f"{container.path}:{probe.line}: {key} asks {probe}, "
                f"and no [[probe]] of target {target.name} does; add one"
            )
        rules[role], probes[role] = probe.rules, name
    return KubeletProbes(rules, probes, tuple(notes))


def _asks_the_same(probe: ManifestProbe, target: Target) -> str | None:
    for candidate in target.probe:
        if isinstance(candidate, GrpcProbe):
            same = probe.kind == "grpc" and candidate.service == probe.service and not candidate.method
        elif url := getattr(candidate, "url", None):
            same = probe.kind == "http" and _path_of(url) == probe.path
        else:
            same = probe.kind == "tcp"
        if same:
            return candidate.name
    return None


def _path_of(url: str) -> str:
    """The path and query of a URL whose host may be a placeholder."""
    return re.sub(r"^(https?://)?[^/?]*", "", url) or "/"


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
    port = handler.text("port")
    if port is None:
        raise handler.malformed((), "the key 'port' is missing")
    port = ports.get(port, port)
    if name == "httpGet":
        path = handler.text("path") or "/"
        return ManifestProbe("http", rules, probe.line, port, path if path.startswith("/") else f"/{path}")
    if name == "grpc":
        return ManifestProbe("grpc", rules, probe.line, port, service=handler.text("service") or "")
    return ManifestProbe("tcp", rules, probe.line, port)


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
