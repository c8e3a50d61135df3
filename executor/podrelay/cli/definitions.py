"""The commands of `airflow podrelay`: names, arguments and help only. Every airflow command imports this module.

`podrelay.cli.commands` holds the work and is imported when a command runs.
"""

from __future__ import annotations

import argparse

from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand, lazy_load_command


def positive_float(text: str) -> float:
    """The type of an argument: a number above zero."""
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above zero")
    return value


_TEAM = Arg(
    ("--team",), help="Name of a team, with core.multi_team. Default: the launches without a team.", default=None
)
_JSON = Arg(("--json",), help="Print JSON.", action="store_true")
_LAUNCH = Arg(
    ("--launch",),
    help="Show one launch, by its id (external_executor_id of the task instance), RQ job id or pod name.",
    metavar="NAME",
    default=None,
)
_TASK = Arg(
    ("--task",),
    help="Show the launch of a task instance, and podrelay's rows in its event log. It is looked up in Airflow's database by "
    "DAG id, task id, run id and, of a mapped task, map index.",
    metavar=("DAG TASK RUN", "MAP"),
    nargs="+",
    default=None,
)
_WATCH = Arg(
    ("--watch",),
    help="Show it again and again until Ctrl-C: on a terminal in place, else one after the other. Exit code: 0.",
    action="store_true",
)
_INTERVAL = Arg(
    ("--interval",),
    help="Seconds between two readings of --watch. Default: 2.",
    type=positive_float,
    default=2.0,
)
_PROBE = Arg(
    ("--probe",),
    help="Readiness probe: exit with 0 if such a process runs on this host (in this container) and all of them are ready, "
    "else with 1. A launcher or a standby watcher is ready while Redis answers it, the leading watcher while the API "
    "server answers as well. Prints one line.",
    choices=("launcher", "watcher"),
    default=None,
)
_PROCESS = Arg(
    ("--process",),
    help="Check only what this process needs, with the permissions of its user. Default: both, and the scheduler.",
    choices=("launcher", "watcher"),
    default=None,
)
_ACL_TEAM = Arg(
    ("--team",), help="Print only the launcher and the watcher of this team, with core.multi_team.", default=None
)
_ACL_PROCESS = Arg(
    ("--process",),
    help="Print only this user. status is for the command of that name, dashboard for the pages of rq-dashboard "
    "(--read-only), operator for its pages and buttons, and for drain, task for warm pods. Default: all.",
    choices=("scheduler", "launcher", "watcher", "status", "dashboard", "operator", "task"),
    default=None,
)
_ACL_FORMAT = Arg(
    ("--format",),
    help="file: lines of an ACL file (the default). setuser: commands for redis-cli.",
    choices=("file", "setuser"),
    default="file",
)
_REDIS_6 = Arg(
    ("--redis-6",),
    help="For Redis 6.2, which knows no patterns for reading only: such a user may also write these keys.",
    action="store_true",
)
_PASSWORD_STDIN = Arg(
    ("--password-stdin",),
    help="Read the password of the --process from the first line of the standard input, and print its SHA-256. Without it, "
    "a placeholder is printed, which Redis refuses.",
    action="store_true",
)
_PORT = Arg(("--port",), help="Port on 127.0.0.1. Default: 0, any free port.", type=int, default=0)
_KUBECONFIG_OUT = Arg(("--kubeconfig-out",), help="File to write the kubeconfig to.", required=True)
_NAMESPACES = Arg(
    ("--namespaces",), help="Namespaces to create at start, separated by commas. Default: default.", default="default"
)
_RUNNER = Arg(
    ("--runner",),
    help="process: run each container as a local process (the default). simulate: run nothing, only set pod states.",
    choices=("process", "simulate"),
    default="process",
)
_DATA_DIR = Arg(("--data-dir",), help="Folder for the logs of the pods. Default: a temporary folder.", default=None)
_DASHBOARD_PORT = Arg(("--port",), help="Port of the dashboard. Default: 9181.", type=int, default=9181)
_DASHBOARD_BIND = Arg(
    ("--bind",),
    help="Address to listen on. Default: 127.0.0.1. Any other needs RQ_DASHBOARD_USERNAME and RQ_DASHBOARD_PASSWORD",
    default="127.0.0.1",
)
_READ_ONLY = Arg(("--read-only",), help="Refuse every button that changes something.", action="store_true")


_LAUNCHERS = Arg(("launcher",), help="Names of launchers, as airflow podrelay status shows them.", nargs="*")
_ALL = Arg(("--all",), help="All launchers that are alive.", action="store_true")
_HOLD = Arg(
    ("--hold",),
    help="Keep the process: it takes nothing more until --undo. Default: it exits with 0 once it holds nothing.",
    action="store_true",
)
_UNDO = Arg(("--undo",), help="End --hold: take launches and clean-ups again.", action="store_true")
_WAIT = Arg(
    ("--wait",),
    help="Wait until the launcher has ended, or with --hold until it holds nothing; of several, one after the other.",
    action="store_true",
)
_DRAIN_TIMEOUT = Arg(
    ("--timeout",), help="Seconds that --wait waits for each launcher. Default: 60.", type=positive_float, default=60.0
)


def get_podrelay_cli_commands() -> list[GroupCommand]:
    """The command group `podrelay`, for provider discovery and for BaseExecutor.get_cli_commands."""
    return [
        GroupCommand(
            name="podrelay",
            help="Run, check and inspect podrelay",
            subcommands=(
                ActionCommand(
                    name="launcher",
                    help="Run a launcher, which creates and cleans up pods; start as many as you need",
                    func=lazy_load_command("podrelay.cli.commands.launcher"),
                    args=(_TEAM,),
                ),
                ActionCommand(
                    name="watcher",
                    help="Run a watcher, which reports what happens to pods; start two, one is the standby",
                    func=lazy_load_command("podrelay.cli.commands.watcher"),
                    args=(_TEAM,),
                ),
                ActionCommand(
                    name="status",
                    help="Show what waits and why, queues, launchers, watcher and schedulers; or one launch. Exit code: 0 if "
                    "all is well, 1 if something is wrong, 2 if that is unknown",
                    func=lazy_load_command("podrelay.cli.commands.status"),
                    args=(_LAUNCH, _TASK, _WATCH, _INTERVAL, _PROBE, _TEAM, _JSON),
                ),
                ActionCommand(
                    name="check",
                    help="Check options, Redis, pod template and Kubernetes before going live. Exit code: 0 if all checks "
                    "passed, 1 if one failed, 2 for a wrong command line; warnings do not count",
                    func=lazy_load_command("podrelay.cli.commands.check"),
                    args=(_TEAM, _PROCESS, _JSON),
                ),
                ActionCommand(
                    name="drain",
                    help="Order launchers to finish what they hold and to exit, or to take nothing more. Exit code: 0 if "
                    "each got the order, 1 if one is unknown or took too long, 2 for a wrong command line",
                    func=lazy_load_command("podrelay.cli.commands.drain"),
                    args=(_LAUNCHERS, _ALL, _HOLD, _UNDO, _WAIT, _DRAIN_TIMEOUT, _TEAM),
                ),
                ActionCommand(
                    name="acl",
                    help="Print the users of Redis with the rights that each process of this deployment needs, and no others",
                    description="Print one user of Redis for each process of this deployment, with the keys, channels and "
                    "commands that it needs, and no others. To load them: put the lines into the ACL file that aclfile in "
                    "redis.conf names, and run ACL LOAD in redis-cli. Or run the command with --format setuser, and pipe its "
                    "lines into redis-cli. A password is printed as its SHA-256 only. Then give each process its user and "
                    "password in redis_url, and run airflow podrelay check there.",
                    func=lazy_load_command("podrelay.cli.commands.acl"),
                    args=(_ACL_PROCESS, _ACL_TEAM, _ACL_FORMAT, _PASSWORD_STDIN, _REDIS_6),
                ),
                ActionCommand(
                    name="dashboard",
                    help="Run rq-dashboard on podrelay's Redis",
                    func=lazy_load_command("podrelay.cli.commands.dashboard"),
                    args=(_DASHBOARD_BIND, _DASHBOARD_PORT, _READ_ONLY),
                ),
                ActionCommand(
                    name="local-cluster",
                    help="Run a local cluster: the pods part of the Kubernetes API, each pod a process of this machine",
                    func=lazy_load_command("podrelay.cli.commands.local_cluster"),
                    args=(_KUBECONFIG_OUT, _PORT, _NAMESPACES, _RUNNER, _DATA_DIR),
                ),
            ),
        )
    ]
