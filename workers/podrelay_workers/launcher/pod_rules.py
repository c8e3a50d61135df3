"""The rules of `[podrelay] pod_policy`: each finds the fields of a finished pod that it forbids. Pure; for `pod_policy`.

A rule reads the pod as the API server does: names are case-sensitive, null is absent, and where a container has no value of
its own the pod's counts. All containers count: ordinary, init and ephemeral ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from typing import Any

from podrelay.protocol.messages import Json

# The path of a field and what stands there; None: nothing.
Finding = tuple[str, Any]
Allowed = Collection[str]

_SHOWN_MAX = 80
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_PROBES = [
    name.split(".")
    for name in ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop")
]
# The older form of a container's AppArmor profile.
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_APPARMOR_TYPES = {"runtime/default": "RuntimeDefault", "localhost": "Localhost"}


class Malformed(Exception):  # noqa: N818 - a finding that ends the search
    """A field does not have the type that Kubernetes gives it, so no rule can say what it means."""

    def __init__(self, path: str, value: Any, expected: str) -> None:
        super().__init__(f"{path} is {shown(value)}, not {expected}")


def shown(value: Any) -> str:
    """A value in a message: short, on one line, and without the content of objects and lists."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):  # a mutation hook may leave any object, and a number too long to be written
        text = type(value).__name__
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


class PodView:
    """The parts of a pod that several rules read."""

    def __init__(self, pod: Json) -> None:
        """:raises Malformed: one of these parts has another type."""
        if not isinstance(pod, dict):
            raise Malformed("the pod", pod, "an object")
        self.metadata = _object(pod, "", "metadata")
        self.spec = _object(pod, "", "spec")
        self.containers = [item for name in _CONTAINERS for item in _objects(self.spec, "spec", name)]
        self.security = _security("spec", self.spec)
        self.container_security = [_security(path, container) for path, container in self.containers]
        # That of the pod, then those of its containers.
        self.contexts = [self.security, *self.container_security]


# --- fields, as the API server would decode them --------------------------------------------------------------------------
def _field(parent: Json, path: str, name: str, kind: type | tuple[type, ...], expected: str) -> Any:
    value = parent.get(name)
    if value is None or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        return value
    raise Malformed(_join(path, name), value, expected)


def _object(parent: Json, path: str, name: str) -> Json:
    return _field(parent, path, name, dict, "an object") or {}


def _text(parent: Json, path: str, name: str) -> str:
    return _field(parent, path, name, str, "a text") or ""


def _flag(parent: Json, path: str, name: str) -> bool | None:
    return _field(parent, path, name, bool, "true or false")


def _number(parent: Json, path: str, name: str) -> int | None:
    return _field(parent, path, name, int, "a whole number")


def _items(parent: Json, path: str, name: str, kind: type, expected: str) -> Iterator[tuple[str, Any]]:
    for number, item in enumerate(_field(parent, path, name, (list, tuple), "a list") or ()):
        where = f"{_join(path, name)}[{number}]"
        if not isinstance(item, kind):
            raise Malformed(where, item, expected)
        yield where, item


def _objects(parent: Json, path: str, name: str) -> Iterator[tuple[str, Json]]:
    return _items(parent, path, name, dict, "an object")


def _texts(parent: Json, path: str, name: str) -> Iterator[tuple[str, str]]:
    return _items(parent, path, name, str, "a text")


def _security(path: str, owner: Json) -> tuple[str, Json]:
    return f"{path}.securityContext", _object(owner, path, "securityContext")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# --- names ----------------------------------------------------------------------------------------------------------------
def namespaces(pod: PodView, allowed: Allowed) -> Iterator[Finding]:
    name = _text(pod.metadata, "metadata", "namespace")
    if (name or "default") not in allowed:
        yield "metadata.namespace", name or None


def service_accounts(pod: PodView, allowed: Allowed) -> Iterator[Finding]:
    # The second name is an old form of the first.
    named = [(field, _text(pod.spec, "spec", field)) for field in ("serviceAccountName", "serviceAccount")]
    given = [(field, name) for field, name in named if name]
    for field, name in given or named[:1]:
        if (name or "default") not in allowed:
            yield f"spec.{field}", name or None


# --- the node -------------------------------------------------------------------------------------------------------------
def _of_host(name: str) -> Callable[[PodView, bool], Iterator[Finding]]:
    def rule(pod: PodView, allowed: bool) -> Iterator[Finding]:
        if _flag(pod.spec, "spec", name):
            yield f"spec.{name}", True

    return rule


def host_users(pod: PodView, allowed: bool) -> Iterator[Finding]:
    value = _flag(pod.spec, "spec", "hostUsers")
    if value is not False:
        yield "spec.hostUsers", value


def host_ports(pod: PodView, allowed: bool) -> Iterator[Finding]:
    for path, container in pod.containers:
        for where, port in _objects(container, path, "ports"):
            if number := _number(port, where, "hostPort"):
                yield f"{where}.hostPort", number


def host_process(pod: PodView, allowed: bool) -> Iterator[Finding]:
    for path, context in pod.contexts:
        if _flag(_object(context, path, "windowsOptions"), f"{path}.windowsOptions", "hostProcess"):
            yield f"{path}.windowsOptions.hostProcess", True


def host_paths(pod: PodView, allowed: Allowed) -> Iterator[Finding]:
    for path, volume in _objects(pod.spec, "spec", "volumes"):
        if volume.get("hostPath") is not None:
            where = f"{path}.hostPath"
            name = _text(_object(volume, path, "hostPath"), where, "path")
            if not any(_is_below(name, folder) for folder in allowed):
                yield f"{where}.path", name or None


def _is_below(path: str, folder: str) -> bool:
    steps, above = (
        [step for step in text.split("/") if step not in ("", ".")] if text.startswith("/") else None
        for text in (path, folder)
    )
    return steps is not None and above is not None and ".." not in steps and steps[: len(above)] == above


def probe_hosts(pod: PodView, allowed: bool) -> Iterator[Finding]:
    for path, container in pod.containers:
        for names in _PROBES:
            where, probe = path, container
            for name in names:
                where, probe = f"{where}.{name}", _object(probe, where, name)
            for kind in ("httpGet", "tcpSocket"):
                if host := _text(_object(probe, where, kind), f"{where}.{kind}", "host"):
                    yield f"{where}.{kind}.host", host


# --- volumes --------------------------------------------------------------------------------------------------------------
def volume_types(pod: PodView, allowed: Allowed) -> Iterator[Finding]:
    """`host_paths` judges volumes of the type hostPath."""
    for path, volume in _objects(pod.spec, "spec", "volumes"):
        sources = [name for name, value in volume.items() if name != "name" and value is not None]
        for source in sources or ["emptyDir"]:  # Kubernetes' own default
            if source != "hostPath" and source not in allowed:
                yield f"{path}.{shown(str(source))[1:-1]}", volume.get(source, {})


# --- privileges -----------------------------------------------------------------------------------------------------------
def privileged(pod: PodView, allowed: bool) -> Iterator[Finding]:
    for path, context in pod.container_security:
        if _flag(context, path, "privileged"):
            yield f"{path}.privileged", True


def privilege_escalation(pod: PodView, allowed: bool) -> Iterator[Finding]:
    for path, context in pod.container_security:
        value = _flag(context, path, "allowPrivilegeEscalation")
        if value is not False:  # Kubernetes allows it where nothing is said
            yield f"{path}.allowPrivilegeEscalation", value


def added_capabilities(pod: PodView, allowed: Allowed) -> Iterator[Finding]:
    for path, context in pod.container_security:
        for where, name in _texts(_object(context, path, "capabilities"), f"{path}.capabilities", "add"):
            if name not in allowed:
                yield where, name


def default_capabilities(pod: PodView, allowed: bool) -> Iterator[Finding]:
    """Those that the container runtime gives to every container that does not drop them."""
    for path, context in pod.container_security:
        dropped = [name for _, name in _texts(_object(context, path, "capabilities"), f"{path}.capabilities", "drop")]
        if "ALL" not in dropped:
            yield f"{path}.capabilities.drop", ", ".join(dropped) or None


def run_as_root(pod: PodView, allowed: bool) -> Iterator[Finding]:
    path, context = pod.security
    of_pod = _flag(context, path, "runAsNonRoot")
    if of_pod is False:
        yield f"{path}.runAsNonRoot", False
    for path, context in pod.container_security:
        own = _flag(context, path, "runAsNonRoot")
        if own is False or (own is None and of_pod is None):
            yield f"{path}.runAsNonRoot", own
    for path, context in pod.contexts:
        if _number(context, path, "runAsUser") == 0:
            yield f"{path}.runAsUser", 0


# --- confinement ----------------------------------------------------------------------------------------------------------
def seccomp_profiles(pod: PodView, allowed: Allowed) -> Iterator[Finding]:
    path, context = pod.security
    of_pod = _profile(path, context, "seccompProfile")
    if of_pod and of_pod not in allowed:
        yield f"{path}.seccompProfile.type", of_pod
    for path, context in pod.container_security:
        own = _profile(path, context, "seccompProfile")
        # Without a profile a container is unconfined, unless the node is configured otherwise.
        if (own or of_pod or "Unconfined") not in allowed and (own or not of_pod):
            yield f"{path}.seccompProfile.type", own or None


def apparmor_profiles(pod: PodView, allowed: Allowed) -> Iterator[Finding]:
    for path, context in pod.contexts:
        profile = _profile(path, context, "appArmorProfile")
        if profile and profile not in allowed:
            yield f"{path}.appArmorProfile.type", profile
    for name, value in _object(pod.metadata, "metadata", "annotations").items():
        if str(name).startswith(_APPARMOR) and value:
            kind = value if value == "runtime/default" else str(value).partition("/")[0]
            if _APPARMOR_TYPES.get(kind) not in allowed:
                yield f"metadata.annotations[{shown(name)}]", value


def selinux_types(pod: PodView, allowed: Allowed) -> Iterator[Finding]:
    """A user or role of SELinux is forbidden as well."""
    for path, context in pod.contexts:
        where, options = f"{path}.seLinuxOptions", _object(context, path, "seLinuxOptions")
        kind = _text(options, where, "type")
        if kind and kind not in allowed:
            yield f"{where}.type", kind
        for name in ("user", "role"):
            if value := _text(options, where, name):
                yield f"{where}.{name}", value


def unmasked_proc(pod: PodView, allowed: bool) -> Iterator[Finding]:
    for path, context in pod.container_security:
        value = _text(context, path, "procMount")
        if value not in ("", "Default"):
            yield f"{path}.procMount", value


def sysctls(pod: PodView, allowed: Allowed) -> Iterator[Finding]:
    path, context = pod.security
    for where, item in _objects(context, path, "sysctls"):
        name = _text(item, where, "name")
        if name not in allowed:
            yield f"{where}.name", name or None


def _profile(path: str, context: Json, name: str) -> str:
    return _text(_object(context, path, name), f"{path}.{name}", "type")


# --- the rules ------------------------------------------------------------------------------------------------------------
# Rules that are true or false: may a pod do this?
FLAGS: dict[str, Callable[[PodView, bool], Iterator[Finding]]] = {
    "host_network": _of_host("hostNetwork"),
    "host_pid": _of_host("hostPID"),
    "host_ipc": _of_host("hostIPC"),
    "host_users": host_users,
    "host_ports": host_ports,
    "host_process": host_process,
    "probe_hosts": probe_hosts,
    "privileged": privileged,
    "privilege_escalation": privilege_escalation,
    "default_capabilities": default_capabilities,
    "run_as_root": run_as_root,
    "unmasked_proc": unmasked_proc,
}
# Rules that list what a pod may use.
LISTS: dict[str, Callable[[PodView, Allowed], Iterator[Finding]]] = {
    "namespaces": namespaces,
    "service_accounts": service_accounts,
    "host_paths": host_paths,
    "volume_types": volume_types,
    "added_capabilities": added_capabilities,
    "seccomp_profiles": seccomp_profiles,
    "apparmor_profiles": apparmor_profiles,
    "selinux_types": selinux_types,
    "sysctls": sysctls,
}
