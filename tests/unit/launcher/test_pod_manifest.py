"""The manifest equals the one that the provider would build, in chosen cases and for generated templates and launches."""

from __future__ import annotations

import asyncio
import re
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes.client import ApiClient

from podrelay.protocol import identifiers
from podrelay.protocol.messages import LaunchRequest
from podrelay.settings import Settings
from podrelay_workers.launcher.fast_rendering import Skeleton
from podrelay_workers.launcher.pod_manifest import ManifestRenderer, has_mutation_hook
from podrelay_workers.launcher.pod_template import ManifestError
from podrelay_workers.runtime.worker_options import WorkerOptions
from podrelay_workers.watcher.options import WatcherOptions
from podrelay_workers.watcher.process import scope_of

LAUNCH = "0192f0c1-aaaa-7bbb-8ccc-0123456789ab"


def request(**changes: Any) -> LaunchRequest:
    values: dict[str, Any] = {
        "launch_id": LAUNCH, "attempt": 0, "kind": "task", "subject": "ti", "owner": "17", "namespace": "airflow",
        "key": ("etl", "load", "manual__2026-11-20T00:00:00+00:00", 2, -1), "args": ("python", "-m", "run"),
    }  # fmt: skip
    return LaunchRequest(**(values | changes))


def manifests(path: Path | str, image: str | None = None, hook: bool = False) -> ManifestRenderer:
    config = SimpleNamespace(kube_image=image, pod_template_file=str(path))
    return ManifestRenderer("prod", kube_config=config, hook=hook)


def written(folder: Path, document: Any, name: str = "template.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(document))
    return path


def stock_pod(document: dict[str, Any], launch: LaunchRequest, image: str | None) -> dict[str, Any]:
    """The manifest of the stock executor, built by the provider's documented functions."""
    dag_id, task_id, run_id, try_number, map_index = launch.key or (launch.kind, launch.subject, None, 1, -1)
    override = PodGenerator.deserialize_model_dict(launch.pod_override) if launch.pod_override else None
    pod = PodGenerator.construct_pod(
        dag_id=dag_id, task_id=task_id, pod_id="any", try_number=try_number, kube_image=launch.image or image,  # type: ignore[arg-type]
        date=None, args=list(launch.args), pod_override_object=override,
        base_worker_pod=PodGenerator.deserialize_model_dict(document), namespace=launch.namespace,
        scheduler_job_id=launch.owner, run_id=run_id, map_index=map_index, with_mutation_hook=True,
    )  # fmt: skip
    return ApiClient().sanitize_for_serialization(pod)  # type: ignore[no-any-return]


LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def mended(stock: dict[str, Any], launch: LaunchRequest) -> dict[str, Any]:
    """The stock pod; a label that the provider itself made, and that Kubernetes refuses, has lost its first dash."""
    dag_id, task_id, run_id, try_number, map_index = launch.key or (launch.kind, launch.subject, None, 1, -1)
    made = PodGenerator.build_labels_for_k8s_executor_pod(
        dag_id=dag_id, task_id=task_id, try_number=try_number, airflow_worker=launch.owner,
        map_index=map_index, run_id=run_id,
    )  # fmt: skip
    labels = {
        name: value[1:] if made.get(name) == value and not LABEL_VALUE.fullmatch(value) else value
        for name, value in stock["metadata"]["labels"].items()
    }
    return {**stock, "metadata": {**stock["metadata"], "labels": labels}}


def without_ours(body: dict[str, Any]) -> dict[str, Any]:
    """The pod without podrelay's additions, and with the stock name."""
    metadata = dict(body["metadata"])
    metadata["name"] = "any"
    metadata["labels"] = {key: value for key, value in metadata["labels"].items() if not key.startswith("podrelay/")}
    metadata["annotations"] = {
        key: value for key, value in metadata["annotations"].items() if not key.startswith("podrelay/")
    }
    return {**body, "metadata": metadata}


# --- any template, any launch -----------------------------------------------------------------------------------------
word = st.text("abcdefghijklmnopqrstuvwxyz0123456789-._ ÄöA:/", min_size=0, max_size=70)
small = st.text("abcdefghij", min_size=1, max_size=8)
pairs = st.dictionaries(small | st.sampled_from(["dag_id", "run_id", "map_index", "airflow-worker"]), word, max_size=4)
environment = st.lists(
    st.fixed_dictionaries({"name": small}, optional={"value": word, "valueFrom": st.just({"fieldRef": {"fieldPath": "x"}})}),
    max_size=3,
)  # fmt: skip
container = st.fixed_dictionaries(
    {"name": small},
    optional={
        "image": small, "args": st.lists(word, max_size=2), "command": st.lists(small, max_size=2),
        "env": environment, "envFrom": st.just([{"secretRef": {"name": "s", "optional": False}}]),
        "resources": st.just({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}),
        "volumeMounts": st.just([{"name": "v", "mountPath": "/v", "readOnly": True}]),
        "ports": st.just([{"containerPort": 8080}]), "stdin": st.booleans(), "tty": st.booleans(),
        "securityContext": st.just({"runAsUser": 0, "privileged": False}),
        "livenessProbe": st.just({"exec": {"command": ["true"]}, "periodSeconds": 0}),
    },
)  # fmt: skip
named = container.map(lambda item: {"name": "side", **item})
spec = st.fixed_dictionaries(
    {"containers": st.lists(container, max_size=3)},
    optional={
        "initContainers": st.lists(named, max_size=2),
        "restartPolicy": st.sampled_from(["Never", "Always"]), "serviceAccountName": small,
        "automountServiceAccountToken": st.booleans(), "hostNetwork": st.booleans(),
        "nodeSelector": pairs, "volumes": st.just([{"name": "v", "emptyDir": {}}]),
        "tolerations": st.just([{"key": "k", "operator": "Exists"}]), "priority": st.integers(0, 3),
        "affinity": st.just({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}),
        "imagePullSecrets": st.just([{"name": "p"}]), "terminationGracePeriodSeconds": st.integers(0, 60),
        "securityContext": st.just({"fsGroup": 0, "runAsNonRoot": False}),
        "topologySpreadConstraints": st.just([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "x"}]),
        "unknownField": st.just(1),
    },
)  # fmt: skip
metadata = st.fixed_dictionaries(
    {},
    optional={
        "name": small, "namespace": small, "labels": pairs, "annotations": pairs, "finalizers": st.just(["f"]),
        "ownerReferences": st.just([{"apiVersion": "v1", "kind": "k", "name": "n", "uid": "u"}]),
        "generateName": small,
    },
)  # fmt: skip
template = st.fixed_dictionaries(
    {"kind": st.just("Pod")}, optional={"apiVersion": st.just("v1"), "metadata": metadata, "spec": spec}
)
ids = st.text("abcXYZ09 _.-:+é", min_size=1, max_size=90)
launch = st.builds(
    request,
    key=st.tuples(ids, ids, ids | st.just(""), st.integers(0, 99), st.integers(-1, 9)) | st.just(()),
    kind=st.sampled_from(["task", "callback", "connection_test"]),
    args=st.lists(word, min_size=1, max_size=3).map(tuple),
    namespace=small,
    owner=st.just("17") | word,
    image=st.none() | small,
    attempt=st.integers(0, 3),
)


@pytest.mark.timeout(60)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(document=template, first=launch, second=launch, image=st.none() | small)
def test_the_short_way_makes_the_providers_pod(
    tmp_path: Path, document: dict[str, Any], first: LaunchRequest, second: LaunchRequest, image: str | None
) -> None:
    made = manifests(written(tmp_path, document), image)
    made.render(first)  # proves the template
    for item in (first, second):
        body = made.render(item)
        assert without_ours(body) == without_ours(mended(stock_pod(document, item, image), item))
        assert body["metadata"]["labels"][identifiers.LABEL_LAUNCH_ID] == LAUNCH
    proof = made._templates.get(None).proof
    assert proof is not None
    assert proof.skeleton is not None, "fast rendering was not used"


@pytest.mark.timeout(60)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(document=template, override=template, item=launch)
def test_an_override_is_merged_as_the_provider_does(
    tmp_path: Path, document: dict[str, Any], override: dict[str, Any], item: LaunchRequest
) -> None:
    item = item.replaced(pod_override=override)
    try:
        expected = stock_pod(document, item, "r:t")
    except Exception:  # noqa: BLE001 - we refuse what the provider cannot merge
        with pytest.raises(ManifestError):
            manifests(written(tmp_path, document), "r:t").render(item)
        return
    body = manifests(written(tmp_path, document), "r:t").render(item)
    assert without_ours(body) == without_ours(mended(expected, item))


# --- names, labels, images --------------------------------------------------------------------------------------------
PLAIN = {"kind": "Pod", "spec": {"restartPolicy": "Never", "containers": [{"name": "base", "image": "from-template"}]}}


def test_our_name_and_labels_come_last(tmp_path: Path) -> None:
    document = {**PLAIN, "metadata": {"labels": {identifiers.LABEL_LAUNCH_ID: "forged"}, "name": "dummy"}}
    body = manifests(written(tmp_path, document)).render(request(attempt=2, cluster="c1"))
    assert body["metadata"]["name"] == "etl-load-0192f0c1aaaa7bbb8ccc0123456789ab-2"
    labels = body["metadata"]["labels"]
    assert labels[identifiers.LABEL_LAUNCH_ID] == LAUNCH
    assert (
        labels[identifiers.LABEL_DEPLOYMENT],
        labels[identifiers.LABEL_CLUSTER],
        labels[identifiers.LABEL_ATTEMPT],
    ) == (
        "prod",
        "c1",
        "2",
    )
    assert labels["kubernetes_executor"] == "True"
    assert body["metadata"]["annotations"][identifiers.ANNOTATION_SUBJECT] == "ti"


@pytest.mark.parametrize("team", ["default", "a-b_c", "data-", "_data", "-_-", "x" * 50 + "-"])
def test_the_label_of_any_team_is_one_that_kubernetes_takes(tmp_path: Path, team: str) -> None:
    """Airflow allows dashes and underscores at both ends of a team's name; Kubernetes forbids them in a label's value."""
    labels = manifests(written(tmp_path, PLAIN)).render(request(cluster=team))["metadata"]["labels"]
    value = labels[identifiers.LABEL_CLUSTER]
    assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value)
    assert team in value
    options = WatcherOptions(WorkerOptions(Settings("redis://nowhere", "key"), team))
    assert f"{identifiers.LABEL_CLUSTER}={value}," in scope_of(options).selector


UNLABELLED = ["\u65e5\u5831", "\u043e\u0442\u0447\u0451\u0442", "___", "-", "._-", "\u65e5" * 80]


@pytest.mark.parametrize("text", UNLABELLED)
@pytest.mark.parametrize("override", [None, {"metadata": {"labels": {"team": "blue"}}}])
def test_an_id_without_a_letter_or_digit_of_ascii_has_a_valid_label(
    tmp_path: Path, text: str, override: dict[str, Any] | None
) -> None:
    item = request(key=(text, text, text, 2, 0), owner=text, pod_override=override)
    stock = stock_pod(PLAIN, item, None)
    body = manifests(written(tmp_path, PLAIN)).render(item)
    labels, annotations = body["metadata"]["labels"], body["metadata"]["annotations"]
    for name in ("dag_id", "task_id", "run_id", "airflow-worker"):
        assert stock["metadata"]["labels"][name] == f"-{labels[name]}"  # it holds the provider's hash
        assert re.fullmatch(r"[0-9a-f]{9}", labels[name])
    assert all(LABEL_VALUE.fullmatch(value) for value in labels.values())
    assert (annotations["dag_id"], annotations["task_id"], annotations["run_id"]) == (text, text, text)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", body["metadata"]["name"])
    assert without_ours(body) == without_ours(mended(stock, item))


def test_two_such_ids_have_two_labels(tmp_path: Path) -> None:
    made = manifests(written(tmp_path, PLAIN))
    bodies = [made.render(request(key=(text, "t", "r", 1, -1))) for text in UNLABELLED]
    assert len({body["metadata"]["labels"]["dag_id"] for body in bodies}) == len(UNLABELLED)


def test_an_invalid_label_of_the_user_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes refuses the pod, and its message names the label. The hook sees the labels that podrelay made."""
    seen = []

    def hook(pod: Any) -> None:
        seen.append(pod.metadata.labels["dag_id"])
        pod.metadata.labels["task_id"] = "-hooked"

    monkeypatch.setattr("airflow.settings.pod_mutation_hook", hook)
    override = {"metadata": {"labels": {"team": "-blue", "run_id": "_x_"}}}
    made = manifests(written(tmp_path, PLAIN), hook=True)
    labels = made.render(request(key=("___", "___", "r", 1, -1), pod_override=override))["metadata"]["labels"]
    assert (labels["team"], labels["run_id"], labels["task_id"]) == ("-blue", "_x_", "-hooked")
    assert seen == [labels["dag_id"]]
    assert LABEL_VALUE.fullmatch(labels["dag_id"])


def test_an_override_may_ask_for_a_name_and_gets_its_beginning(tmp_path: Path) -> None:
    override = {"metadata": {"name": "My Pod", "labels": {identifiers.LABEL_ATTEMPT: "9"}}}
    body = manifests(written(tmp_path, PLAIN)).render(request(pod_override=override))
    assert body["metadata"]["name"] == "my-pod-0192f0c1aaaa7bbb8ccc0123456789ab-0"
    assert body["metadata"]["labels"][identifiers.LABEL_ATTEMPT] == "0"


@pytest.mark.parametrize(
    ("override", "requested", "configured", "expected"),
    [
        ("o", "r", "c", "o"),
        (None, "r", "c", "r"),
        (None, None, "c", "c"),
        (None, None, None, "from-template"),
    ],
)
def test_which_image(
    tmp_path: Path, override: str | None, requested: str | None, configured: str | None, expected: str
) -> None:
    pod = {"spec": {"containers": [{"name": "base", "image": override}]}} if override else None
    body = manifests(written(tmp_path, PLAIN), configured).render(request(pod_override=pod, image=requested))
    assert body["spec"]["containers"][0]["image"] == expected


@pytest.mark.parametrize("kind", ["callback", "connection_test"])
def test_what_is_no_task_is_named_by_what_it_is(tmp_path: Path, kind: str) -> None:
    body = manifests(written(tmp_path, PLAIN)).render(request(kind=kind, key=(), subject="0192-77"))
    labels = body["metadata"]["labels"]
    assert (labels["dag_id"], labels["task_id"], labels["kubernetes_executor"]) == (kind, "0192-77", "True")
    assert labels["airflow-worker"] == "17"
    assert "run_id" not in labels


def test_pods_share_nothing_that_a_hook_could_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(pod: Any) -> None:
        pod.spec.containers[0].env.append({"name": "HOOK", "value": "1"})
        pod.metadata.labels["podrelay/launch-id"] = "mine"
        pod.metadata.name = "mine"

    monkeypatch.setattr("airflow.settings.pod_mutation_hook", hook)
    made = manifests(written(tmp_path, PLAIN), hook=has_mutation_hook())
    bodies = [made.render(request()) for _ in range(2)]
    assert bodies[0] == bodies[1]
    assert [item["name"] for item in bodies[0]["spec"]["containers"][0]["env"]].count("HOOK") == 1
    assert bodies[0]["metadata"]["name"].startswith("etl-load-")
    assert bodies[0]["metadata"]["labels"][identifiers.LABEL_LAUNCH_ID] == LAUNCH


def test_a_hook_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_mutation_hook()
    monkeypatch.setattr("airflow.settings.pod_mutation_hook", lambda pod: None)
    assert has_mutation_hook()


def test_a_slow_hook_does_not_hold_up_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()

    def hook(pod: Any) -> None:
        threads.add(threading.current_thread())
        time.sleep(0.1)

    monkeypatch.setattr("airflow.settings.pod_mutation_hook", hook)
    made = manifests(written(tmp_path, PLAIN), hook=True)

    async def scenario() -> int:
        ticks = 0
        making = asyncio.ensure_future(asyncio.wait([asyncio.ensure_future(made.make(request())) for _ in range(3)]))
        while not making.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    assert asyncio.run(scenario()) > 10
    assert len(threads) == 1
    assert threading.main_thread() not in threads


def test_a_hook_that_hangs_fails_its_own_launch_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    monkeypatch.setattr(
        "airflow.settings.pod_mutation_hook",
        lambda pod: end.wait(30) if pod.metadata.labels["dag_id"] == "bad" else None,
    )
    made = ManifestRenderer(
        "prod",
        kube_config=SimpleNamespace(kube_image=None, pod_template_file=str(written(tmp_path, PLAIN))),
        hook=True,
        hook_most_s=0.5,
    )

    async def scenario() -> list[Any]:
        launches = [request(key=(dag_id, "t", "r", 1, -1)) for dag_id in ("good", "bad", "good", "good")]
        return await asyncio.gather(*map(made.make, launches), return_exceptions=True)

    results = asyncio.run(scenario())
    end.set()
    assert [type(item) for item in results] == [dict, ManifestError, dict, dict]
    assert "did not return within 0.5 s" in str(results[1])
    assert made.busy


# --- what is no pod ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("spec: [", "is not one YAML document, line 1"),
        ("kind: Pod\n---\nkind: Pod", "is not one YAML document, line 2: but found another document"),
        ("", "does not contain a pod"),
        ("- a", "does not contain a pod"),
        ("just text", "does not contain a pod"),
        ("spec: text", "is not a pod"),
        ("spec: {containers: [7]}", "is not a pod"),
        ("metadata: {labels: 7}", "is not a pod"),
    ],
)
def test_a_template_that_is_no_pod(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(content)
    made = manifests(path)
    for _ in range(2):  # also the second launch
        with pytest.raises(ManifestError, match=message) as caught:
            made.render(request())
        assert caught.value.reason == "InvalidPod"


def test_a_template_that_is_missing_is_named_with_its_option(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"\[kubernetes_executor\] pod_template_file names .*nowhere"):
        manifests(tmp_path / "nowhere").render(request())
    with pytest.raises(ManifestError, match=r"\[kubernetes_executor\] pod_template_file is empty"):
        manifests("").render(request())
    with pytest.raises(ManifestError, match="executor_config"):
        manifests(written(tmp_path, PLAIN)).render(request(pod_template_file="/nowhere"))


def test_an_edited_template_is_read_again(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    made = manifests(path)
    made.render(request())
    path.write_text("spec: {containers: [{name: base, image: edited}], restartPolicy: Never}")
    assert made.render(request())["spec"]["containers"][0]["image"] == "edited"
    path.unlink()
    with pytest.raises(ManifestError):
        made.render(request())
    written(tmp_path, PLAIN)
    assert made.render(request())["spec"]["containers"][0]["image"] == "from-template"


def test_a_failing_hook_and_a_malformed_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(pod: Any) -> None:
        raise ValueError("no such team")

    made = manifests(written(tmp_path, PLAIN), hook=True)
    with monkeypatch.context() as patch:
        patch.setattr("airflow.settings.pod_mutation_hook", hook)
        with pytest.raises(ManifestError, match="ValueError: no such team") as caught:
            made.render(request())
        assert caught.value.reason == "PodMutationHookException"
        patch.setattr("airflow.settings.pod_mutation_hook", lambda pod: exit(3))
        with pytest.raises(ManifestError):
            made.render(request())
    with pytest.raises(ManifestError, match="InvalidPod|is not a pod|do not merge"):
        made.render(request(pod_override={"spec": {"containers": "x"}}))


def test_a_template_without_fast_rendering_is_rendered_by_construct_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = manifests(written(tmp_path, PLAIN))
    right = Skeleton.filled
    monkeypatch.setattr(Skeleton, "filled", lambda *args: {**right(*args), "kind": "Wrong"})
    for _ in range(3):
        assert made.render(request())["kind"] == "Pod"
    assert len([record for record in caplog.records if "Fast rendering disabled" in record.getMessage()]) == 1


def test_a_template_is_proved_at_start_and_not_by_the_first_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = manifests(written(tmp_path, PLAIN))
    expected = manifests(written(tmp_path, PLAIN, "other.yaml")).render(request())
    made.check()
    with monkeypatch.context() as patch:
        patch.delattr(PodGenerator, "construct_pod")
        assert made.render(request()) == expected


def test_a_hook_is_not_called_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr("airflow.settings.pod_mutation_hook", called.append)
    made = manifests(written(tmp_path, PLAIN), hook=True)
    made.check()
    assert not called
    made.render(request())
    assert len(called) == 1


@pytest.mark.parametrize("content", ["spec: [", "spec: text"])
def test_what_is_no_pod_is_reported_at_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(content)
    with pytest.raises(ManifestError, match="pod"):
        manifests(path).check()


def test_no_warning_about_the_length_of_a_name(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifests(written(tmp_path, PLAIN)).render(
            request(key=("d" * 250, "t" * 250, "r", 1, -1), pod_override={"metadata": {"labels": {"a": "b"}}})
        )
