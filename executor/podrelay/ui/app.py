"""The application behind podrelay's pages: who may see what, and the files of static/.

`airflow_plugin` builds it at the first request. Every path asks for a login, also one that does not exist. Nothing here
changes anything.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from importlib.resources import files
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity
from airflow.api_fastapi.core_api.security import get_user, requires_access_dag, requires_access_view
from airflow.configuration import conf
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from podrelay.cli.status_problems import problems
from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay.protocol.messages import Json
from podrelay.ui.attempts import launch_of, task_of, tries_of
from podrelay.ui.readings import Readings

# Path -> file.
_PAGES = {"": "overview.html", "launches": "launches.html"}
_FOLDERS = ("", "vendor/")
_TYPES = (".css", ".js", ".svg")
_HEADERS = {
    # The page runs its own files only; uPlot sets styles of elements from its script, which this allows.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# Airflow's ids are at most this long.
_Id = Annotated[str, Query(max_length=250)]
_User = Annotated[BaseUser, Depends(get_user)]
_MAY_SEE_CLUSTER = Depends(requires_access_view(AccessView.CLUSTER_ACTIVITY))
# Airflow takes a DAG that is not named from the request's parameters, which are anybody's.
_NO_REQUEST = Request({"type": "http", "query_string": b"", "path_params": {}, "headers": []})
_MAY_SEE_TASK = Depends(requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE))


def build() -> FastAPI:
    """The application. Its documentation is off: Airflow would show it without a login."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(get_user)])
    readings, served = Readings(), _files()

    @app.middleware("http")
    async def headers(request: Request, respond: Callable[[Request], Any]) -> Response:
        response: Response = await respond(request)
        response.headers.update(_HEADERS)
        return response

    @app.get("/api/now", dependencies=[_MAY_SEE_CLUSTER])
    async def now(user: _User, cluster: str = DEFAULT_CLUSTER) -> JSONResponse:
        """What the overview shows, and the links that this user may follow."""
        _require_cluster(cluster)
        found = await readings.now(cluster)
        if "error" not in found:
            found = await run_in_threadpool(_for_user, found, user)
        return JSONResponse({**found, "clusters": clusters(), "dashboard_url": readings.dashboard_url})

    @app.get("/api/history", dependencies=[_MAY_SEE_CLUSTER])
    async def history(cluster: str = DEFAULT_CLUSTER) -> JSONResponse:
        _require_cluster(cluster)
        return JSONResponse(await readings.history(cluster))

    @app.get("/api/launches", dependencies=[_MAY_SEE_TASK])
    async def launches(dag_id: _Id, run_id: _Id, task_id: _Id, map_index: str = "-1") -> JSONResponse:
        """The launches of a task instance, also while Redis fails: the database knows their ids."""
        tries = await run_in_threadpool(tries_of, dag_id, run_id, task_id, _index_of(map_index))
        found = await readings.entries([each.launch_id for each in tries if each.launch_id])
        shown = [launch_of(each, found.get("entries", {}).get(each.launch_id, {})) for each in tries]
        return JSONResponse({"error": found.get("error", ""), "tries": shown})

    @app.get("/{path:path}")
    async def file(path: str) -> Response:
        if path not in served:
            raise HTTPException(404, "Not found")
        content, media_type = served[path]
        return Response(content, media_type=media_type)

    return app


def _index_of(text: str) -> int:
    """A map index. Airflow leaves its placeholder where a task is not mapped."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _files() -> dict[str, tuple[bytes, str]]:
    """Path -> content and type of every file that is served."""
    static = files("podrelay.ui").joinpath("static")
    served = {path: (static.joinpath(name).read_bytes(), "text/html") for path, name in _PAGES.items()}
    for folder in _FOLDERS:
        for item in static.joinpath(folder).iterdir():
            if item.name.endswith(_TYPES):
                served[folder + item.name] = (item.read_bytes(), mimetypes.guess_type(item.name)[0] or "text/plain")
    return served


def _for_user(found: Json, user: BaseUser) -> Json:
    """The overview without the tasks that the user may not read: example and message of a wait name one. Why warm pods failed
    names an image, perhaps of a task.
    """
    overview = found["overview"]
    if "warm" in overview and not _may_read(None, user):
        shapes = [{**shape, "off_why": ""} for shape in overview["warm"]["shapes"]]
        overview = {**overview, "warm": {**overview["warm"], "shapes": shapes}}
    waits = []
    for wait in overview["waits"]:
        task = task_of(found["examples"].get(wait["example"], {}))
        if _may_read(task, user):
            waits.append({**wait, "task": task})
        else:
            waits.append({**wait, "task": None, "example": "", "message": ""})
    return {"overview": {**overview, "waits": waits}, "problems": problems(overview)}


def _may_read(task: Json | None, user: BaseUser) -> bool:
    """:param task: None: a task of any DAG."""
    dag_id = task["dag_id"] if task else None
    # Some auth managers look at the DAG's own permission only if one is named.
    entities = (DagAccessEntity.TASK_INSTANCE,) if dag_id else (None, DagAccessEntity.TASK_INSTANCE)
    try:
        for entity in entities:
            requires_access_dag("GET", entity, param_dag_id=dag_id)(_NO_REQUEST, user)
    except HTTPException:
        return False
    return True


def clusters() -> list[str]:
    """The default cluster, and that of each team whose executor is podrelay."""
    teams = (part.partition("=") for part in conf.get("core", "executor", fallback="").split(";"))
    found = [team.strip() for team, equals, executors in teams if equals and team.strip() and "podrelay" in executors]
    return [DEFAULT_CLUSTER, *found] if conf.getboolean("core", "multi_team", fallback=False) else [DEFAULT_CLUSTER]


def _require_cluster(cluster: str) -> None:
    if cluster not in clusters():
        raise HTTPException(404, "No such cluster")
