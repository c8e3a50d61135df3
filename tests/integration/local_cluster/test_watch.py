"""Watches: their start, selectors, bookmarks, end, and expired versions."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from tests.harness.cluster_api import Json, NamespaceApi, held, status_of

PARTIAL = {"Accept": "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"}


def names_of(events: Iterator[Json], count: int) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"]["name"]) for event in itertools.islice(events, count)]


@pytest.mark.parametrize("version", ["", "0"])
def test_starts_with_the_current_state(simulated: NamespaceApi, version: str) -> None:
    for name in "ba":
        simulated.create(held(name))
        simulated.wait_scheduled(name)
    with simulated.watch(resourceVersion=version) as events:
        assert names_of(events, 2) == [("ADDED", "a"), ("ADDED", "b")]
        simulated.create(held("c"))
        assert names_of(events, 3) == [("ADDED", "c"), ("MODIFIED", "c"), ("MODIFIED", "c")]
        simulated.delete("a", gracePeriodSeconds="0")
        assert names_of(events, 2) == [("MODIFIED", "a"), ("DELETED", "a")]


def test_resumes_without_gap_or_repetition(simulated: NamespaceApi) -> None:
    version = simulated.version()
    for name in "abc":
        simulated.create(held(name))
        simulated.wait_scheduled(name)
    with simulated.watch(resourceVersion=version) as events:
        all_events = list(itertools.islice(events, 9))
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in all_events]
    assert versions == sorted(set(versions))
    for index, event in enumerate(all_events[:-1]):
        with simulated.watch(resourceVersion=event["object"]["metadata"]["resourceVersion"]) as events:
            assert next(events) == all_events[index + 1]


def test_one_namespace_only(simulated: NamespaceApi) -> None:
    with simulated.watch() as events, simulated.watch("/api/v1/pods", labelSelector="mine") as everywhere:
        simulated.cluster.call("POST", "/api/v1/namespaces/default/pods", held("elsewhere", {"mine": ""}))
        simulated.create(held("here", {"mine": ""}))
        assert names_of(events, 1) == [("ADDED", "here")]
        assert names_of(everywhere, 1) == [("ADDED", "elsewhere")]
    simulated.cluster.vanish_pod("default", "elsewhere")


class TestSelectors:
    """Objects that enter or leave the selection."""

    def test_leaving_is_deleted_and_entering_is_added(self, simulated: NamespaceApi) -> None:
        simulated.create(held("p", {"app": "x"}))
        simulated.wait_scheduled("p")
        with simulated.watch(labelSelector="app=x") as events:
            assert next(events)["type"] == "ADDED"
            changed = simulated.patch("p", {"metadata": {"labels": {"app": "y"}}}).json()
            left = next(events)
            assert left["type"] == "DELETED"
            assert "deletionTimestamp" not in left["object"]["metadata"]
            assert left["object"]["metadata"]["labels"] == {"app": "x"}
            assert left["object"]["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]
            simulated.patch("p", {"metadata": {"labels": {"other": "1"}}})
            simulated.patch("p", {"metadata": {"labels": {"app": "x"}}})
            entered = next(events)
            assert (entered["type"], entered["object"]["metadata"]["labels"]) == ("ADDED", {"app": "x", "other": "1"})
            simulated.patch("p", {"metadata": {"labels": {"other": "2"}}})
            assert next(events)["type"] == "MODIFIED"
            simulated.delete("p", gracePeriodSeconds="0")
            assert names_of(events, 2) == [("MODIFIED", "p"), ("DELETED", "p")]

    def test_deletion_outside_the_selection_is_not_seen(self, simulated: NamespaceApi) -> None:
        with simulated.watch(labelSelector="app=x") as events:
            simulated.create(held("q", {"app": "y"}))
            simulated.delete("q", gracePeriodSeconds="0")
            simulated.create(held("p", {"app": "x"}))
            assert names_of(events, 1) == [("ADDED", "p")]

    def test_field_selector_follows_the_phase(self, simulated: NamespaceApi) -> None:
        simulated.create(held())
        with simulated.watch(fieldSelector="status.phase=Running") as events:
            simulated.wait_scheduled("p")
            simulated.set_phase("p", "Running")
            assert next(events)["type"] == "ADDED"
            simulated.set_phase("p", "Succeeded")
            gone = next(events)
            assert (gone["type"], gone["object"]["status"]["phase"]) == ("DELETED", "Running")


class TestEnds:
    """Bookmarks and the end of a stream."""

    def test_timeout_ends_cleanly_with_a_bookmark(self, api: NamespaceApi) -> None:
        version = api.version()
        api.cluster.call("POST", "/api/v1/namespaces/default/pods", held("elsewhere"))
        api.cluster.vanish_pod("default", "elsewhere")
        with api.watch(resourceVersion=version, allowWatchBookmarks="true", timeoutSeconds="1") as events:
            marks = list(events)
        assert len(marks) >= 3  # every 0.2 s here, and one at the end
        assert {event["type"] for event in marks} == {"BOOKMARK"}
        assert (marks[-1]["object"]["kind"], marks[-1]["object"]["spec"]) == ("Pod", {"containers": None})
        assert int(marks[-1]["object"]["metadata"]["resourceVersion"]) > int(version)

    @pytest.mark.parametrize("ahead", [0, 1000])
    def test_no_bookmark_repeats_the_start_of_the_watch(self, api: NamespaceApi, ahead: int) -> None:
        """A watch is silent while nothing in the cluster changes, and when it starts at a future version."""
        version = str(int(api.version()) + ahead)
        with api.watch(resourceVersion=version, allowWatchBookmarks="true", timeoutSeconds="1") as events:
            assert list(events) == []

    def test_no_bookmarks_without_a_request_for_them(self, api: NamespaceApi) -> None:
        with api.watch(resourceVersion=api.version(), timeoutSeconds="1") as events:
            assert list(events) == []

    def test_bookmark_carries_the_version_of_other_namespaces_events(self, api: NamespaceApi) -> None:
        version = api.version()
        made = api.cluster.call("POST", "/api/v1/namespaces/default/pods", held("elsewhere"))
        api.cluster.vanish_pod("default", "elsewhere")
        with api.watch(resourceVersion=version, allowWatchBookmarks="true") as events:
            mark = next(events)
        assert int(mark["object"]["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])

    def test_initial_events_end_with_a_bookmark(self, simulated: NamespaceApi) -> None:
        simulated.create(held())
        initial = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
        with simulated.watch(**initial) as events:
            assert next(events)["type"] == "ADDED"
            for event in events:
                if event["type"] == "BOOKMARK":
                    break
        simulated.wait_scheduled("p")
        assert event["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        with simulated.watch(**{**initial, "sendInitialEvents": "false"}) as events:
            simulated.create(held("later"))
            assert names_of(events, 1) == [("ADDED", "later")]
        params = {"watch": "1", "sendInitialEvents": "true"}
        status_of(simulated.request("GET", "", params=params), 422, "Invalid")

    def test_drop_streams(self, simulated: NamespaceApi) -> None:
        with simulated.watch() as one, simulated.watch() as two:
            simulated.cluster.drop_streams()
            assert list(one) == list(two) == []


class TestTooOld:
    """410, as the first event of a watch."""

    def check_expired(self, api: NamespaceApi, version: str) -> None:
        with api.watch(resourceVersion=version) as events:
            found = list(events)
        assert [event["type"] for event in found] == ["ERROR"]
        status = found[0]["object"]
        assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")

    def test_version_before_the_window(self, simulated: NamespaceApi) -> None:
        version = simulated.version()
        simulated.create(held())
        for number in range(210):  # the server keeps 200 events
            simulated.patch("p", {"metadata": {"labels": {"n": str(number)}}})
        self.check_expired(simulated, version)
        self.check_expired(simulated, "1")
        with simulated.watch(resourceVersion=simulated.version(), timeoutSeconds="1") as events:
            assert list(events) == []

    def test_compaction(self, simulated: NamespaceApi) -> None:
        version = simulated.version()
        simulated.create(held())
        simulated.wait_scheduled("p")
        simulated.cluster.compact()
        self.check_expired(simulated, version)
        now = simulated.version()
        with simulated.watch(resourceVersion=now) as events:
            simulated.set_phase("p", "Running")
            assert names_of(events, 1) == [("MODIFIED", "p")]

    def test_open_watch_survives_compaction(self, simulated: NamespaceApi) -> None:
        with simulated.watch() as events:
            simulated.cluster.compact()
            simulated.create(held())
            assert names_of(events, 1) == [("ADDED", "p")]

    def test_invalid_version(self, simulated: NamespaceApi) -> None:
        params = {"watch": "true", "resourceVersion": "x"}
        status_of(simulated.request("GET", "", params=params), 400, "BadRequest")


def test_many_watches_see_the_same_events(simulated: NamespaceApi) -> None:
    version, found = simulated.version(), []

    def follow() -> None:
        with simulated.watch(resourceVersion=version) as events:
            found.append([event["object"]["metadata"]["resourceVersion"] for event in itertools.islice(events, 40)])

    threads = [threading.Thread(target=follow) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(20):
        simulated.create(held(f"p-{number}"))
    for thread in threads:
        thread.join(20)
    assert len(found) == 8
    assert all(versions == found[0] and len(versions) == 40 for versions in found)
