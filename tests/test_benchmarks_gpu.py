"""The GPU suite goes its whole way with a toy model on a CPU, and says in one sentence where there is no GPU."""

import json

import pytest
import torch

from benchmarks import gpu


def test_the_suite_runs_on_a_toy(capsys):
    arguments = ["--device", "cpu", "--tiny", "--lengths", "16/8", "--warm-up", "0", "--steps", "1", "--json"]
    assert gpu.main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["adapter"] for row in rows] == ["LoRA bf16", "QLoRA NF4"]
    assert all(row["layout"] == "packed" and row["ms_per_step"] > 0 and row["peak_gib"] > 0 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU to measure")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "no CUDA GPU" in said.err
