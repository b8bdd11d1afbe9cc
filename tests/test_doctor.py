"""kto doctor: what works is said, what is broken is named, and nothing that is broken is thrown."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import call_kto, only_json
from packaging.requirements import Requirement

from kto_workbench.doctor import arithmetic, device, machine, model
from kto_workbench.doctor.child import check
from kto_workbench.doctor.examination import CHECKS, checks_of, examine, without
from kto_workbench.doctor.results import BROKEN, FINE, LACKING, Result, Subject, summary
from kto_workbench.feedback.named import asset
from kto_workbench.runs import machine as limits

CPU = torch.device("cpu")


@pytest.fixture
def here(tmp_path):
    return Subject(tmp_path / "workspace")


def by_child(subject, *names, before="", **environment):
    """Results of some checks from a process of their own, with a shell command run before it, and all that it wrote."""
    command = [sys.executable, "-m", "kto_workbench.doctor.child", str(subject.workspace), *names]
    if before:
        # A mount that only this process sees, root or not.
        command = ["unshare", "-rm", "sh", "-c", f'{before} && exec "$@"', "sh", *command]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120, check=True
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return {event["name"]: Result(**event) for event in events if "name" in event}, done.stdout + done.stderr


def broken_library(folder, name, code):
    """A library that is found before the real one, and does this when it is imported; what PYTHONPATH finds it by."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    return os.pathsep.join([str(folder), str(Path(machine.kto_workbench.__file__).parents[1])])


def test_the_whole_of_it_on_a_machine_that_works(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_ThisMustNeverBeShown")
    done = call_kto("doctor", "--model", "demo", "--json", cwd=tmp_path)
    told = only_json(done)
    assert told["ok"] is True and [one["name"] for one in told["checks"]] == list(CHECKS)
    assert all(one["ok"] and one["said"].endswith(".") for one in told["checks"])
    assert {one["state"] for one in told["checks"]} <= {FINE, LACKING}
    figures = {one["name"]: one["figures"] for one in told["checks"]}
    assert figures["hub"]["token"] is True and "NeverBeShown" not in done.stdout + done.stderr
    assert figures["family"]["layout"] == "packed" and figures["packed"]["off"]["float32"] < 1e-4
    assert figures["step"]["seconds_per_step"] > 0 and figures["matrix rate"]["flops"] > 1e8
    assert figures["memory"]["weights"] < figures["memory"]["high"] < figures["memory"]["free"]
    assert not (tmp_path / "workspace").exists()  # a look leaves nothing behind


def test_the_lines_and_the_exit_code(tmp_path, monkeypatch, capsys):
    from kto_workbench.__main__ import main
    from kto_workbench.doctor import examination

    found = [Result(FINE, "Works.", {}, "one"), Result(LACKING, "Is missing.", {}, "two")]
    monkeypatch.setattr(examination, "examine", lambda subject: iter(found))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in out[:2]] == [["✓", "one", "Works."], ["–", "two", "Is", "missing."]]
    assert out[-1] == "Training works here."
    found.append(Result(BROKEN, "Is broken.", {}, "three"))
    assert main(["doctor"]) == 2
    assert capsys.readouterr().out.splitlines()[-1] == summary(found) == "Training would not work here: see three."


# the machine


def test_a_full_a_small_and_a_read_only_disk_are_named(tmp_path):
    folder = tmp_path / "workspace"
    folder.mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs {folder}"
    small = by_child(Subject(folder), "workspace", before=mount)[0]["workspace"]
    assert small.state == BROKEN and "MB free" in small.said and "could not save" in small.said
    fill = f"{mount} && (head -c 2m /dev/zero > {folder}/full 2>/dev/null || true)"
    full = by_child(Subject(folder), "workspace", before=fill)[0]["workspace"]
    assert full.state == BROKEN and "No space left on device; name another folder with --workspace" in full.said
    fixed = by_child(Subject(folder), "workspace", before=f"mount -t tmpfs -o ro tmpfs {folder}")[0]["workspace"]
    assert fixed.state == BROKEN and f"workspace {folder}: Read-only file system" in fixed.said


def test_a_workspace_that_is_not_there_yet_or_never_can_be(tmp_path, here):
    assert check("workspace", here).state == FINE and not here.workspace.exists()
    (tmp_path / "file").write_text("")
    said = check("workspace", Subject(tmp_path / "file" / "workspace"))
    assert said.state == BROKEN and f"{tmp_path / 'file'} is a file" in said.said


def test_cores_and_memory_are_those_that_a_container_leaves(tmp_path, monkeypatch, here):
    monkeypatch.setattr(limits, "CONTAINER", tmp_path)
    whole = limits.processors()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert limits.processors() == whole
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1500000000\n")
    (tmp_path / "memory.current").write_text("500000000\n")
    assert (limits.processors(), limits.free_memory()) == (0.5, 10**9)
    said = check("processor", here)
    assert said.state == LACKING and said.said.startswith("0.5 cores of") and "1 GB of" in said.said


def test_libraries_are_held_against_what_is_needed_and_what_is_tested(monkeypatch, here):
    assert {"torch", "transformers", "peft"} <= {one.name for one in machine.requirements()}
    assert machine.tested_versions()["transformers"].startswith("5.")
    monkeypatch.setattr(machine, "tested_versions", lambda: {"peft": "0.0.1"})
    said = check("libraries", here)
    assert said.state == FINE and "peft" in said.said and "instead of 0.0.1" in said.said
    monkeypatch.setattr(machine, "requirements", lambda: [Requirement("peft>=99"), Requirement("nobody-has-this")])
    said = check("libraries", here)
    assert said.state == BROKEN and "does not fit >=99; nobody-has-this is not installed" in said.said


def test_a_gpu_that_torch_can_not_use_is_told_with_what_to_do(tmp_path, monkeypatch, here):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '550.54.15, NVIDIA Some Card\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    said = check("torch", here)
    assert said.state == LACKING and "NVIDIA Some Card that driver 550.54.15 shows" in said.said
    assert "install a build for CUDA" in said.said
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "update the driver" in check("torch", here).said


# libraries that are broken


def test_a_bitsandbytes_that_can_not_be_imported_is_named(tmp_path, here):
    path = broken_library(tmp_path / "broken", "bitsandbytes", "raise OSError('libbitsandbytes_cuda999.so: not found')")
    found, written = by_child(here, "bfloat16", "4-bit", "packed", PYTHONPATH=path)
    assert found["bfloat16"].ok and found["4-bit"].state == BROKEN and "Traceback" not in written
    assert "libbitsandbytes_cuda999.so: not found" in found["4-bit"].said and "pip install" in found["4-bit"].said
    assert "packed" not in found  # no adapter can be made


def test_a_bitsandbytes_that_is_missing_or_computes_something_else_is_named(monkeypatch, here):
    from bitsandbytes.nn import Linear4bit

    right = check("4-bit", here)
    assert right.state == FINE and right.figures["off"] < 1e-4
    plain = Linear4bit.forward
    monkeypatch.setattr(Linear4bit, "forward", lambda self, x: plain(self, x) * 1.01)
    wrong = check("4-bit", here)
    assert wrong.state == LACKING and "computes wrong" in wrong.said and "leave load_in_4bit off" in wrong.said
    # As bitsandbytes did on some CPUs: a right forward without a way back.
    monkeypatch.setattr(Linear4bit, "forward", lambda self, x: plain(self, x.detach()))
    assert "load_in_4bit does not work here" in check("4-bit", here).said
    monkeypatch.setattr(arithmetic.importlib.util, "find_spec", lambda name: None)
    assert check("4-bit", here).state == LACKING and "not installed" in check("4-bit", here).said


def test_a_library_that_takes_the_process_with_it_is_named_and_the_rest_goes_on(tmp_path, monkeypatch, here):
    code = "import sys, os; print('last words', file=sys.stderr, flush=True); os.abort()"
    monkeypatch.setenv("PYTHONPATH", broken_library(tmp_path / "broken", "torch", code))
    found = {result.name: result for result in examine(here)}
    assert [*found] == ["python", "libraries", "processor", "workspace", "hub", "torch"]  # the rest needs torch
    assert found["torch"].state == BROKEN and "signal 6 (SIGABRT); its last words: last words" in found["torch"].said


def test_what_needs_a_broken_check_is_left_out_however_far_behind():
    assert without(checks_of(Subject(Path("."), "demo")), "model") == [
        name for name in CHECKS if name not in ("template", "memory", "family", "step")
    ]
    assert without(["4-bit", "packed", "family", "step"], "torch") == []


# arithmetic


def test_packed_batches_that_come_out_wrong_are_named(monkeypatch, here):
    from kto_workbench.engine import scoring

    make = scoring.make_scorer

    def one_percent_off(model):
        scorer = make(model)
        right = scorer.score_both

        def score_both(pairs, mismatched):
            scores, kl_logps = right(pairs, mismatched)
            return scores, kl_logps * 1.01

        scorer.score_both = score_both
        return scorer

    assert check("packed", here).state == FINE
    monkeypatch.setattr(scoring, "make_scorer", one_percent_off)
    said = check("packed", here)
    assert said.state == BROKEN and "apart from padded ones in float32" in said.said
    monkeypatch.setattr(scoring, "make_scorer", scoring.PaddedScorer)
    assert check("packed", here).state == LACKING


def kernel(*, aligned="end", window_off=0, detached=False):
    """A variable-length kernel written out, right or wrong in one way."""

    def attend(q, k, v, starts_q, starts_k, most_q, most_k, *, window_size, enable_gqa):
        out = []
        for i in range(len(starts_q) - 1):
            one_q, (one_k, one_v) = q[starts_q[i] : starts_q[i + 1]], (t[starts_k[i] : starts_k[i + 1]] for t in (k, v))
            assert len(one_q) <= most_q and len(one_k) <= most_k and enable_gqa
            one_k, one_v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (one_k, one_v))
            ahead = len(one_k) - len(one_q) if aligned == "end" else 0
            scores = torch.einsum("qhd,khd->hqk", one_q, one_k) / q.shape[-1] ** 0.5
            for row in range(len(one_q)):
                at = row + ahead
                first = 0 if window_size[0] < 0 else max(0, at - window_size[0] - window_off)
                scores[:, row, :first] = -torch.inf
                scores[:, row, at + 1 :] = -torch.inf
            value = one_v.detach() if detached else one_v
            out.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value))
        result = torch.cat(out)
        return result + 0 * v.sum() if detached else result

    return attend


def test_the_attention_kernel_is_judged_by_its_values_and_its_gradients():
    assert device.kernel_error(kernel(), CPU, torch.float32) < 1e-5
    for wrong in ({"aligned": "start"}, {"window_off": 1}, {"detached": True}):
        assert device.kernel_error(kernel(**wrong), CPU, torch.float32) > device.TOLERANCE[torch.bfloat16], wrong


def test_rates_count_what_was_done(monkeypatch):
    monkeypatch.setattr(device, "best_seconds", lambda work, place: 0.5)
    assert device.product_rate(CPU, torch.float32, 10) == 2 * 10**3 / 0.5
    said = check("memory rate", Subject(Path("nowhere")))
    assert said.figures["bytes_per_second"] == 2 * device.COPIED["cpu"] / 0.5


def test_rates_are_not_measured_while_a_training_has_the_device(here):
    from kto_workbench.runs.turn import device_held

    here.workspace.mkdir()
    with device_held(here.workspace):
        said = check("matrix rate", here)
    assert said.state == LACKING and "a training is at work" in said.said


# a model


@pytest.fixture
def demo_copy(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(asset("model"), folder)
    return folder


def of_model(name, folder, tmp_path):
    for cached in (model._tokenizer, model._scorer):
        cached.cache_clear()
    return check(name, Subject(tmp_path, str(folder)))


def test_a_template_that_raises_is_named(demo_copy, tmp_path):
    (demo_copy / "chat_template.jinja").write_text("{{ raise_exception('No answers today') }}")
    said = of_model("template", demo_copy, tmp_path)
    assert said.state == BROKEN and "fails on a plain question" in said.said and "No answers today" in said.said
    (demo_copy / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
        "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    said = of_model("template", demo_copy, tmp_path)
    # The system text goes before the first user's; of tools this template knows nothing.
    assert (said.state, said.figures["unseen"], said.figures["changed"]) == (LACKING, ["tools"], []), said
    (demo_copy / "chat_template.jinja").write_text("{% if %}")
    assert of_model("template", demo_copy, tmp_path).state == BROKEN


def test_a_folder_that_is_no_model_is_named(demo_copy, tmp_path):
    said = of_model("model", tmp_path / "nowhere", tmp_path)
    assert said.state == BROKEN and "no such folder" in said.said
    said = of_model("model", tmp_path, tmp_path)
    assert said.state == BROKEN and "holds no model: there is no config.json" in said.said
    (demo_copy / "model.safetensors").write_bytes(b"not weights")
    assert of_model("model", demo_copy, tmp_path).ok
    said = of_model("family", demo_copy, tmp_path)
    assert said.state == BROKEN and said.said.startswith("Can't load model")


def test_memory_that_does_not_do_says_what_would_make_it_fit(tmp_path, monkeypatch):
    from kto_workbench.engine import passes

    of = lambda: of_model("memory", "demo", tmp_path)
    plenty = of()
    assert plenty.state == FINE and plenty.figures["weights"] > 2e6
    monkeypatch.setattr(passes, "free_memory", lambda place: plenty.figures["low"])
    assert "activations made again" in of().said
    monkeypatch.setattr(passes, "free_memory", lambda place: 10**6)
    assert of().state == BROKEN and "too little for this model, even in 4 bits" in of().said


def test_a_step_whose_gradient_is_no_number_is_named(tmp_path):
    model._scorer.cache_clear()
    trained = [p for p in model._scorer("demo", False).model.parameters() if p.requires_grad]
    with torch.no_grad():
        trained[0].fill_(torch.inf)
    said = check("step", Subject(tmp_path, "demo"))
    model._scorer.cache_clear()
    assert said.state == BROKEN and "is not a number" in said.said


def test_what_the_engine_warns_of_a_model_is_said(tmp_path):
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4)).save_pretrained(
        tmp_path / "model"
    )
    said = of_model("family", tmp_path / "model", tmp_path)
    assert said.state == LACKING and said.figures["layout"] == "padded" and "scored padded" in said.said, said
