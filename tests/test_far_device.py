"""The engine on another device than the host: a pretended one, since a GPU is not to be had everywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def told():
    script = Path(__file__).with_name("far_device.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_the_pretended_device_refuses_the_host_s_tensors_and_notices_waits(told):
    assert told["refused"] and len(told["noticed"]) == 1


def test_a_step_is_the_same_there_and_the_host_never_waits_for_it(told):
    assert len(told["steps"]) == 17
    for step in told["steps"]:
        assert step["apart"] < 1e-5, step
        assert step["scorers"] == ["packed", "packed"] and step["waits"] == [], step


def test_answers_are_the_same_there(told):
    here, there = told["answers"]
    assert here == there and here[0]
