"""Asks the provider whether fast rendering makes the same pods of a template as construct_pod. Used by `pod_manifest`."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass

from podrelay.protocol.messages import Json
from podrelay_workers.launcher.fast_rendering import PodFields, Proof, Skeleton
from podrelay_workers.runtime import airflow_child
from podrelay_workers.runtime.airflow_child import AirflowCallFailed

log = logging.getLogger(__name__)

_PROVE = "podrelay_workers.launcher.provider_rendering:prove"
_PROVE_FILE = "podrelay_workers.launcher.provider_rendering:prove_file"


@dataclass(frozen=True)
class BegunProof:
    """A proof of the configured template that another process works on. `descriptor` is the socket to it."""

    descriptor: int

    def result(self) -> tuple[str, Proof] | None:
        """Wait for it, and close the socket: the text of the template and its proof; None if there is none."""
        try:
            found = airflow_child.answer_from(self.descriptor, _PROVE_FILE)
        except AirflowCallFailed as error:
            log.debug("No proof of the pod template from the process that read the options: %s", error)
            return None
        return found["text"], _decoded(found)


def answer_once(link: socket.socket, path: str, fields: PodFields) -> None:
    """Send what `BegunProof.result` reads. Only for a process that has imported Airflow."""
    airflow_child.answer_once(link, _PROVE_FILE, {"path": path, **_options(fields)})


def prove(text: str, fields: PodFields) -> Proof:
    """Blocks for seconds where Airflow has to be imported, which a child process does."""
    try:
        return _decoded(airflow_child.ask(_PROVE, {"text": text, **_options(fields)}))
    except AirflowCallFailed as error:
        log.warning("Fast rendering disabled for a pod template, it could not be proved: %s", error)
        return Proof()


def _options(fields: PodFields) -> Json:
    return {"deployment": fields.deployment, "image": fields.image}


def _decoded(found: Json) -> Proof:
    if "reason" in found:
        return Proof(refusal=(found["reason"], found["message"]))
    return Proof(Skeleton(found["skeleton"]) if found["skeleton"] else None)
