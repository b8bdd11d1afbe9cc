"""The GPU suites go their whole way with a toy model on a CPU, and say in one sentence where there is no GPU."""

import argparse
import json

import pytest
import torch

from benchmarks import first_gpu, gpu


def test_the_suite_runs_on_a_toy(capsys):
    arguments = ["--device", "cpu", "--tiny", "--lengths", "16/8", "--warm-up", "0", "--steps", "1", "--json"]
    assert gpu.main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["adapter"] for row in rows] == ["LoRA bf16", "QLoRA NF4"]
    assert all(row["layout"] == "packed" and row["ms_per_step"] > 0 and row["peak_gib"] > 0 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU to measure")
@pytest.mark.parametrize("suite", [gpu, first_gpu])
def test_without_a_gpu_it_says_so(capsys, suite):
    assert suite.main([]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "no CUDA GPU" in said.err


def test_what_one_wants_to_know_first_comes_first():
    order = gpu.in_order(gpu.SHAPES, gpu.LENGTHS)
    assert len(order) == len(set(order)) == 3 * 2 * 3
    assert order[:3] == [
        ("llama-1b", False, (1024, 256)),
        ("qwen3-0.6b", False, (1024, 256)),
        ("llama-8b", True, (1024, 256)),
    ]
    assert {lengths for _, _, lengths in order[:6]} == {(1024, 256)}


def test_a_row_that_fails_and_rows_without_time_are_told(tmp_path, monkeypatch):
    times = iter([10.0, 0.0])

    def measure(*_, **options):
        left = next(times)
        if left == 0.0:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        return {"tflops": 1.0, "ms_per_step": 1.0, "examples_per_second": 2.0, "peak_gib": 3.0}

    monkeypatch.setattr(gpu, "measure", measure)
    arguments = ["--device", "cpu", "--tiny", "--lengths", "16/8", "--out", str(tmp_path / "out.json")]
    assert gpu.main(arguments) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row.get("failed") for row in found["rows"]] == [None, "CUDA out of memory. Tried to allocate 2 GiB"]
    assert "| tiny | QLoRA NF4 | 16/8 | CUDA out of memory" in gpu.table(found)
    assert gpu.main([*arguments, "--seconds", "-1"]) == 0


def test_a_part_whose_time_is_up_leaves_what_it_has_told(tmp_path):
    written = tmp_path / "written"
    code = f"import time; open({str(written)!r}, 'w').close(); print('told', flush=True); time.sleep(600)"
    looked = []
    code, out, _ = first_gpu.call(["-c", code], 3.0, while_waiting=lambda: looked.append(written.exists()))
    assert (out, looked[-1]) == ("told\n", True) and first_gpu.how_it_ended(code, "") == "Its time was up."
    assert first_gpu.how_it_ended(1, "a\nOSError: b\n") == "It ended with exit code 1. OSError: b"


def test_the_outcomes_of_tests_are_read_from_what_pytest_prints(monkeypatch):
    printed = (
        "tests/gpu/test_on_a_gpu.py::test_a[llama-dtype0] PASSED [ 3%]\n"
        "tests/gpu/test_on_a_gpu.py::test_b FAILED [ 6%]\n"
        "tests/gpu/test_on_a_gpu.py::test_c "  # where time was up
    )
    monkeypatch.setattr(first_gpu, "call", lambda *_, **__: (-9, printed, ""))
    told = []
    first_gpu.run_tests(1.0, argparse.Namespace(device="cuda"), told.append)
    assert told[0]["outcomes"] == {"test_a[llama-dtype0]": "passed", "test_b": "failed"}
    assert told[0]["failed"] == "Its time was up." and "test_c" in told[0]["output"]
    report = first_gpu.report({"tests": told[0]})
    assert "Tests: 1 of 2 passed. Its time was up." in report and "failed: test_b" in report


@pytest.mark.slow
def test_a_rehearsal_on_a_cpu_goes_all_the_way(tmp_path, capsys):
    out = tmp_path / "results.json"
    assert first_gpu.main(["--device", "cpu", "--tiny", "--out", str(out), "--minutes", "8"]) == 0
    found = json.loads(out.read_text())
    assert found["doctor"]["ok"] and found["tests"]["passed"] == len(found["tests"]["outcomes"]) > 10
    assert [row["adapter"] for row in found["benchmark"]["rows"]] == ["LoRA bf16", "QLoRA NF4"]
    printed = capsys.readouterr().out
    assert "✓ packed" in printed and "| tiny | QLoRA NF4 | 16/8 |" in printed
