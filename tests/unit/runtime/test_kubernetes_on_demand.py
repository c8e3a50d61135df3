"""The client libraries with their classes imported on demand are the client libraries."""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval

import pytest

_NAMES = """
import importlib, sys
package = importlib.import_module({package!r})
names = [name for name in dir(package) if not name.startswith("_")]
for name in names:
    value = getattr(package, name)
    print(name, type(value).__name__, getattr(value, "__module__", ""), getattr(value, "__qualname__", value))
space = {{}}
exec("from {package} import *", space)
print(sorted(name for name in space if not name.startswith("__")))
"""
_INSTALL = "from podrelay_workers.runtime import kubernetes_on_demand; kubernetes_on_demand.install()\n"


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.timeout(60)
@pytest.mark.parametrize("library", ["kubernetes", "kubernetes_asyncio"])
@pytest.mark.parametrize("part", ["client", "client.models", "client.api"])
def test_every_name_is_what_the_library_says(library: str, part: str) -> None:
    code = _NAMES.format(package=f"{library}.{part}")
    real, made = (run(start + code).splitlines() for start in ("", _INSTALL))
    assert len(real) > 50
    assert set(real[:-1]) <= set(made[:-1])
    assert set(literal_eval(real[-1])) <= set(literal_eval(made[-1]))


@pytest.mark.parametrize("library", ["kubernetes", "kubernetes_asyncio"])
def test_only_what_is_used_is_imported(library: str) -> None:
    code = f"""
import sys
from {library} import client
from {library}.client import models as k8s
pod = k8s.V1Pod(spec=k8s.V1PodSpec(containers=[client.V1Container(name="base")]))
configuration = client.Configuration()
try:
    client.NoSuchThing
except AttributeError as error:
    print(error)
print(client.rest.ApiException.__name__, client.__version__, len(sys.modules))
print(len([name for name in sys.modules if name.startswith("{library}.client.models.")]))
"""
    real, made = run(code).splitlines(), run(_INSTALL + code).splitlines()
    assert real[0] == made[0]
    assert real[1].split()[:2] == made[1].split()[:2]
    assert (int(real[2]) > 500, int(made[2]) < 20) == (True, True)


def test_a_package_that_does_more_than_import_is_run_as_it_is() -> None:
    from podrelay_workers.runtime.kubernetes_on_demand import _origins

    assert _origins('"""Text."""\nfrom a.b import C  # noqa\n__version__ = "1"\n') == {"C": "a.b"}
    for line in ("import os", "from a import b as c", "from a import (", "X = 1", "if True:", "from a import *"):
        assert _origins(f"from a.b import C\n{line}\n") is None
