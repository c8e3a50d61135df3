"""Render the pod manifest of a launch: what the stock executor would send, with our name and labels. Used by the launcher.

There are two renderings with the same result. The provider's PodGenerator.construct_pod (template, executor's fields,
override, pod_mutation_hook) is correct by definition, takes milliseconds, and needs Airflow: `provider_rendering`. Without
override and hook, `fast_rendering` fills in the fields of each launch into a pod that construct_pod merged once. It is used
for a version of a template only after `template_proof`. `[podrelay] pod_policy` judges the result of either.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from podrelay import pod_command
from podrelay.protocol.messages import Json, LaunchRequest
from podrelay.teams import kube_config_of
from podrelay_workers.launcher import template_proof
from podrelay_workers.launcher.fast_rendering import PodFields, pod_name
from podrelay_workers.launcher.pod_policy import NO_RULES, VIOLATED, PodPolicy, describe
from podrelay_workers.launcher.pod_template import ManifestError, PodTemplates, Template
from podrelay_workers.launcher.template_proof import BegunProof
from podrelay_workers.launcher.workload_secret import with_volume, without_workload
from podrelay_workers.runtime import airflow_child

log = logging.getLogger(__name__)

# Longer than any hook that queries a service, shorter than users would wait for a task.
HOOK_MOST_S = 60.0
_PROVIDER = "podrelay_workers.launcher.provider_rendering"


class ManifestRenderer:
    """Renders the pods of one team (None: of launches without a team). Keeps templates between launches."""

    def __init__(
        self,
        deployment: str,
        team: str | None = None,
        *,
        kube_config: Any = None,
        hook: bool | None = None,
        policy: PodPolicy = NO_RULES,
        hook_most_s: float = HOOK_MOST_S,
        workload_in_secret: bool = False,
    ) -> None:
        """:param kube_config: has `kube_image` and `pod_template_file`; None: Airflow's configuration is read.
        :param hook: is there a pod_mutation_hook? None: Airflow is asked.
        """
        self._workload_in_secret = workload_in_secret
        config = kube_config if kube_config is not None else kube_config_of(team)
        self._fields = PodFields(deployment, config.kube_image)
        self._hook = has_mutation_hook() if hook is None else hook
        self.policy = policy
        self._hook_most_s = hook_most_s
        self._templates = PodTemplates(config.pod_template_file)
        self._thread = _one_thread()
        self._works = False
        self._began_s = math.inf
        self._hung = False

    # --- start and end ------------------------------------------------------------------------------------------------
    def check(self, begun: BegunProof | None = None) -> None:
        """Read the configured template and prove fast rendering at start, where the proof delays few launches.

        A hook is not called: it may have side effects, and there is no pod to create.

        :param begun: a proof that was begun before.
        :raises ManifestError: launches without their own template will fail with this error.
        """
        proven = begun.result() if begun is not None else None
        template = self._templates.get(None)
        if not self._hook:
            if proven is not None and proven[0] == template.text:
                template.proof = proven[1]
            else:
                template.proof = template_proof.prove(template.text, self._fields)
            self._require_pod(template)

    def begin_check(self, begun: BegunProof | None = None) -> None:
        """`check` in the renderer's thread, before any launch; its error is logged."""
        self._submit(lambda: self._check_logged(begun))

    def _check_logged(self, begun: BegunProof | None) -> None:
        try:
            self.check(begun)
        except ManifestError as error:
            log.error("Launches without their own pod template will fail: %s", error)

    def render_sample(self, namespace: str) -> Json:
        """Render the pod of an imaginary launch, with the hook: `airflow podrelay check` sends it as a dry run.

        :raises ManifestError: there can be no pod.
        """
        args = pod_command.with_argument("{}")
        key = ("dag", "task", "run", 1, 0)
        sample = LaunchRequest("y", 0, "task", subject="ti", key=key, owner="1", args=args, namespace=namespace)
        return self.render(sample)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def busy(self) -> bool:
        """Does a thread still work, perhaps on a hook that hangs? The interpreter would wait for it before it ends."""
        return self._works or self._hung

    # --- rendering ----------------------------------------------------------------------------------------------------
    async def make(self, request: LaunchRequest) -> Json:
        """Render the pod; in a thread if user code or Airflow is involved, so that neither delays a lease.

        :raises ManifestError: there can be no pod; the message gives the reason.
        :raises AirflowCallFailed: Airflow cannot be imported.
        """
        if self._is_plain(request):
            template = self._templates.get(request.pod_template_file)
            if template.proof is not None and (template.proof.skeleton or template.proof.refusal):
                return self._finished(request, template)
        while True:
            work = self._submit(lambda: self.render(request))
            waiting = asyncio.wrap_future(work)
            try:
                while not (await asyncio.wait({waiting}, timeout=self._hook_most_s / 4))[0]:
                    self._give_up_if_hung(work)
            except BaseException:
                work.cancel()
                raise
            if not work.cancelled():
                return waiting.result()
            # It was queued behind a launch whose hook hung: render it on the new thread.

    def _submit(self, call: Callable[[], Any]) -> Future[Any]:
        def run() -> Any:
            self._works = True
            try:
                return call()
            finally:
                self._works = False

        return self._thread.submit(run)

    def _give_up_if_hung(self, work: Future[Json]) -> None:
        """Fail the launch whose hook does not return; its thread is abandoned."""
        if not work.running() or time.monotonic() - self._began_s < self._hook_most_s:
            return
        hung, self._thread, self._hung = self._thread, _one_thread(), True
        hung.shutdown(wait=False, cancel_futures=True)
        raise ManifestError(
            "PodMutationHookException", f"pod_mutation_hook did not return within {self._hook_most_s:g} s"
        )

    def render(self, request: LaunchRequest) -> Json:
        """Render the pod in the caller's thread. Raises what `make` raises."""
        template = self._templates.get(request.pod_template_file)
        if self._is_plain(request) and template.proof is None:
            template.proof = template_proof.prove(template.text, self._fields)
        return self._finished(request, template)

    def _finished(self, request: LaunchRequest, template: Template) -> Json:
        pod = self._render(without_workload(request) if self._workload_in_secret else request, template)
        if violations := self.policy.violations(pod):
            raise ManifestError(VIOLATED, describe(violations), pod)
        return with_volume(pod) if self._workload_in_secret else pod

    def _render(self, request: LaunchRequest, template: Template) -> Json:
        if self._is_plain(request):
            self._require_pod(template)
            if template.proof is not None and template.proof.skeleton is not None:
                return template.proof.skeleton.filled(request, self._fields)
        provider: Any = airflow_child.load_here(_PROVIDER)
        self._began_s = time.monotonic()
        try:
            pod: Json = provider.construct_manifest(template.document, request, self._fields)
        finally:
            self._began_s = math.inf
        return pod

    def _is_plain(self, request: LaunchRequest) -> bool:
        return not self._hook and not request.pod_override and bool(request.args)

    @staticmethod
    def _require_pod(template: Template) -> None:
        """:raises ManifestError: the provider has found that this template is no pod."""
        if template.proof is not None and template.proof.refusal is not None:
            raise ManifestError(*template.proof.refusal)

    def identity(self, request: LaunchRequest) -> Json:
        """The parts of the pod that are known without rendering it: those that show whose it is."""
        metadata = {
            "name": pod_name(request), "namespace": request.namespace, "labels": self._fields.labels(request)
        }  # fmt: skip
        return {"metadata": metadata}


def _one_thread() -> ThreadPoolExecutor:
    """A single thread, because a user's hook need not be thread-safe."""
    return ThreadPoolExecutor(1, "manifest-renderer")


def has_mutation_hook() -> bool:
    """Is there a pod_mutation_hook? It may come from airflow_local_settings or from a policy plugin."""
    from airflow import settings

    try:
        own = settings.pod_mutation_hook.__module__ != "airflow.settings"
        return own or bool(settings.get_policy_plugin_manager().hook.pod_mutation_hook.get_hookimpls())
    except AttributeError:  # another version of Airflow: use construct_pod, which is always correct
        return True
