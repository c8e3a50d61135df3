"""What `airflow podrelay check` says about the pod template before Kubernetes sees a pod of it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

from podrelay.cli.check_result import Passed
from podrelay.errors import ConfigError

_TEMPLATE = "[kubernetes_executor] pod_template_file"
# Kubernetes reads these as amounts: 0.50 and 0.5 are the same.
_AMOUNTS = re.compile(r"\.(limits|requests|overhead|capacity|sizeLimit|divisor)\b")


def check_template(kube_config: KubeConfig) -> Passed:
    """:raises ConfigError: pods of the template cannot run tasks, or are not what its author wrote."""
    path = kube_config.pod_template_file
    if not path:
        raise ConfigError(f"{_TEMPLATE} is empty: set it to the path of a file that holds a pod.")
    if not Path(path).is_file():
        raise ConfigError(f"{_TEMPLATE}: no file {path}.")
    try:
        faults, warnings = judge_template(Path(path).read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{_TEMPLATE}: {path} is not YAML ({error}).") from error
    if faults:
        raise ConfigError(f"{_TEMPLATE}: {path}: {'; '.join(faults)}.")
    return Passed(str(path), tuple(warnings))


def judge_template(text: str) -> tuple[list[str], list[str]]:
    """Pure: the faults of a template, and what may surprise its author.

    :raises yaml.YAMLError: it is no YAML.
    """
    document = yaml.safe_load(text)
    spec = document.get("spec") if isinstance(document, dict) else None
    containers = spec.get("containers") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(containers, list) or not containers:
        return ["it has no spec.containers"], []
    if document.get("kind", "Pod") != "Pod":
        return [f"its kind is {document['kind']}, not Pod"], []
    faults = [] if spec.get("restartPolicy") == "Never" else ["spec.restartPolicy must be Never"]
    try:
        used = PodGenerator.serialize_pod(PodGenerator.deserialize_model_dict(copy.deepcopy(document)))
    except Exception as error:  # noqa: BLE001  a template may hold anything
        return [*faults, f"it is not a pod ({type(error).__name__}: {error})"], []
    if (used.get("metadata") or {}).get("resourceVersion"):  # a dry run does not show it
        faults.append("metadata.resourceVersion must not be set: no pod can be created with it")
    names = [container.get("name") if isinstance(container, dict) else None for container in containers]
    faults += _about_first(names)
    faults += [f"{field} is no field of a pod and would be dropped" for field in _dropped(document, used)]
    faults += _changed(yaml.load(text, yaml.BaseLoader), used)  # noqa: S506  it creates text only
    warnings = []
    if len(names) == 1 and names[0] not in (None, "base"):
        warnings.append(f"the container {names[0]} will be named base")
    return faults, warnings


def _about_first(names: list[Any]) -> Iterator[str]:
    """The task runs in the first container, which podrelay, like the stock executor, names base."""
    if len(names) > 1 and names[0] not in (None, "base"):
        yield f"the first container is {names[0]}: put the container of the task first and name it base"
    elif "base" in names[1:]:
        yield "a container after the first is named base"


def _dropped(read: Any, used: Any, path: str = "") -> Iterator[str]:
    """The fields of the file that the pod does not have; an empty one is dropped without loss."""
    if isinstance(read, dict) and isinstance(used, dict):
        for name, value in read.items():
            if value is None or value == {} or value == []:
                continue
            if name in used:
                yield from _dropped(value, used[name], _join(path, name))
            else:
                yield _join(path, name)
    elif isinstance(read, list) and isinstance(used, list):
        for number, (value, kept) in enumerate(zip(read, used, strict=False)):
            yield from _dropped(value, kept, f"{path}[{number}]")


def _changed(written: Any, used: Any, path: str = "") -> Iterator[str]:
    """The texts that YAML reads as something else, such as `false`, `0123` or `1.10`."""
    if isinstance(written, dict) and isinstance(used, dict):
        for name, value in written.items():
            yield from _changed(value, used.get(name), _join(path, name))
    elif isinstance(written, list) and isinstance(used, list):
        for number, (value, kept) in enumerate(zip(written, used, strict=False)):
            yield from _changed(value, kept, f"{path}[{number}]")
    elif isinstance(written, str) and isinstance(used, str) and written != used and not _AMOUNTS.search(path):
        secret = ".env[" in path
        yield f"{path}: put it in quotes, or it becomes {'another text' if secret else repr(used)}"


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)
