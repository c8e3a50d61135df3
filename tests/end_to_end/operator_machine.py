"""A machine with a plain Airflow, as an operator finds it: its own Python environment, an airflow.cfg that Airflow generated,
a Redis with a password, a cluster, and services. Blocks of the documentation are typed on it.

Everything is below one folder: what a page calls `/etc` is its folder `etc`. `systemctl` is a stand-in that understands the
unit files, and starts what their `ExecStart` names; `airflow`, `pip`, `redis-cli` and `kubectl` are the real ones.
"""

from __future__ import annotations

import configparser
import fnmatch
import os
import re
import shlex
import shutil
import socketserver
import subprocess
import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from demo.airflow_api import AirflowApi
from demo.processes import Processes, free_ports, listens
from demo.redis_binary import find_redis
from demo.stack import _inherited
from podrelay.protocol import identifiers
from tests.end_to_end.stack_rig import PAUSE_S
from tests.harness.cluster_api import ClusterApi
from tests.harness.generated_config import ROOT
from tests.harness.operator_pages import Step, matches, steps

NAMESPACE = "airflow-tasks"
AIRFLOW_PARTS = ("api-server", "dag-processor", "scheduler")
_LIMIT_S = 180.0
_STOP_S = 20.0
# A command costs seconds of CPU time, and the processes that it asks for need them as well.
_PAUSE_S = 2.0
_SYSTEMCTL = """\
import socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    server.sendall((chr(0).join(sys.argv[1:]) + chr(10)).encode())
    answer = server.makefile().read()
print(answer, end="", file=sys.stderr)
sys.exit(bool(answer))
"""


class Machine:
    """Call `start`, then `do` sections of pages, then `stop`."""

    def __init__(self, root: Path) -> None:
        self.root = self.home = root
        self.airflow_home = root / "srv" / "airflow"
        self.venv = root / "opt" / "airflow"
        self.redis_port, self.cluster_port, self.api_port = free_ports(3)
        self.words = {
            "KEY-A": Fernet.generate_key().decode(), "KEY-B": Fernet.generate_key().decode(),
            "NEW-PASSWORD": "new-secret", "OLD-PASSWORD": "old-secret", "PASSWORD": "old-secret",
            "127.0.0.1:6379": f"127.0.0.1:{self.redis_port}",
            "http://airflow-api-server.airflow:8080": f"http://127.0.0.1:{self.api_port}",
            "/etc/": f"{root}/etc/", "/opt/airflow": str(self.venv), "/srv/": f"{root}/srv/",
        }  # fmt: skip
        self.api = AirflowApi(f"http://127.0.0.1:{self.api_port}", "admin", "admin")
        path = f"{self.venv / 'bin'}:{os.environ['PATH']}"
        self.environment = {
            **_inherited(), "PATH": path, "AIRFLOW_HOME": str(self.airflow_home), "TMPDIR": str(root / "tmp"),
            "REDISCLI_AUTH": "old-secret",
            "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_QUIET": "1",
            "KUBECONFIG": str(root / "etc/airflow/kubeconfig"), "OPERATOR_TEST_POD": str(ROOT / "tests/chaos/api_pod.py"),
        }  # fmt: skip
        self.cluster = ClusterApi(root / "etc/airflow/kubeconfig")
        self.processes = Processes(root, self.environment)
        self.services = Services(self)

    # --- before the operator comes --------------------------------------------------------------------------------------
    def start(self) -> None:
        for folder in ("etc/airflow", "etc/systemd/system", "srv/airflow/dags", "run", "tmp"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        _plain_environment(self.venv)
        self._command("redis-cli", f'exec {shlex.quote(_redis_cli())} -p {self.redis_port} "$@"')
        self.services.start()
        self._start_redis_and_cluster()
        self._configure()
        self.type("airflow db migrate")
        for part in AIRFLOW_PARTS:
            self._unit(f"airflow-{part}")
        self.services.run("start", "airflow-api-server", "airflow-dag-processor", "airflow-scheduler")

    def _start_redis_and_cluster(self) -> None:
        data = self.root / "redis"
        data.mkdir()
        options = [
            "--port",
            str(self.redis_port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(data),
            "--save",
            "",
            "--appendonly",
            "yes",
        ]
        self.processes.start(
            "redis", [find_redis(), *options, "--maxmemory-policy", "noeviction", "--requirepass", "old-secret"]
        )
        kubeconfig = self.root / "etc/airflow/kubeconfig"
        command = [
            sys.executable,
            "-m",
            "podrelay_local_cluster",
            "--port",
            str(self.cluster_port),
            "--namespaces",
            NAMESPACE,
        ]
        self.processes.start("cluster", [*command, "--kubeconfig-out", str(kubeconfig)])
        self.processes.wait_for("the cluster", lambda: kubeconfig.exists() and listens(self.cluster_port), 60)
        self.cluster.connect()

    def _configure(self) -> None:
        """What the operator's Airflow is set to: nothing of podrelay's."""
        self.type("airflow config get-value core executor")
        passwords = self.root / "etc/airflow/passwords.json"
        passwords.write_text('{"admin": "admin"}\n')
        url = f"http://127.0.0.1:{self.api_port}"
        self.configure(f"""\
[core]
load_examples = False
execution_api_server_url = {url}/execution/
simple_auth_manager_passwords_file = {passwords}
[api]
base_url = {url}
host = 127.0.0.1
port = {self.api_port}
workers = 1
[database]
sql_alchemy_conn = sqlite:///{self.airflow_home}/airflow.db?timeout=60
[dag_processor]
refresh_interval = 3
[usage_data_collection]
enabled = False
""")

    def _unit(self, name: str) -> None:
        words = name.removeprefix("airflow-") + (" --skip-serve-logs" if name == "airflow-scheduler" else "")
        unit = f"[Service]\nExecStart=/opt/airflow/bin/airflow {words}\n"
        (self.root / f"etc/systemd/system/{name}.service").write_text(unit)

    def _command(self, name: str, line: str) -> None:
        path = self.venv / "bin" / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def stop(self) -> None:
        """Leaves nothing behind. Nobody needs the ends of these processes to be orderly."""
        self.services.stop()
        for name in list(self.processes.children):
            self.processes.kill(name)
        self.processes.end_all()

    # --- the operator ---------------------------------------------------------------------------------------------------
    def do(self, page: str, section: str) -> str:
        """Carry out the marked blocks of one section, and compare what they print; returns what was printed."""
        found = steps(ROOT / page, section)
        assert found, f"{page}: {section} has no marked block"
        printed = ""
        for step, after in zip(found, [*found[1:], None], strict=True):
            if step.kind in ("run", "run until"):
                expected = after.text if after is not None and after.kind == "output" else None
                printed += self._run(step, expected, f"{page}, {section}")
            elif step.kind == "airflow.cfg":
                self.configure(self._here(step.text))
            elif step.kind == "file":
                Path(self._here(step.path)).write_text(self._here(step.text))
        return printed

    def _run(self, step: Step, expected: str | None, where: str) -> str:
        deadline = time.monotonic() + _LIMIT_S
        while True:
            done = self._type(step.text)
            until = step.kind == "run until"
            ended_well = done.returncode == 0 or (until and expected is not None)
            if ended_well and (expected is None or matches(self._here(expected), done.stdout)):
                return done.stdout
            self.processes.check()
            assert until and time.monotonic() < deadline, (
                f"{where}:\n{step.text}\nexit code {done.returncode}\n{done.stdout}"
            )
            time.sleep(_PAUSE_S)

    def type(self, text: str) -> str:
        """What a script prints to both outputs. It ends at the first command that fails."""
        done = self._type(text)
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        return done.stdout

    def _type(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._here(text)], cwd=ROOT, env=self.processes.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_LIMIT_S, check=False,
        )  # fmt: skip

    def configure(self, text: str) -> None:
        """Write options into airflow.cfg as an operator does: below the header of their section, each once."""
        wanted = configparser.ConfigParser(interpolation=None)
        wanted.read_string(text)
        file = self.airflow_home / "airflow.cfg"
        present = file.read_text("utf-8")
        for section in wanted.sections():
            present = _with_options(present, section, dict(wanted[section]))
        file.write_text(present, "utf-8")

    def adapt(self, path: str) -> None:
        """Write this machine's addresses into a file that the operator adapts as a page says."""
        file = Path(self._here(path))
        file.write_text(self._here(file.read_text("utf-8")), "utf-8")

    def _here(self, text: str) -> str:
        for word, value in self.words.items():
            text = text.replace(word, value)
        return text

    def until(self, what: str, true: Callable[[], object], limit_s: float = _LIMIT_S) -> None:
        self.processes.wait_for(what, lambda: bool(true()), limit_s, pause_s=PAUSE_S)

    def pods_made(self, dag_id: str) -> Counter[str]:
        """How many pods the cluster has made for each launch of a DAG, by its own record of requests."""
        return Counter(
            entry["labels"][identifiers.LABEL_LAUNCH_ID] for entry in self.cluster.audit()
            if entry["verb"] == "create" and entry["resource"] == "pods" and entry["status"] == 201
            and entry["labels"].get("dag_id") == dag_id
        )  # fmt: skip

    def unit_lines(self, name: str) -> dict[str, str]:
        """The settings of a unit file; of a template for an instance."""
        template = re.sub(r"@.+", "@", name)
        text = (self.root / f"etc/systemd/system/{template}.service").read_text("utf-8")
        return dict(re.findall(r"^(\w+)=(.*)$", self._here(text), re.MULTILINE))


class Services:
    """The stand-in for systemd: `enable --now`, `disable --now`, `start`, `stop`, `restart`, `daemon-reload`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._server: Any = None

    def start(self) -> None:
        address = str(self._machine.root / "run/systemctl")
        (self._machine.venv / "bin/systemctl").write_text(
            f"#!{sys.executable} -SE\n{_SYSTEMCTL.format(address=address)}"
        )
        (self._machine.venv / "bin/systemctl").chmod(0o755)
        services = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                words = self.rfile.readline().decode().rstrip("\n").split("\0")
                try:
                    services.run(*words)
                except (AssertionError, KeyError, OSError, ValueError) as error:
                    self.wfile.write(f"systemctl: {error!r}\n".encode())

        self._server = socketserver.UnixStreamServer(address, Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def run(self, verb: str, *words: str) -> None:
        units = [word for word in words if word != "--now"]
        assert verb == "daemon-reload" or units
        assert (verb in ("enable", "disable")) == ("--now" in words), f"{verb} {words}"
        units = [unit for word in units for unit in (fnmatch.filter(self._machine.processes.children, word) or [word])]
        if verb in ("disable", "stop", "restart"):
            for unit in units:
                if unit in self._machine.processes.children:
                    self._machine.processes.end(unit, _STOP_S)
        if verb in ("enable", "start", "restart"):
            for unit in units:
                self._start(unit)
        elif verb not in ("disable", "stop", "daemon-reload"):
            raise ValueError(f"no verb of systemctl: {verb}")

    def _start(self, unit: str) -> None:
        lines = self._machine.unit_lines(unit)
        self._machine.processes.start(unit, shlex.split(lines["ExecStart"]), dict(self._environment(lines)))

    def _environment(self, lines: dict[str, str]) -> Iterator[tuple[str, str]]:
        if file := lines.get("EnvironmentFile"):
            for line in Path(file).read_text("utf-8").splitlines():
                name, _, value = line.partition("=")
                yield name, value


def _plain_environment(venv: Path) -> None:
    """A Python environment with the packages of this one, but for podrelay: it is yet to be installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    source = Path(sysconfig.get_path("purelib"))
    (target,) = venv.glob("lib/python*/site-packages")
    for entry in source.iterdir():
        if "podrelay" not in entry.name and entry.suffix != ".pth":
            (target / entry.name).symlink_to(entry)
    for name, module in (("airflow", "airflow.__main__"), ("pip", "pip._internal.cli.main")):
        script = venv / "bin" / name
        script.write_text(f"#!{venv}/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
        script.chmod(0o755)


def _redis_cli() -> str:
    found = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if found is None:
        pytest.skip("no redis-cli on the PATH")
    return found


def _with_options(text: str, section: str, options: dict[str, str]) -> str:
    """An airflow.cfg with these options, each once."""
    if f"[{section}]\n" not in text:
        text += f"\n[{section}]\n"
    head, rest = text.split(f"[{section}]\n", 1)
    inside, brace, others = rest.partition("\n[")
    kept = [line for line in inside.split("\n") if line.partition(" =")[0] not in options]
    written = "".join(f"{name} = {value}\n" for name, value in options.items())
    return f"{head}[{section}]\n{written}" + "\n".join(kept) + brace + others
