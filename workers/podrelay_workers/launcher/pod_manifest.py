"""Render the pod manifest of a launch: what the stock executor would send, with our name and labels. Used by the launcher.

There are two renderings with the same result. The provider's PodGenerator.construct_pod (template, executor's fields,
override, pod_mutation_hook) is correct by definition and takes milliseconds. Without override and hook, fast rendering
merges the template once, with construct_pod, and fills in the fields of each launch. It is used for a version of a template
only after its result was compared with that of construct_pod. `[podrelay] pod_policy` judges the result of either.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from airflow.providers.cncf.kubernetes.exceptions import PodMutationHookException, PodReconciliationError
from kubernetes.client import ApiClient, Configuration

from podrelay import pod_command
from podrelay.pod_labels import LabelledPodGenerator
from podrelay.protocol import identifiers
from podrelay.protocol.messages import Json, LaunchRequest
from podrelay.teams import kube_config_of
from podrelay_workers.launcher.pod_policy import NO_RULES, VIOLATED, PodPolicy, describe
from podrelay_workers.launcher.pod_template import ManifestError, PodTemplates, Template
from podrelay_workers.launcher.workload_secret import with_volume, without_workload

log = logging.getLogger(__name__)

# dag id, task id, run id, try number, map index: the arguments of construct_pod and the source of its labels.
Coordinates = tuple[str, str, "str | None", int, int]

# Longer than any hook that queries a service, shorter than users would wait for a task.
HOOK_MOST_S = 60.0

# The launch that a template is merged with for fast rendering, and the one that proves the result at start.
_EMPTY = LaunchRequest("x", 0, "task", subject="", key=("x", "x", "", 0, -1), owner="", args=("x",), namespace="")
_SAMPLE = LaunchRequest(
    "y", 0, "task", subject="ti", key=("dag", "task", "run", 1, 0), owner="1", args=pod_command.with_argument("{}")
)


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
        self._deployment = deployment
        self._workload_in_secret = workload_in_secret
        self._config = kube_config if kube_config is not None else kube_config_of(team)
        self._hook = has_mutation_hook() if hook is None else hook
        self.policy = policy
        self._hook_most_s = hook_most_s
        self._templates = PodTemplates(self._config.pod_template_file)
        self._sanitize: Callable[[Any], Json] = ApiClient(configuration=Configuration()).sanitize_for_serialization
        self._thread = _one_thread()
        self._began_s = 0.0
        self.hung = False

    def check(self) -> None:
        """Read the configured template and prove fast rendering at start, where the proof delays no launch.

        A hook is not called: it may have side effects, and there is no pod to create.

        :raises ManifestError: launches without their own template will fail with this error.
        """
        if self._hook:
            self._templates.get(None)
        else:
            self._render(_SAMPLE)

    def render_sample(self, namespace: str) -> Json:
        """Render the pod of an imaginary launch, with the hook: `airflow podrelay check` sends it as a dry run.

        :raises ManifestError: there can be no pod.
        """
        return self.render(replace(_SAMPLE, namespace=namespace))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def make(self, request: LaunchRequest) -> Json:
        """Render the pod; in a thread if user code is involved, so that a slow hook delays no lease.

        :raises ManifestError: there can be no pod; the message gives the reason.
        """
        if self._is_plain(request):
            return self.render(request)
        while True:
            work = self._thread.submit(self._render_timed, request)
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

    def _render_timed(self, request: LaunchRequest) -> Json:
        self._began_s = time.monotonic()
        return self.render(request)

    def _give_up_if_hung(self, work: Future[Json]) -> None:
        """Fail the launch whose hook does not return; its thread is abandoned."""
        if not work.running() or time.monotonic() - self._began_s < self._hook_most_s:
            return
        hung, self._thread, self.hung = self._thread, _one_thread(), True
        hung.shutdown(wait=False, cancel_futures=True)
        raise ManifestError(
            "PodMutationHookException", f"pod_mutation_hook did not return within {self._hook_most_s:g} s"
        )

    def render(self, request: LaunchRequest) -> Json:
        """Render the pod in the caller's thread.

        :raises ManifestError: there can be no pod, or the policy forbids it; the message gives the reason.
        """
        pod = self._render(without_workload(request) if self._workload_in_secret else request)
        if violations := self.policy.violations(pod):
            raise ManifestError(VIOLATED, describe(violations), pod)
        return with_volume(pod) if self._workload_in_secret else pod

    def _render(self, request: LaunchRequest) -> Json:
        template = self._templates.get(request.pod_template_file)
        if not self._is_plain(request):
            return self._construct_manifest(template, request)
        if not template.proved:
            self._prove(template, request)
        return (
            self._filled(template, request)
            if template.skeleton is not None
            else self._construct_manifest(template, request)
        )

    def _is_plain(self, request: LaunchRequest) -> bool:
        return not self._hook and not request.pod_override and bool(request.args)

    # --- rendering by construct_pod -----------------------------------------------------------------------------------
    def _construct_manifest(self, template: Template, request: LaunchRequest) -> Json:
        body = self._construct(template, request)
        metadata = body.setdefault("metadata", {})
        # A hook cannot change the name and labels that keep a launch from having two pods (invariant I1,
        # docs/architecture.md).
        metadata["name"] = _name(request)
        metadata["labels"] = {**(metadata.get("labels") or {}), **self._our_labels(request)}
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **_our_annotations(request)}
        return body

    def _construct(self, template: Template, request: LaunchRequest) -> Json:
        dag_id, task_id, run_id, try_number, map_index = _coordinates(request)
        try:
            # Deserialised for each pod, because a merged pod shares parts with its sources.
            base = LabelledPodGenerator.deserialize_model_dict(copy.deepcopy(template.document))
            override = request.pod_override and LabelledPodGenerator.deserialize_model_dict(
                copy.deepcopy(request.pod_override)
            )
            pod = LabelledPodGenerator.construct_pod(
                dag_id=dag_id,
                task_id=task_id,
                pod_id=_name(request),
                try_number=try_number,
                kube_image=self._image(request),  # type: ignore[arg-type]
                date=None,
                args=list(request.args),
                pod_override_object=override or None,
                base_worker_pod=base,
                namespace=request.namespace,
                scheduler_job_id=request.owner,
                run_id=run_id,
                map_index=map_index,
                with_mutation_hook=True,
            )
            return self._sanitize(pod)
        except PodMutationHookException as error:
            raise ManifestError("PodMutationHookException", f"pod_mutation_hook failed: {_cause(error)}") from error
        except PodReconciliationError as error:
            raise ManifestError(
                "PodReconciliationError", f"template and pod_override do not merge: {_cause(error)}"
            ) from error
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a template or an override may hold anything
            raise ManifestError("InvalidPod", f"template or pod_override is not a pod: {_cause(error)}") from error

    # --- fast rendering -----------------------------------------------------------------------------------------------
    def _prove(self, template: Template, request: LaunchRequest) -> None:
        """Merge the template, and use the result only if it equals that of construct_pod for this launch."""
        template.proved = True
        template.skeleton = self._construct(template, _EMPTY)
        template.meta = template.skeleton["metadata"]
        template.container = template.skeleton["spec"]["containers"][0]
        if self._filled(template, request) != self._construct_manifest(template, request):
            template.skeleton = None
            log.warning("Fast rendering disabled for a pod template: its result differs from that of construct_pod")

    def _filled(self, template: Template, request: LaunchRequest) -> Json:
        """The merged pod with the fields of this launch. Unchanged parts are shared by all pods and must not be modified."""
        skeleton = template.skeleton or {}
        dag_id, task_id, run_id, try_number, map_index = _coordinates(request)
        metadata = dict(template.meta)
        metadata["name"] = _name(request)
        if request.namespace:
            metadata["namespace"] = request.namespace
        labels = LabelledPodGenerator.build_labels_for_k8s_executor_pod(
            dag_id=dag_id, task_id=task_id, try_number=try_number, airflow_worker=request.owner,
            map_index=map_index, run_id=run_id,
        )  # fmt: skip
        metadata["labels"] = {**template.meta["labels"], **labels, **self._our_labels(request)}
        annotations = {
            **template.meta["annotations"],
            "dag_id": dag_id,
            "task_id": task_id,
            "try_number": str(try_number),
        }
        if map_index >= 0:
            annotations["map_index"] = str(map_index)
        if run_id:
            annotations["run_id"] = run_id
        metadata["annotations"] = {**annotations, **_our_annotations(request)}
        container = {**template.container, "args": list(request.args)}
        image = self._image(request)
        if image:
            container["image"] = image
        spec = skeleton["spec"]
        return {**skeleton, "metadata": metadata, "spec": {**spec, "containers": [container, *spec["containers"][1:]]}}

    def identity(self, request: LaunchRequest) -> Json:
        """The parts of the pod that are known without rendering it: those that show whose it is."""
        metadata = {"name": _name(request), "namespace": request.namespace, "labels": self._our_labels(request)}
        return {"metadata": metadata}

    # --- parts --------------------------------------------------------------------------------------------------------
    def _our_labels(self, request: LaunchRequest) -> dict[str, str]:
        labels = {
            identifiers.LABEL_LAUNCH_ID: request.launch_id,
            identifiers.LABEL_DEPLOYMENT: self._deployment,
            identifiers.LABEL_CLUSTER: identifiers.cluster_label(request.cluster),
            identifiers.LABEL_ATTEMPT: str(request.attempt),
        }
        if request.known_by_id:
            labels[identifiers.LABEL_TASK_INSTANCE] = request.subject
        return labels

    def _image(self, request: LaunchRequest) -> str | None:
        return request.image or self._config.kube_image


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


def _coordinates(request: LaunchRequest) -> Coordinates:
    """The coordinates of a task; a callback or a connection test has none and is named after its kind."""
    if request.key:
        dag_id, task_id, run_id, try_number, map_index = request.key
        return dag_id, task_id, run_id, try_number, map_index
    return request.kind, request.subject or request.launch_id, None, 1, -1


def _our_annotations(request: LaunchRequest) -> dict[str, str]:
    annotations = {identifiers.ANNOTATION_SUBJECT: request.subject}
    if request.known_by_id:
        annotations[identifiers.ANNOTATION_TASK_INSTANCE] = request.subject
    return annotations


def _name(request: LaunchRequest) -> str:
    """The pod's name, which depends on the request alone, so that every launcher derives the same one (invariant I1,
    docs/architecture.md).
    """
    prefix = ((request.pod_override or {}).get("metadata") or {}).get("name")
    if not prefix:
        dag_id, task_id, *_ = _coordinates(request)
        prefix = f"{dag_id}-{task_id}"
    return identifiers.pod_name(str(prefix), request.launch_id, request.attempt)


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
