"""A trame app whose work is done by a worker elsewhere: its progress, loss and picture live.

With a server running (`duite server`), in two terminals of this folder

    python worker.py
    python app.py --server

and then open http://localhost:8080. The app asks for no progress and passes no messages on: it
mirrors the task's state into its own. Needs trame, trame-vuetify, numpy and pillow.
"""

from __future__ import annotations

import uuid
from typing import Any

import duite
from duite import asynchronous
from trame.app import TrameApp
from trame.decorators import controller
from trame.ui.vuetify3 import SinglePageLayout
from trame.widgets import html
from trame.widgets import vuetify3 as v3

# What a worker has not set yet.
NOTHING = {"progress": 0.0, "loss": None, "losses": [], "preview": None, "status": ""}


class App(TrameApp):
    """A page, and the task that it shows."""

    def __init__(self, server: Any = None) -> None:
        super().__init__(server)
        self.job: duite.AsyncTaskHandle | None = None
        self.state.update({**NOTHING, "running": False, "steps": 300, "pause": 0.05})
        self._build_page()

    @controller.set("start")
    def start(self) -> None:
        """Submits a task, and follows it to its end."""
        if not self.state.running:
            self.state.update({**NOTHING, "running": True, "status": "waiting for a worker"})
            self._follow()

    @asynchronous.task  # an error in it is logged, and shown by `duite errors`
    async def _follow(self) -> None:
        status = "failed: see the log"
        try:
            async with duite.AsyncClient() as client:
                given = {"steps": self.state.steps, "pause": self.state.pause}
                state = f"paint-{uuid.uuid4().hex[:8]}"
                self.job = await client.submit("paint", given, queue="paint", state=state)
                # The keys of the task's state become keys of this one, until the task has ended.
                await asynchronous.create_state_queue_monitor_task(
                    self.server, state, delay=0.1, until=self.job.name
                )
                status = (await self.job.get()).status.name.lower()
        finally:
            with self.state:
                self.state.update({"running": False, "status": status})

    @controller.set("stop")
    @asynchronous.task
    async def stop(self) -> None:
        """Asks the task to stop; it ends as cancelled."""
        if self.job is not None and self.state.running:
            await self.job.cancel("the stop button")

    def _build_page(self) -> None:
        with SinglePageLayout(self.server) as self.ui:
            self.ui.title.set_text("Painting elsewhere")
            with self.ui.content, v3.VContainer(style="max-width: 440px"):
                with v3.VBtnToggle():
                    v3.VBtn("Start", click=self.ctrl.start, disabled=("running",))
                    v3.VBtn("Stop", click=self.ctrl.stop, disabled=("!running",))
                v3.VProgressLinear(
                    model_value=("100 * progress",), height=20, color="primary", classes="my-4"
                )
                html.Div("{{ loss === null ? status : `loss ${loss.toFixed(4)} ${status}` }}")
                v3.VSparkline(model_value=("losses",), auto_draw=False, v_if=("losses.length > 1",))
                v3.VImg(src=("preview",), v_if=("preview",), width=384, classes="mt-4")


if __name__ == "__main__":
    App().server.start()
