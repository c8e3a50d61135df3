"""What a plain Airflow sees of the installed distribution: provider, executor, commands, options (171 to 176)."""

from __future__ import annotations

from importlib.metadata import version

from airflow.cli import cli_parser
from airflow.configuration import conf
from airflow.executors.executor_loader import ExecutorLoader
from airflow.providers_manager import ProvidersManager

from podrelay.executor import RedisKubernetesExecutor
from podrelay.settings import load_settings

PATH = "podrelay.executor.RedisKubernetesExecutor"


def test_airflow_discovers_provider_and_executor() -> None:
    """By the entry point of the distribution, whose canonical name must be the one that the provider gives itself."""
    manager = ProvidersManager()
    assert manager.providers["podrelay"].version == version("podrelay")
    assert PATH in manager.executor_class_names
    assert (
        ExecutorLoader.import_executor_cls(ExecutorLoader.lookup_executor_name_by_str(PATH))[0]
        is RedisKubernetesExecutor
    )


def test_our_group_of_commands_is_beside_the_stock_one() -> None:
    """Two groups of one name would break every command."""
    assert {"podrelay", "kubernetes"} <= set(cli_parser.ALL_COMMANDS_DICT)
    parser = cli_parser.get_parser()
    for command in ("launcher", "watcher", "check", "status"):
        assert parser.parse_args(["podrelay", command]).func
    assert parser.parse_args(["kubernetes", "cleanup-pods"]).func


def test_our_options_are_found_and_the_stock_ones_stay() -> None:
    """A second declaration of the stock section would replace all that is in it."""
    assert conf.get("podrelay", "deployment") == "default"
    assert conf.get("podrelay", "launcher_concurrency", fallback=None) is None, "a number has no default in Airflow"
    assert load_settings(conf, "").launcher_concurrency == 64
    declared = dict(ProvidersManager().provider_configs)
    assert set(declared["podrelay"]) == {"podrelay"}
    stock = declared["apache-airflow-providers-cncf-kubernetes"]["kubernetes_executor"]["options"]
    reasons = "worker_pod_pending_fatal_container_state_reasons"
    assert conf.configuration_description["kubernetes_executor"]["options"][reasons] == stock[reasons]
