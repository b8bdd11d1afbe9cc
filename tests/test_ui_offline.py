"""Looking at feedback fetches nothing: a model from the hub comes when a training on it starts, not before."""

import os
import subprocess
import sys

import pytest

from kto_workbench import load_feedback
from kto_workbench.errors import ModelError
from kto_workbench.ui import check, words

MADE_UP = "nobody-at-all/no-such-model"


def rows():
    return list(load_feedback("demo").rows.take([0, 1]))


# All that the Data tab asks of a model, in a process that is allowed to go online, and is watched.
LOOK = f"""
import sys
asked = []
sys.addaudithook(lambda event, args: asked.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
from kto_workbench import KTOConfig, load_feedback
from kto_workbench.ui import check, data, estimate
feedback = load_feedback("demo")
seen_by = data.as_seen("{MADE_UP}", 1024, "auto", "")
drawn, *_ = data.show_rows("en", feedback, "all", 0, seen_by)
assert "{MADE_UP} is not on this machine" in drawn and drawn.count("<li") == data.PAGE_ROWS, drawn
assert estimate.token_lengths(feedback, **seen_by) is None
assert "Start fetches it" in estimate.expected("en", KTOConfig(model="{MADE_UP}"), feedback, [])
assert not asked, asked
"""


def test_a_model_of_the_hub_is_not_looked_up_by_looking_at_rows():
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_rows_for_a_model_elsewhere_are_escaped():
    drawn = check.rendered_rows("zh", rows(), "<b>evil</b>", 1024, "auto")
    assert "<b>" not in drawn and "不在本机" in drawn


def test_a_folder_that_does_not_exist_is_said_to_be_missing():
    with pytest.raises(ModelError) as error:
        check.rendered_rows("en", rows(), "./no/such/folder", 1024, "auto")
    assert words.retell("zh", error.value) == "./no/such/folder 中没有模型：文件夹不存在。"


def test_rows_for_a_model_here_are_rendered():
    assert check.rendered_rows("en", rows(), "demo", 1024, "auto").count("<mark>") == 2
