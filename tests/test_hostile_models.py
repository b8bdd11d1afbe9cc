"""Models and adapters that bring code along: it is not run, and why they are not taken is one sentence."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_lora, tiny_model, tiny_tokenizer

from kto_workbench import KTOConfig, train
from kto_workbench.answers.export import export
from kto_workbench.config import options
from kto_workbench.doctor.child import check as looked_at
from kto_workbench.doctor.results import Subject
from kto_workbench.engine.models import load_adapter, load_model
from kto_workbench.engine.reward_model import RewardModel
from kto_workbench.errors import WorkbenchError
from kto_workbench.feedback import check
from kto_workbench.feedback.rendering import load_tokenizer
from kto_workbench.ui import fields

pytestmark = pytest.mark.reliability("No code of a model, a tokenizer or an adapter is run")

CPU = torch.device("cpu")


@pytest.fixture
def witness(tmp_path):
    """A file that hostile code would write, and that code; nothing may ever have written it."""
    path = tmp_path / "witness"
    yield path, f"open({str(path)!r}, 'w').close()\n"
    assert not path.exists(), "the code was run"


class Pickled:
    """Runs code as it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def folder(tmp_path):
    """A whole and harmless model."""
    path = tmp_path / "model"
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_the_harmless_model_is_taken(folder):
    load_model(str(folder), device=CPU, dtype="float32")
    load_tokenizer(str(folder))


@pytest.mark.parametrize("kind", ["llama", "nobody_knows_it"])
def test_code_of_a_model_is_not_run(folder, witness, kind):
    (folder / "evil.py").write_text(witness[1])
    auto = {name: "evil.Evil" for name in ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification")}
    change(folder / "config.json", model_type=kind, auto_map=auto)
    for load in (
        lambda: load_model(str(folder), device=CPU, dtype="float32"),
        lambda: RewardModel(str(folder), device=CPU),
    ):
        try:
            load()
        except WorkbenchError as error:
            assert "\n" not in str(error) and len(str(error)) < 500


def test_code_of_a_tokenizer_is_not_run(folder, witness):
    (folder / "evil.py").write_text(witness[1])
    auto = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoConfig": "evil.Evil"}
    change(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map=auto)
    try:
        load_tokenizer(str(folder))
    except WorkbenchError as error:
        assert "\n" not in str(error)


def test_nobody_is_asked_whether_code_may_be_run(folder, witness):
    """Transformers asks at the terminal, and takes a "y" for an answer."""
    (folder / "evil.py").write_text(witness[1])
    change(folder / "config.json", model_type="nobody_knows_it", auto_map={"AutoConfig": "evil.Evil"})
    change(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    code = (
        "import sys, torch\n"
        "from kto_workbench.errors import WorkbenchError\n"
        "from kto_workbench.engine.models import load_model\n"
        "from kto_workbench.feedback.rendering import load_tokenizer\n"
        "for load in (load_tokenizer, lambda m: load_model(m, device=torch.device('cpu'), dtype='float32')):\n"
        "    try:\n"
        "        load(sys.argv[1])\n"
        "    except WorkbenchError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], input="y\n" * 9, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "[y/N]" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert done.stdout.count("it brings code of its own, which is run only if the option `trust` names") == 2


def test_pickled_weights_are_refused(folder, witness):
    """Also those that torch would call harmless: nobody has asked for them."""
    weights = tiny_model().state_dict()
    for content in ({**weights, "evil": Pickled(witness[0])}, weights):
        (folder / "model.safetensors").unlink(missing_ok=True)
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises(WorkbenchError, match="Can't load model") as error:
            load_model(str(folder), device=CPU, dtype="float32")
        assert "safetensors" in str(error.value) and "\n" not in str(error.value)


def pickled(folder, content):
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(content, folder / "pytorch_model.bin")
    return str(folder)


def test_pickled_weights_are_read_if_their_model_is_trusted_by_its_name(folder):
    want = load_model(str(folder), device=CPU, dtype="float32").state_dict()
    name = pickled(folder, tiny_model().state_dict())
    assert KTOConfig(model=name, trust=[name]).trusted and KTOConfig(model=name, trust=["other", name]).trusted
    for others in ((), ("",), ("*",), (name + "/",), (name[:-1],), (str(folder.parent),)):
        assert not KTOConfig(model=name, trust=others).trusted
    with pytest.raises(WorkbenchError, match="read only if the option `trust` names the model"):
        load_model(name, device=CPU, dtype="float32")
    got = load_model(name, device=CPU, dtype="float32", trust=True).state_dict()
    assert got.keys() == want.keys() and all(torch.equal(got[key], want[key]) for key in want)


def test_a_pickle_that_runs_code_is_refused_even_if_it_is_trusted(folder, witness):
    name = pickled(folder, {**tiny_model().state_dict(), "evil": Pickled(witness[0])})
    with pytest.raises(WorkbenchError, match="Can't load model") as error:
        load_model(name, device=CPU, dtype="float32", trust=True)
    assert "\n" not in str(error.value)


def test_a_run_of_a_trusted_model_uses_its_code_and_its_pickled_weights(folder, tmp_path, monkeypatch):
    """From training to the merged model; without the option nothing of it is loaded."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    seen = tmp_path / "seen"
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"open({str(seen)!r}, 'a').close()\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    auto = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    change(folder / "config.json", model_type="own", architectures=["Own"], auto_map=auto)
    name = pickled(folder, tiny_model().state_dict())
    rows = [{"prompt": "the cat", "completion": f"sat {n}", "label": n < 2} for n in range(4)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    config = KTOConfig(
        model=name, data=str(tmp_path / "rows.json"), workspace=str(tmp_path), batch_size=2, max_steps=1, device="cpu",
        eval_fraction=0, sample_steps=-1, max_length=64, lora_r=2, dtype="float32",
    )  # fmt: skip
    with pytest.raises(WorkbenchError, match="code of its own, which is run only if the option `trust` names"):
        train(config, progress=False)
    assert not seen.exists()
    run = train(config.replace(trust=(name,)), progress=False)
    assert seen.exists() and run.config().trusted
    merged = load_file(export(run, "merged") / "model.safetensors")
    assert merged.keys() == tiny_model().state_dict().keys()


def test_check_and_doctor_run_a_model_s_code_only_if_it_is_named(folder, tmp_path, monkeypatch):
    """A tokenizer and a config that are code: refused in a sentence, and used where the owner names the model."""
    seen = tmp_path / "seen"
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, PreTrainedTokenizerFast\n"
        f"open({str(seen)!r}, 'a').close()\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    change(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    change(
        folder / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]},
    )  # fmt: skip
    rows = [{"prompt": "the cat", "completion": f"sat {n}", "label": n < 2} for n in range(4)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    for trusted in ([], ["another"]):
        with pytest.raises(WorkbenchError, match="code of its own"):
            check(tmp_path / "rows.json", model=str(folder), trust=trusted)
    assert not looked_at("model", Subject(tmp_path, str(folder))).ok and not seen.exists()
    assert check(tmp_path / "rows.json", model=str(folder), trust=[str(folder)]).tokens.rows == 4
    assert seen.exists()
    seen.unlink()
    command = [sys.executable, "-m", "kto_workbench", "doctor", "--model", str(folder), "--trust", str(folder)]
    asked = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "fresh")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=asked)
    assert seen.exists() and "own, " in done.stdout and "code of its own" not in done.stdout, done.stdout


def test_a_visitor_of_the_page_can_t_trust_a_model():
    shown = {*fields.names(basic=True), *fields.names(basic=False)}
    assert shown == options().keys() - {"data", "mapping", "workspace", "trust"}


def test_pickled_adapters_are_refused(tmp_path, witness):
    adapted = tiny_lora()
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    torch.save({"evil": Pickled(witness[0])}, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(WorkbenchError, match="There is no adapter"):
        load_adapter(tiny_model(), tmp_path / "adapter")


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}, "task_type": None},
        {"peft_type": "XLORA", "adapters": {"0": "/nowhere"}},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2**40},
        {"peft_type": "nonsense"},
        {"target_modules": "(evil"},
        {"r": -1},
        {"r": 2**40},
        {"base_model_name_or_path": "/nowhere/evil", "revision": "../.."},
        {"unknown_field_of_another_version": 1},
        {"modules_to_save": ["evil"]},
        {"init_lora_weights": "nonsense"},
    ],
)
def test_a_hostile_adapter_config_runs_no_code_and_ends_in_a_sentence(tmp_path, witness, fields, monkeypatch):
    (tmp_path / "evil.py").write_text(witness[1])
    monkeypatch.syspath_prepend(tmp_path)
    tiny_lora().save_pretrained(tmp_path / "adapter")
    change(tmp_path / "adapter" / "adapter_config.json", **fields)
    try:
        load_adapter(tiny_model(), tmp_path / "adapter")
    except WorkbenchError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
    assert "evil" not in sys.modules


def test_a_template_reaches_nothing_but_its_messages(folder, witness):
    tokenizer = tiny_tokenizer()
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    tokenizer.chat_template = escape
    tokenizer.save_pretrained(folder)
    loaded = load_tokenizer(str(folder))
    with pytest.raises(Exception, match="unsafe|access"):  # jinja's sandbox
        loaded.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


def test_this_test_has_power(tmp_path, witness):
    """The pickle would have run, had anybody unpickled it."""
    torch.save({"evil": Pickled(tmp_path / "seen")}, tmp_path / "evil.bin")
    torch.load(tmp_path / "evil.bin", weights_only=False)
    assert os.path.exists(tmp_path / "seen")
