"""Publishes pod reports to ledger and stream. Used by launcher and watcher.

The script says whether the ledger already knows an end, but only a process with the keys can distinguish a genuine one
from what somebody else wrote there to hide the real end. Such an end is replaced and quarantined.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from podrelay.errors import MessageError, QuarantineKind, UnknownFormat
from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import text
from podrelay.store import scripts
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.quarantine import Quarantined, quarantine
from podrelay.store.script_table import ScriptCall
from podrelay.store.scripts import UNFENCED, Fence

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A report on its way. `fields` are ledger fields beside those of the report itself; `now` is in seconds, as text."""

    report: PodReport
    now: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    fence: Fence = UNFENCED


class ReportPublisher:
    """:raises RedisUnavailable: from `publish` and `settle`; publishing a report twice is harmless."""

    def __init__(
        self, runner: AsyncScripts, keys: RedisKeys, cipher: PayloadCipher, cluster: str, stream_length: int
    ) -> None:
        self._runner = runner
        self._keys = keys
        self._cipher = cipher
        self._cluster = cluster
        self._stream_length = stream_length

    async def publish(self, outgoing: Outgoing) -> int:
        """Publish one report, and return what became of it, as `settle` does."""
        (answer,) = await self.settle([outgoing], [await self._runner.run(self.call(outgoing))])
        return answer

    def call(self, outgoing: Outgoing, not_genuine: str = "") -> ScriptCall:
        """The script call that publishes a report. Its reply goes to `settle`."""
        report = outgoing.report
        return scripts.publish(
            self._keys,
            cluster=self._cluster,
            fence=outgoing.fence,
            launch_id=report.launch_id,
            attempt=report.attempt,
            outcome=report.outcome,
            result=self.sealed(report),
            now=outgoing.now,
            results_max=self._stream_length,
            fields={
                **outgoing.fields,
                # Empty ones too: the reason of a wait is obsolete once the pod runs.
                "reason": report.reason,
                "message": report.message,
                **({"failure_class": report.failure_class} if report.failure_class else {}),
                "result_key": self._cipher.fingerprints[0],
            },
            not_genuine=not_genuine,
        )

    def sealed(self, report: PodReport) -> str:
        """The report, encrypted."""
        return self._cipher.reports.encrypt(report.encode())

    async def settle(self, sent: Sequence[Outgoing | None], replies: Sequence[Any]) -> list[int]:
        """Complete what these replies leave open: the ends that the ledger claims to know are compared with what it holds.

        :param sent: what was published, in the order of the replies; None for another script's reply.
        :return: per reply 1 published, 0 known already, -1 superseded, -2 another watcher leads, -3 not known yet whether
            this warm pod is the launch's: publish again later.
        """
        answers = [reply if isinstance(reply, int) else 0 for reply in replies]
        for place, (outgoing, reply) in enumerate(zip(sent, replies, strict=True)):
            if outgoing is None or isinstance(reply, int):
                continue
            doubt = self._doubt(outgoing.report, reply)
            if doubt is not None:
                answers[place] = await self._replace(outgoing, text(reply), *doubt)
        return answers

    def _doubt(self, report: PodReport, stored: bytes) -> tuple[QuarantineKind | None, str] | None:
        """Why the stored report is not the end of this pod; None if it is. Without a kind, it is genuine all the same."""
        try:
            found = PodReport.decode(self._cipher.reports.decrypt(stored))
        except UnknownFormat:
            return None  # it is genuine: a newer process wrote it
        except MessageError as error:
            return error.kind, f"the ledger held an end that is no report: {error}"
        if not found.terminal or (found.launch_id, found.attempt) != (report.launch_id, report.attempt):
            return "foreign", "the ledger held the report of another launch or attempt as its end"
        if report.pod and not found.pod:
            return "foreign", "the ledger held an end without a pod, and the pod exists"
        if found.pod != report.pod and any(map(identifiers.warm_id_of_pod, (found.pod, report.pod))):
            return None, "the ledger held the end of another pod of the attempt"
        return None

    async def _replace(self, outgoing: Outgoing, stored: str, kind: QuarantineKind | None, why: str) -> int:
        launch_id = outgoing.report.launch_id
        reply = await self._runner.run(self.call(outgoing, not_genuine=stored))
        if kind is None:
            log.warning("Replaced the recorded end of launch %s: %s", launch_id, why)
        else:
            log.warning("Quarantined the recorded end of launch %s: %s", launch_id, why)
            await self._runner.run(quarantine(self._keys, [Quarantined("launch", launch_id, kind, why)]))
        return reply if isinstance(reply, int) else 0
