"""Asks the provider whether fast rendering makes the same pods of a template as construct_pod. Used by `pod_manifest`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from podrelay.protocol.messages import Json
from podrelay_workers.launcher.fast_rendering import PodFields, Proof, Skeleton
from podrelay_workers.runtime.airflow_child import AirflowCallFailed, PendingAnswer, ask, fork_and_ask

log = logging.getLogger(__name__)

_PROVE = "podrelay_workers.launcher.provider_rendering:prove"


@dataclass(frozen=True)
class BegunProof:
    """The proof of a template with this text, in a child process; plain data."""

    text: str
    answer: PendingAnswer

    def result(self) -> Proof:
        """Wait for it; call it once."""
        try:
            return _decoded(self.answer.result())
        except AirflowCallFailed as error:
            return _failed(error)


def begin(text: str, fields: PodFields) -> BegunProof:
    """Begin a proof in a copy of this process, which has imported Airflow."""
    return BegunProof(text, fork_and_ask(_PROVE, _argument(text, fields)))


def prove(text: str, fields: PodFields) -> Proof:
    """Blocks for seconds where Airflow has to be imported, which a child process does."""
    try:
        return _decoded(ask(_PROVE, _argument(text, fields)))
    except AirflowCallFailed as error:
        return _failed(error)


def _argument(text: str, fields: PodFields) -> Json:
    return {"text": text, "deployment": fields.deployment, "image": fields.image}


def _decoded(found: Json) -> Proof:
    if "reason" in found:
        return Proof(refusal=(found["reason"], found["message"]))
    return Proof(Skeleton(found["skeleton"]) if found["skeleton"] else None)


def _failed(error: AirflowCallFailed) -> Proof:
    log.warning("Fast rendering disabled for a pod template, it could not be proved: %s", error)
    return Proof()
