#!/usr/bin/env bash
# Software: aiohttp 3.14.5.
#
# Expected: response.force_close() in an on_response_prepare handler ends the connection after
#   this response, as in a middleware, and announces that to the client: the handler runs before the
#   headers are sent, and is the documented place to change them.
# Seen: it closes the connection, but the header "Connection: close" is missing, because
#   aiohttp decides on that header before it calls the handlers. A client that keeps
#   connections takes this one for alive; if it sends a request that may not be repeated,
#   it gets "Server disconnected". From a middleware the header is there.
# Why it matters: half of the POSTs of a correct client fail, in turns, with a
#   server that answers each one it reads, and only with keep-alive, so not under curl.
#
# Output on 2026-11-27:
#   aiohttp 3.14.5, Python 3.11
#   in a signal handler: Connection: close sent: False, failed POSTs of 20: 10
#   in a middleware: Connection: close sent: True, failed POSTs of 20: 0
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile aiohttp==3.14.5

"$work/venv/bin/python" - <<'PY'
import asyncio
import sys

import aiohttp
from aiohttp import web


async def answer(request):
    return web.Response(text="ok")


async def close_in_signal(request, response):
    response.force_close()


@web.middleware
async def close_in_middleware(request, handler):
    response = await handler(request)
    response.force_close()
    return response


async def measure(middlewares, signals):
    app = web.Application(middlewares=middlewares)
    app.on_response_prepare.extend(signals)
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    failed, announced = 0, set()
    async with aiohttp.ClientSession() as session:
        for _ in range(20):
            try:
                async with session.post(url, data=b"x") as response:
                    await response.read()
                    announced.add(response.headers.get("Connection") == "close")
            except aiohttp.ServerDisconnectedError:
                failed += 1
    await runner.cleanup()
    return announced == {True}, failed


async def main():
    print(f"aiohttp {aiohttp.__version__}, Python %d.%d" % sys.version_info[:2])
    in_signal = await measure([], [close_in_signal])
    in_middleware = await measure([close_in_middleware], [])
    for where, (announced, failed) in (("signal handler", in_signal), ("middleware", in_middleware)):
        print(f"in a {where}: Connection: close sent: {announced}, failed POSTs of 20: {failed}")
    if in_signal[0] or not in_signal[1] or in_middleware != (True, 0):
        sys.exit("CHANGED: force_close in a signal handler is announced to the client, or closes nothing")


asyncio.run(main())
PY
