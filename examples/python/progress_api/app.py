"""A web service whose jobs run on workers elsewhere, with progress in the browser.

With a server running (`duite server`), in two terminals of this folder

    python worker.py
    uvicorn app:app --timeout-graceful-shutdown 1

and then open http://127.0.0.1:8000. The browser sees the job's progress as server-sent events; one
that loses the connection goes on where it was (`Last-Event-ID`), also at another process of this
service, as nothing is kept here. Needs fastapi and uvicorn.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import duite
import fastapi
from fastapi.responses import FileResponse, StreamingResponse

PAGE = pathlib.Path(__file__).with_name("page.html")
SILENCE = 15.0
"""After so many seconds without news a comment is sent: proxies close silent connections."""


@contextlib.asynccontextmanager
async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
    """One client for all requests, for as long as the service runs."""
    async with duite.AsyncClient() as app.state.duite:
        yield


app = fastapi.FastAPI(lifespan=lifespan)


def its_client(request: fastapi.Request) -> duite.AsyncClient:
    """The service's client."""
    return request.app.state.duite


Client = Annotated[duite.AsyncClient, fastapi.Depends(its_client)]


@app.get("/")
def page() -> FileResponse:
    """A page with a progress bar."""
    return FileResponse(PAGE)


@app.post("/jobs", status_code=201)
async def submit(client: Client, steps: int = 50) -> dict[str, str]:
    """Submits a job; it is durable when this answers."""
    job = uuid.uuid4().hex
    await client.submit("render", {"steps": steps}, queue="render", task_id=job, state=job)
    return {"id": job}


@app.delete("/jobs/{job}", status_code=202)
async def cancel(client: Client, job: str) -> None:
    """Asks a job to stop; one that has ended stays as it is."""
    with not_found(), contextlib.suppress(duite.errors.FailedPrecondition):
        await client.cancel(job)


@app.get("/jobs/{job}/events")
async def events(
    client: Client, job: str, last_event_id: Annotated[str, fastapi.Header()] = ""
) -> StreamingResponse:
    """What changes in the job's state, until it has ended; then an event `end`."""
    with not_found():
        await client.get(job)
    return StreamingResponse(stream(client, job, last_event_id), media_type="text/event-stream")


async def stream(client: duite.AsyncClient, job: str, last_event_id: str) -> AsyncIterator[str]:
    """The events of one browser. When it leaves, this is cancelled, and with it the watch."""
    start = position(last_event_id)
    async with client.watch_state(job, interval=0.1, start=start, until=job) as watch:
        while True:
            try:
                event = await watch.next(SILENCE)
            except duite.errors.Timeout:
                yield ": still here\n\n"
                continue
            if event is None:
                break
            if event.changes:
                changes = {entry.key: entry.value for entry in event.changes}
                yield message(changes, id=event.position.token.hex())
    task = await client.get(job)
    yield message({"status": task.status.name, "output": task.output}, event="end")


def position(last_event_id: str) -> duite.Position | None:
    """Where the browser has been, by the id that it was given; None: from the beginning."""
    try:
        return duite.Position(token=bytes.fromhex(last_event_id)) if last_event_id else None
    except ValueError:
        return None


def message(data: Any, **fields: str) -> str:
    """One event as a browser reads it."""
    lines = [f"{name}: {value}\n" for name, value in fields.items()]
    return "".join([*lines, f"data: {json.dumps(data)}\n\n"])


@contextlib.contextmanager
def not_found() -> Iterator[None]:
    """Answers 404 where the server knows no such job, or no job could be called so."""
    try:
        yield
    except (duite.errors.NotFound, duite.errors.InvalidArgument) as error:
        raise fastapi.HTTPException(404, str(error)) from None
