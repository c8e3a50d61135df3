"""The labels of the stock executor, valid for every id. Used by launchers, for pods, and by `pod_logs`, for selectors."""

from __future__ import annotations

from typing import Any

from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

from podrelay.protocol.identifiers import mended_label


class LabelledPodGenerator(PodGenerator):
    """The provider's generator; its pods and selectors differ only where the provider's label is invalid."""

    @classmethod
    def build_labels_for_k8s_executor_pod(cls, **coordinates: Any) -> dict[str, str]:
        labels: dict[str, str] = super().build_labels_for_k8s_executor_pod(**coordinates)
        return {name: mended_label(value) for name, value in labels.items()}
