"""How a server ends: at once, whatever its answering process does, and nothing that it has started is left behind."""

import signal

import psutil
import pytest
from browser import Served
from conftest import wait_for

from benchmarks.load import Page


def answering(served: Served) -> psutil.Process | None:
    """The process that answers for a server, if there is one."""
    found = psutil.Process(served.process.pid).children(recursive=True)
    return next((child for child in found if "kto_workbench.answers.child" in child.cmdline()), None)


@pytest.mark.reliability("A server that is ended ends at once, and leaves no process behind")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl+C", "kill"])
def test_a_server_with_an_answering_process_that_hangs_ends(tmp_path, how):
    served = Served(tmp_path / "workspace", tmp_path / "log")
    page = Page(served.url, 0)
    try:
        fields = {"compare-run": "model:demo", "compare-against": "model:demo", "compare-prompt": "Hello!"}
        page.click("compare-generate", {**fields, "compare-length": 2048})
        child = wait_for(lambda: answering(served), what=served.log.read_text)
        child.suspend()
        wait_for(lambda: child.status() == psutil.STATUS_STOPPED)
        served.process.send_signal(how)
        # It is waited for as long as it takes on a busy machine, not for the half minute that its silence would last.
        assert served.process.wait(20) is not None
        wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        assert not list((tmp_path / "workspace" / "servers").iterdir())
    finally:
        page.http.close()
        served.kill()
