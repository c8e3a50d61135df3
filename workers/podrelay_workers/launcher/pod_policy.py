"""`[podrelay] pod_policy`: which pods a launcher creates. Pure; used by `pod_manifest`.

The policy judges the finished manifest: after template, pod_override and pod_mutation_hook.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from podrelay.errors import ConfigError
from podrelay.protocol.messages import Json
from podrelay_workers.launcher.pod_rules import FLAGS, LISTS, Finding, Malformed, PodView, shown

# The reason of a launch that fails for it.
VIOLATED = "PodPolicyViolation"
_OPTION = "[podrelay] pod_policy"
# Enough to mend a pod at once; a message also has to fit into the task's event log.
_SHOWN_MAX = 5

# The value of `namespaces` that stands for those of [kubernetes_executor], which the watcher follows.
WATCHED = "watched"
PRESETS: dict[str, Mapping[str, Any]] = {
    # Kubernetes' Pod Security Standard `restricted` as of 1.37, and no pod outside the watched namespaces.
    "strict": {
        "namespaces": WATCHED,
        "host_network": False,
        "host_pid": False,
        "host_ipc": False,
        "host_ports": False,
        "host_process": False,
        "host_paths": [],
        "probe_hosts": False,
        "volume_types": [
            "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
        ],
        "privileged": False,
        "privilege_escalation": False,
        "added_capabilities": ["NET_BIND_SERVICE"],
        "default_capabilities": False,
        "run_as_root": False,
        "seccomp_profiles": ["RuntimeDefault", "Localhost"],
        "apparmor_profiles": ["RuntimeDefault", "Localhost"],
        "selinux_types": ["container_t", "container_init_t", "container_kvm_t", "container_engine_t"],
        "unmasked_proc": False,
        "sysctls": [
            "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
            "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
            "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
            "net.ipv4.tcp_notsent_lowat", "net.ipv4.tcp_rmem", "net.ipv4.tcp_slow_start_after_idle",
            "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
        ],
    },
}  # fmt: skip


class PodPolicy:
    """The rules that forbid something. Without any, every pod is allowed and nothing is read."""

    def __init__(self, rules: Mapping[str, Any]) -> None:
        """:param rules: as `load_pod_policy` returns them: by name, `False` or what is allowed."""
        self.rules = rules

    def violations(self, pod: Json) -> list[str]:
        """What the policy forbids about this pod: each with its rule, field and value. Never raises; reads no payload."""
        found: list[str] = []
        if not self.rules:
            return found
        try:
            view = PodView(pod)
            for rule, allowed in self.rules.items():
                found += [_line(rule, finding) for finding in _find(rule, view, allowed)]
        except Malformed as error:
            found.append(f"malformed pod: {error}")
        return found


NO_RULES = PodPolicy({})


def describe(violations: Sequence[str]) -> str:
    """The message of a task that fails because of them."""
    more = len(violations) - _SHOWN_MAX
    listed = "; ".join(violations[:_SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")
    return f"{_OPTION} forbids this pod: {listed}"


def _find(rule: str, view: PodView, allowed: Any) -> Iterator[Finding]:
    return FLAGS[rule](view, allowed) if rule in FLAGS else LISTS[rule](view, allowed)


def _line(rule: str, finding: Finding) -> str:
    path, value = finding
    return f"{rule}: {path} is {'not set' if value is None else shown(value)}"


# --- the option -----------------------------------------------------------------------------------------------------------
def load_pod_policy(text: str, watched: Sequence[str | None]) -> PodPolicy:
    """Read the option: empty (everything is allowed), the name of a preset, or a JSON object of rules.

    :param watched: the namespaces of [kubernetes_executor]; None among them stands for all.
    :raises ConfigError: no such preset or rule, or a value of the wrong type; the message says what to write.
    """
    return PodPolicy(dict(_restrictions(_rules(text.strip()), watched)))


def _rules(text: str) -> Mapping[str, Any]:
    if not text or text in PRESETS:
        return PRESETS.get(text, {})
    try:
        rules = json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{_OPTION} is neither {' nor '.join(PRESETS)} nor JSON ({error}). An example: "
            '{"preset": "strict", "service_accounts": ["airflow-task"]}'
        ) from error
    if not isinstance(rules, dict):
        raise ConfigError(f"{_OPTION} is {shown(rules)}, not an object of rules.")
    preset = rules.pop("preset", "")
    if preset and (not isinstance(preset, str) or preset not in PRESETS):
        raise ConfigError(f"{_OPTION}: there is no preset {shown(preset)}; the presets are {', '.join(PRESETS)}.")
    return {**PRESETS.get(preset, {}), **rules}


def _without_repetition(pairs: list[tuple[str, Any]]) -> Json:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{_OPTION} holds {shown(name)} twice.")
    return dict(pairs)


def _restrictions(rules: Mapping[str, Any], watched: Sequence[str | None]) -> Iterator[tuple[str, Any]]:
    """The rules that forbid something, with their values checked: `true` allows everything."""
    for rule, value in rules.items():
        if rule not in FLAGS and rule not in LISTS:
            close = difflib.get_close_matches(rule, [*FLAGS, *LISTS, "preset"], n=1)
            hint = f" Did you mean {close[0]}?" if close else " docs/security.md lists the rules."
            raise ConfigError(f"{_OPTION}: there is no rule {shown(rule)}.{hint}")
        if value is True or (rule == "namespaces" and value == WATCHED and None in watched):
            continue
        if rule in FLAGS:
            if value is not False:
                raise ConfigError(f"{_OPTION}: {rule} is {shown(value)}, not true or false.")
            yield rule, False
        elif rule == "namespaces" and value == WATCHED:
            yield rule, frozenset(watched)
        elif isinstance(value, list) and all(isinstance(item, str) and item for item in value):
            yield rule, frozenset(value)
        else:
            raise ConfigError(
                f"{_OPTION}: {rule} is {shown(value)}, not a list of texts; true allows everything, [] nothing."
            )
