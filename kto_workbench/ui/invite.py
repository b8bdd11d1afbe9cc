"""What a tab says while there is no run yet, with a button that does it: train the demo."""

from typing import Any

import gradio as gr

from kto_workbench.config import DEMO_MODEL, KTOConfig
from kto_workbench.errors import WorkbenchError
from kto_workbench.runs import create_run, start
from kto_workbench.ui import html, live
from kto_workbench.ui.words import label, language_of, retell, say
from kto_workbench.ui.workbench import RUNS_OFFERED, Workbench


class Invitation:
    """One tab's: shown until there is a trained run."""

    def __init__(self, bench: Workbench, page: gr.Blocks, tab: gr.Tab, name: str) -> None:
        self.bench, self.name = bench, name
        with gr.Column(visible=False, elem_classes="kto-invite", elem_id=f"invite-{name}") as box:
            said = gr.HTML(elem_classes="kto-bare")
            self.button = gr.Button(
                label("invite.train"), variant="primary", elem_id=f"invite-{name}-train", min_width=220
            )
            self.told = gr.HTML(elem_classes="kto-bare kto-told")
        outputs = [box, said, self.button]
        gr.on([page.load, tab.select], self._look, None, outputs, queue=False, show_progress="hidden")

    def _look(self, request: gr.Request) -> list[Any]:
        runs = self.bench.runs()[:RUNS_OFFERED]
        if any(run.trained() for run in runs):
            return [gr.Column(visible=False), "", gr.Button()]
        busy = any(run.status().active for run in runs)
        said = html.message(say(language_of(request), "invite.busy" if busy else f"invite.{self.name}"), "plain")
        return [gr.Column(visible=True), said, gr.Button(visible=not busy)]

    def wire(self, tabs: gr.Tabs, watched: gr.Dropdown) -> None:
        """Have the button start the demo's training and open the Train tab, which then watches it."""

        def begin(request: gr.Request) -> list[Any]:
            language = language_of(request)
            try:
                run = create_run(KTOConfig(model=DEMO_MODEL, data="demo", workspace=str(self.bench.workspace)))
                start(run)
            except WorkbenchError as error:
                return [gr.skip(), gr.skip(), html.message(retell(language, error))]
            choices = live.run_choices(self.bench, language)
            return [gr.Dropdown(choices=choices, value=run.id), gr.Tabs(selected="train"), ""]

        self.button.click(begin, None, [watched, tabs, self.told], show_progress="minimal")
