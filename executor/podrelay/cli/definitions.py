"""`airflow podrelay ...`: definitions only, so that every airflow command stays quick; the work is imported when it runs."""

from __future__ import annotations

from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand, lazy_load_command

_TEAM = Arg(("--team",), help="Serve this team ([core] multi_team); default: the launches of no team.", default=None)
_JSON = Arg(("--json",), help="Print JSON.", action="store_true")
_LAUNCH = Arg(("--launch",), help="Tell everything about one launch: its id, or the name of its pod.", default=None)
_PROBE = Arg(
    ("--probe",),
    help="For readiness probes: print one line, and exit with 0 if such a process runs on this host (in this container) and "
    "each of them hears from Redis, a leading watcher also from the API server; else with 1.",
    choices=("launcher", "watcher"),
    default=None,
)
_PROCESS = Arg(
    ("--process",),
    help="Ask for the permissions of this process only, where each has a user of its own; default: of both.",
    choices=("launcher", "watcher"),
    default=None,
)
_PORT = Arg(("--port",), help="Port on 127.0.0.1; 0 takes a free one.", type=int, default=0)
_KUBECONFIG_OUT = Arg(("--kubeconfig-out",), help="File to write the kubeconfig to.", required=True)
_NAMESPACES = Arg(
    ("--namespaces",), help="Namespaces that exist from the start, separated by commas.", default="default"
)
_RUNNER = Arg(
    ("--runner",),
    help="process runs each container as a local process, simulate only pretends to.",
    choices=("process", "simulate"),
    default="process",
)
_DATA_DIR = Arg(("--data-dir",), help="Folder for the pods' logs; default: a temporary one.", default=None)
_DASHBOARD_PORT = Arg(("--port",), help="Port of the dashboard.", type=int, default=9181)
_DASHBOARD_BIND = Arg(("--bind",), help="Address to listen on.", default="127.0.0.1")


def get_podrelay_cli_commands() -> list[GroupCommand]:
    """The command group, in the form that provider discovery and BaseExecutor.get_cli_commands want."""
    return [
        GroupCommand(
            name="podrelay",
            help="Run and look into podrelay",
            subcommands=(
                ActionCommand(
                    name="launcher",
                    help="Create and clean up pods: run as many as you like",
                    func=lazy_load_command("podrelay.cli.commands.launcher"),
                    args=(_TEAM,),
                ),
                ActionCommand(
                    name="watcher",
                    help="Follow the pods: run two, one leads and one stands by",
                    func=lazy_load_command("podrelay.cli.commands.watcher"),
                    args=(_TEAM,),
                ),
                ActionCommand(
                    name="status",
                    help="Show queues, launchers, the watcher, or one launch",
                    func=lazy_load_command("podrelay.cli.commands.status"),
                    args=(_LAUNCH, _PROBE, _TEAM, _JSON),
                ),
                ActionCommand(
                    name="check",
                    help="Check options, Redis, kubeconfig, template and permissions before going live",
                    func=lazy_load_command("podrelay.cli.commands.check"),
                    args=(_TEAM, _PROCESS),
                ),
                ActionCommand(
                    name="dashboard",
                    help="Run rq-dashboard on podrelay's Redis",
                    func=lazy_load_command("podrelay.cli.commands.dashboard"),
                    args=(_DASHBOARD_BIND, _DASHBOARD_PORT),
                ),
                ActionCommand(
                    name="local-cluster",
                    help="Run the pods part of the Kubernetes API on this machine, each pod a local process",
                    func=lazy_load_command("podrelay.cli.commands.local_cluster"),
                    args=(_KUBECONFIG_OUT, _PORT, _NAMESPACES, _RUNNER, _DATA_DIR),
                ),
            ),
        )
    ]
