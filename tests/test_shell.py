"""The `kto` command, each verb in a process of its own: results on stdout, progress on stderr, errors in a sentence."""

import base64
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import SMALL, SMALL_ROWS, call_kto, only_json, wait_for

from kto_workbench import KTOConfig
from kto_workbench.__main__ import _parser, main
from kto_workbench.runs import list_runs
from kto_workbench.runs.directory import new_run
from kto_workbench.shell.training import config_from

ROWS = [
    {"prompt": "Hi", "completion": "Hello!", "label": True},
    {"prompt": "Hi", "completion": "Go away.", "label": False},
    {"prompt": "Bye", "completion": "No.", "label": "👎"},
]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def refused(words, capsys):
    """The sentence with which `kto` refuses, called in this process: each of its own costs seconds."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as exit:
        code = exit.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.count("\n") == 1 and err.endswith((".\n", "?\n")), (code, out, err)
    return err.rstrip("\n")


# check ---------------------------------------------------------------------------------------------------------------


def test_check_counts_what_is_kept_and_lists_what_is_not(kto, tmp_path):
    write_rows(tmp_path / "thumbs.jsonl", [*ROWS, {"prompt": "Hm", "completion": "?", "label": "perhaps"}])
    report = only_json(kto("check", "thumbs.jsonl", "--json"))
    assert (report["rows_in"], report["rows_kept"]) == (4, 3)
    assert (report["n_desirable"], report["n_undesirable"]) == (1, 2)
    # λ_D · 1 / (1 · 2) in [1, 1.5]  →  λ_D in [2, 3]
    assert (report["desirable_weight"], report["undesirable_weight"]) == (2, 1)
    assert report["weight_range"] == {"desirable_weight": [2, 3], "undesirable_weight": [1, 1]}
    (problem,) = report["problems"]
    assert problem.keys() == {"line", "field", "reason"}
    assert (problem["line"], problem["field"]) == (4, "label") and "perhaps" in problem["reason"]


def test_check_in_words(kto, tmp_path):
    write_rows(tmp_path / "thumbs.jsonl", ROWS)
    done = kto("check", "thumbs.jsonl")
    assert "1 thumbs up / 2 thumbs down" in done.stdout and "λ_D 2, λ_U 1" in done.stdout and not done.stderr


# train ---------------------------------------------------------------------------------------------------------------


def test_train_follows_to_the_end_and_says_how_it_ended(trained_by_shell):
    done, run = trained_by_shell
    result = only_json(done)
    assert result.keys() == {"run", "path", "state", "step", "error", "final"}
    assert (result["run"], result["state"], result["step"], result["error"]) == (run.id, "finished", 24, "")
    assert result["final"] == [record for record in run.metrics() if "loss" in record][-1]
    assert {"loss", "kl", "rewards/chosen", "rewards/rejected", "rewards/margins"} <= result["final"].keys()
    assert run.id in done.stderr and "Traceback" not in done.stderr and "24/24" in done.stderr


def test_options_of_file_and_flags_are_both_in_the_runsconfig_from(trained, small_data):
    config = trained.config()
    assert {name: getattr(config, name) for name in SMALL} == SMALL
    assert config.data == str(small_data) and trained.data()["rows"] == SMALL_ROWS
    assert (trained.adapter / "adapter_model.safetensors").is_file()


def test_the_directory_of_a_finished_run(trained):
    names = {path.name for path in trained.path.iterdir()}
    expected = {
        "config.yaml",
        "data.json",
        "status.json",
        "metrics.jsonl",
        "log.txt",
        "commands",
        "checkpoints",
        "adapter",
    }
    assert expected <= names and not any(name.startswith(".") or name.endswith(".part") for name in names)
    assert "Traceback" not in trained.log(1000)


def test_runs_lists_them_newest_first(kto, trained):
    workspace = trained.config().workspace
    (row,) = only_json(kto("runs", "--workspace", workspace, "--json"))["runs"]
    assert (row["run"], row["state"], row["step"], row["total_steps"]) == (trained.id, "finished", 24, 24)
    assert row["model"] == "demo" and row["n_desirable"] + row["n_undesirable"] == SMALL_ROWS
    table = kto("runs", "--workspace", workspace).stdout
    assert trained.id in table and "finished" in table and "24/24" in table
    assert "No runs in nowhere yet" in kto("runs", "--workspace", "nowhere").stdout
    assert only_json(kto("runs", "--workspace", "nowhere", "--json")) == {"runs": []}


def test_stop_and_a_model_that_can_not_be_loaded(tmp_path, small_data, capsys):
    from kto_workbench.runs.turn import turn

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    mine = new_run(KTOConfig(workspace=str(tmp_path / "w")), {})
    mine.claim()
    with turn(mine, tmp_path / "w"):  # the device is taken by a run of this very process
        mine.set_status(state="running")
        command = [sys.executable, "-m", "kto_workbench", "train", small_data, "--model", "model", "--workspace", "w"]
        train = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        run = wait_for(lambda: [run for run in list_runs(tmp_path / "w") if run.id != mine.id])[0]
        assert main(["stop", mine.id, "--workspace", str(tmp_path / "w")]) == 0
        assert capsys.readouterr().out == f"Run {mine.id} was asked to stop; it saves its adapter first.\n"
        assert mine.was_asked("stop") and not run.was_asked("stop")
        wait_for(lambda: run.status().message == "Waiting for the device.", what=run.log())
    out, err = train.communicate(timeout=120)
    assert (train.returncode, out) == (2, "") and "Traceback" not in err
    status = run.status()
    assert status.state == "failed" and status.error.startswith("Can't load ") and "\n" not in status.error
    assert err.rstrip().splitlines()[-1].endswith(f"Run {run.id} failed: {status.error} (log: {run.log_path})")
    assert not run.adapter.exists()


def test_a_run_keeps_its_options_and_its_config_trains_anew(tmp_path, trained, capsys):
    for words, sentence in (
        (["stop", trained.path], f"Run {trained.id} is finished, so it can't be asked to stop."),
        (["resume", trained.path],
         f"Run {trained.id} is finished; only a stopped, failed or crashed run can be resumed."),
        (["train", trained.path, "--beta", "0.2"],
         "A run keeps its options; to change some, train its config.yaml with them."),
        (["train", trained.path],
         f"Run {trained.id} is finished already; `kto train {trained.path}/config.yaml` trains it anew."),
    ):  # fmt: skip
        assert refused(words, capsys) == sentence
    arguments = _parser().parse_args(["train", str(trained.path / "config.yaml"), "--seed", "7"])
    assert config_from(arguments.source, {"seed": arguments.seed}) == trained.config().replace(seed=7)


# compare and export --------------------------------------------------------------------------------------------------


def test_compare_answers_a_file_of_prompts_with_both_sides(tmp_path, trained, capfd):
    prompts = ["How many legs does a hedgehog have?", [{"role": "user", "content": "Where do I find the kettle?"}]]
    (tmp_path / "prompts.json").write_text(json.dumps([prompts[0], {"messages": prompts[1]}]))
    options = ["--prompts", str(tmp_path / "prompts.json"), "--max-new-tokens", "24", "--seed", "3"]
    assert main(["compare", str(trained.path), *options, "--json"]) == 0
    out, _ = capfd.readouterr()  # also what libraries print past Python
    result = json.loads(out)
    assert result["run"] == trained.id and result["seed"] == 3
    assert [answer["prompt"] for answer in result["answers"]] == prompts
    assert all(answer["reference"] and answer["tuned"] for answer in result["answers"])
    assert main(["compare", str(trained.path), *options]) == 0
    first = result["answers"][0]
    beginning = f"\n{first['prompt']}\n  reference  {first['reference']}\n  tuned      {first['tuned']}\n"
    assert capfd.readouterr().out.startswith(beginning)  # the same seed, the same answers


LOGPS = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer, model = AutoTokenizer.from_pretrained(sys.argv[1]), AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = tokenizer.apply_chat_template(json.loads(sys.argv[2]), return_dict=True, return_tensors="pt")["input_ids"]
logps = model.eval()(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
print(json.dumps(logps.tolist()))
"""


def test_a_merged_model_says_what_base_and_adapter_say(tmp_path, trained, capfd):
    from kto_workbench.answers.comparison import open_run

    out = tmp_path / "deep" / "merged"
    assert main(["export", str(trained.path), "--format", "merged", "--out", str(out)]) == 0
    assert capfd.readouterr() == (f"{out}\n", "")
    chat = [
        {"role": "user", "content": "How many legs does a hedgehog have?"},
        {"role": "assistant", "content": "Dear friend! A hedgehog has four legs."},
    ]
    command = [sys.executable, "-c", LOGPS, str(out), json.dumps(chat)]
    merged = torch.tensor(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))

    model, tokenizer = open_run(trained)
    ids = tokenizer.apply_chat_template(chat, return_dict=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        tuned = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        with model.disable_adapter():
            base = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    assert len(merged) > 10 and (merged - tuned).abs().max() < 1e-4
    assert (base - tuned).abs().max() > 1e-2  # so that the line above says something

    sentence = f"There is something in {out} already; name another folder with --out."
    assert refused(["export", trained.path, "--format", "merged", "--out", out], capfd) == sentence


def test_an_exported_adapter_is_what_peft_takes(tmp_path, trained):
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kto_workbench.answers.export import export
    from kto_workbench.errors import RunError
    from kto_workbench.feedback.rendering import model_path

    out = export(trained, "adapter", tmp_path / "adapter")
    ours, theirs = (load_file(path / "adapter_model.safetensors") for path in (out, trained.adapter))
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_path("demo")), out)
    assert AutoTokenizer.from_pretrained(out).chat_template
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="^There is something in .*/file already; name another folder"):
        export(trained, "adapter", tmp_path / "file")
    with pytest.raises(RunError, match="^Can't write to .*/file/below: Not a directory.$"):
        export(trained, "adapter", tmp_path / "file" / "below")


# errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("check none.jsonl", "There is no file none.jsonl."),
        ("check empty.jsonl", "empty.jsonl is empty."),
        ("check neither.jsonl", "neither.jsonl: its only row can't be used; line 1: "),
        ("check file.bin", "file.bin "),
        ("train none.jsonl", "There is no file none.jsonl."),
        ("train empty.jsonl", "empty.jsonl is empty."),
        ("train neither.jsonl", "neither.jsonl: its only row can't be used; line 1: "),
        ("train none.yaml", "There is no config file none.yaml."),
        ("train wrong.yaml", "There is no option `bta`; did you mean `beta`?"),
        ("train none", "There is no run 'none' in workspace/runs; `kto runs` lists those that exist."),
        ("train --model ./none", "There is no model in ./none: no such folder."),
        ("train --bta 1", "There is no option `bta`; did you mean `beta`? (`kto train --help` lists all)."),
        ("train --learning-rat 1", "There is no option `learning-rat`; did you mean `learning_rate`? ("),
        ("train --batch-size 1", "Option `batch_size` should be at least 2, not 1."),
        ("train --beta high", "Option `beta` should be a number, not 'high'."),
        ("train --beta", "Argument --beta: expected one argument; `kto train --help` says more."),
        ("train --workspace file.bin", "Can't make a run in "),
        ("runs --jsn", "There is no option `jsn`; did you mean `json`? (`kto runs --help` lists all)."),
        ("check demo --beta 1", "There is no option `beta` (`kto check --help` lists all)."),
        ("stop none", "There is no run 'none' in workspace/runs; `kto runs` lists those that exist."),
        ("resume latest", "There is no run 'latest' in workspace/runs; `kto runs` lists those that exist."),
        ("compare none", "There is no run 'none' in workspace/runs; `kto runs` lists those that exist."),
        ("export none --format onnx", "Argument --format: invalid choice: 'onnx' (choose from "),
        ("", "The following arguments are required: COMMAND; `kto --help` says more."),
        ("trian", "Argument COMMAND: invalid choice: 'trian' (choose from "),
    ],
)
def test_errors_are_one_sentence_on_stderr(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "file.bin").write_bytes(bytes(range(256)))
    (tmp_path / "wrong.yaml").write_text("bta: 1\n")
    write_rows(tmp_path / "neither.jsonl", [{"prompt": "Hi", "completion": "Hello!", "label": "perhaps"}])
    assert refused(words.split(), capsys).startswith(sentence)
    assert not (tmp_path / "workspace").exists()


def test_a_traceback_only_with_debug(kto):
    calm = kto("check", "none.jsonl", code=2)
    assert (calm.stdout, calm.stderr) == ("", "There is no file none.jsonl.\n")
    loud = kto("check", "none.jsonl", "--debug", code=2)
    assert loud.stdout == "" and loud.stderr.startswith("Traceback") and "DataError: There is no file" in loud.stderr


@pytest.mark.parametrize("option", ["--temperature -1", "--temperature 9", "--max-new-tokens 0"])
def test_compare_refuses_what_it_can_not_sample_with(option, trained, capsys):
    name = option.split()[0].removeprefix("--").replace("-", "_")
    assert refused(["compare", trained.path, *option.split()], capsys).startswith(f"Option `{name}` should be ")


def test_every_verb_takes_a_workspace_and_has_help(capsys):
    verbs = "app demo check doctor train sweep runs name stop resume compare endpoint export".split()
    (subparsers,) = (action for action in _parser()._actions if hasattr(action, "choices") and action.choices)
    assert sorted(subparsers.choices) == sorted(verbs)
    for parser in subparsers.choices.values():
        assert "--workspace" in parser.format_help() and "--debug" in parser.format_help()


def test_an_export_tells_its_story(tmp_path, trained):
    import yaml

    out = tmp_path / "out"
    assert main(["export", str(trained.path), "--out", str(out)]) == 0
    card, config, data = (out / "README.md").read_text(), trained.config(), trained.data()
    assert (out / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "peft" and "kto" in head["tags"]
    assert "base_model" not in head  # the demo model is not on the hub
    assert f"| thumbs up | {data['n_desirable']} |" in card and f"| SHA-256 | {data['sha256']} |" in card
    assert (
        f"| λ of a thumb up, of a thumb down | {config.desirable_weight:.4g}, {config.undesirable_weight:.4g} |" in card
    )
    assert f"| beta | {config.beta:.4g} |" in card and f"{trained.status().step} steps" in card
    margins = [one["rewards/margins"] for one in trained.metrics() if one.get("rewards/margins") is not None]
    assert f"| margin | {margins[-1]:.3f} |" in card
    assert str(trained.path.parent) not in card  # nobody's folders


def test_a_push_without_a_token_is_one_sentence(tmp_path, trained, capfd, monkeypatch):
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    sentence = "No token for the Hugging Face hub is set; log in with `hf auth login`, or set HF_TOKEN."
    assert refused(["export", trained.path, "--out", tmp_path / "out", "--push", "me/mine"], capfd) == sentence
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()  # what was exported stays


class TinyHub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub's protocol as an upload of small files needs; keeps what arrives."""

    def do_POST(self):  # noqa: N802
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.seen.append((self.path, self.headers.get("authorization")))
        if self.path == "/api/repos/create":
            self.server.created = json.loads(body)
            answer = {"url": f"http://127.0.0.1:{self.server.server_port}/me/mine"}
        elif self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            answer = {"files": files}
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": f"http://127.0.0.1:{self.server.server_port}/me/mine/commit/1", "commitOid": "1"}
        else:
            answer = {"errors": [], "warnings": []}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def test_an_export_goes_to_a_hub(tmp_path, trained, monkeypatch):
    hub = ThreadingHTTPServer(("127.0.0.1", 0), TinyHub)
    hub.seen, hub.files = [], {}
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        out = tmp_path / "out"
        done = call_kto("export", trained.path, "--out", out, "--push", "me/mine")
    finally:
        hub.shutdown()
        hub.server_close()
    assert done.stdout == f"{out}\n" and "/me/mine" in done.stderr and "hf_secret" not in done.stdout + done.stderr
    assert (
        hub.created["name"] == "mine" and hub.created["organization"] == "me" and hub.created["visibility"] == "private"
    )
    assert {authorization for _, authorization in hub.seen} == {"Bearer hf_secret"}
    assert hub.files.keys() == {path.name for path in out.iterdir()} >= {"adapter_model.safetensors", "README.md"}
    for name, content in hub.files.items():
        assert content == (out / name).read_bytes(), name
