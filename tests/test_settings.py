"""Settings that follow from the model's files, with reasons; and what somebody has set stays."""

import json
import struct

import numpy as np
import pytest
from browser import (
    browser,  # noqa: F401
    go_to,
    needs_browser,
    open_page,  # noqa: F401
    wait_for,
    workbench,  # noqa: F401
)
from conftest import only_json
from tiny_models import tiny_model, tiny_tokenizer

from kto_workbench.runs import settings
from kto_workbench.runs.settings import about_model, suggest_settings

GIGA = 10**9


def a_model(folder, name, hidden, layers, vocabulary=32_000, **more):
    """A model's files, of its weights the header alone: a llama whose parameters can be counted by hand."""
    path = folder / name
    path.mkdir()
    config = {
        "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 16,
        "intermediate_size": 4 * hidden, "vocab_size": vocabulary, "max_position_embeddings": 4096,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps({**config, **more}))
    layer = {"q": [hidden, hidden], "k": [hidden, hidden], "v": [hidden, hidden], "o": [hidden, hidden]}
    layer |= {"gate": [4 * hidden, hidden], "up": [4 * hidden, hidden], "down": [hidden, 4 * hidden]}
    shapes = {f"layers.{i}.{name}": shape for i in range(layers) for name, shape in layer.items()}
    shapes |= {"embed": [vocabulary, hidden], "head": [vocabulary, hidden]}
    for number, part in enumerate((list(shapes)[::2], list(shapes)[1::2])):  # in two files
        header = {name: {"dtype": "BF16", "shape": shapes[name], "data_offsets": [0, 0]} for name in part}
        text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
        (path / f"model-{number}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def of(found, option):
    return next((one for one in found if one.option == option), None)


@pytest.fixture
def gpu(monkeypatch):
    """A card with so much memory free, as its driver would say."""
    return lambda free: monkeypatch.setattr(settings, "ask_driver", lambda *_: [[str(int(free / 2**20))]])


def test_a_models_size_is_counted_in_the_headers_of_its_files(tmp_path):
    found = about_model(str(a_model(tmp_path, "m", 1024, 10)))
    # 10 layers of 4 · 1024² + 3 · 4 · 1024², and 2 · 32 000 · 1024 of embedding and head
    assert found.parameters == 10 * 16 * 1024**2 + 2 * 32_000 * 1024 == 233_308_160
    assert (found.longest, found.sign) == (4096, "")
    (tmp_path / "m" / "model-0.safetensors").write_bytes(b"\xff" * 20)  # damaged: counted as far as it can be
    assert 0 < about_model(str(tmp_path / "m")).parameters < found.parameters


@pytest.mark.parametrize(
    ("name", "more", "sign"),
    [
        ("Tiny-0.2B-Instruct", {}, "name"),
        ("tiny-it", {}, "name"),
        ("tiny", {"README.md": "---\ntags:\n- llama\n- conversational\n---\n# Tiny"}, "card"),
        ("tiny", {"chat_template.jinja": "{{ messages }}"}, "template"),
        ("tiny", {"tokenizer_config.json": '{"chat_template": "{{ messages }}"}'}, "template"),
        ("tiny-base", {"chat_template.jinja": "{{ messages }}"}, ""),  # its name says what it is
        ("tiny", {"README.md": "# Not - chat at all\n- conversational"}, ""),
        ("tiny", {}, ""),
    ],
)
def test_whether_a_model_was_tuned_for_chat_is_read_from_name_card_and_template(tmp_path, name, more, sign):
    path = a_model(tmp_path, name, 64, 2)
    for file, text in more.items():
        (path / file).write_text(text)
    assert about_model(str(path)).sign == sign
    beta = of(suggest_settings(str(path)), "beta")
    assert beta.value == (0.1 if sign else 0.5)  # small: 0.1 to 1 without chat tuning, up to 0.1 with it
    assert "KTO paper" in beta.text and ("tuned for chat" in beta.text)


def test_each_setting_follows_from_what_it_should(tmp_path, gpu):
    small, large = str(a_model(tmp_path, "small", 1024, 10)), str(a_model(tmp_path, "large-chat", 4096, 32))
    gpu(80 * GIGA)
    # 32 · 16 · 4096² + 2 · 32 000 · 4096 = 8.9 billion
    found = suggest_settings(large, lengths=np.array([100] * 99 + [3000]))
    assert of(found, "beta").value == 0.05 and "8.9 billion" in of(found, "beta").text
    assert (
        of(found, "learning_rate").value == 5e-5 and of(suggest_settings(large, "full"), "learning_rate").value == 5e-6
    )
    # 99 % of the rows have at most 100 + 1 % of the way to 3000: 129 → the next multiple of 64
    assert of(found, "max_length").value == 192 and "99% of the rows" in of(found, "max_length").text
    assert of(suggest_settings(large, lengths=np.array([9000] * 10)), "max_length").value == 4096  # what it can read
    assert of(found, "load_in_4bit").value is False and of(found, "lora_r").value == 16
    gpu(14 * GIGA)  # 8.9 billion weights of two bytes are 17.9 GB; in 4 bits 4.6 and the embedding's 0.5
    found = suggest_settings(large, lengths=np.array([100] * 100))
    assert of(found, "load_in_4bit").value is True and "14 GB are free" in of(found, "load_in_4bit").text
    gpu(3 * GIGA)
    assert of(suggest_settings(large, lengths=np.array([100] * 100)), "lora_r").value == 8
    assert of(suggest_settings(small, lengths=np.array([100] * 100)), "load_in_4bit").value is False
    assert not of(suggest_settings("nobody/knows-this"), "beta")  # nothing is known: nothing is said
    assert of(suggest_settings("nobody/knows-this-Instruct"), "beta").value == 0.1


def test_kto_train_suggest_prints_them_with_reasons(kto, small_data):
    told = only_json(kto("train", small_data, "--suggest", "--json"))
    assert {one["option"]: one["value"] for one in told["suggested"]}["beta"] == 1.0
    assert "--beta" in kto("train", small_data, "--suggest").stdout


@needs_browser
def test_choosing_a_model_fills_in_what_nobody_has_set(workbench, open_page, tmp_path):  # noqa: F811
    model = tmp_path / "tiny-Instruct"
    tiny_model().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    page = open_page(workbench.url + "/#train")
    go_to(page, "Train")
    value = lambda name: page.locator(f"#train-{name} input").input_value()
    page.locator("#train-lora-r input").fill("5")  # by hand
    page.locator("#train-lora-r input").press("Tab")
    page.locator("#train-model input").fill(str(model))
    page.locator("#train-model input").press("Enter")
    wait_for(lambda: value("beta") == "0.1", 30, lambda: value("beta"))
    assert value("lora-r") == "5" and value("learning-rate") == "0.00005"
    why = page.locator("#train-why")
    assert "tuned for chat (name)" in why.inner_text() or "tuned for chat (name)" in why.text_content()
    page.locator("#train-beta input").fill("0.3")
    page.locator("#train-beta input").press("Tab")
    page.locator("#train-model input").fill("demo")
    page.locator("#train-model input").press("Enter")
    wait_for(lambda: value("learning-rate") == "0.0015", 30)
    assert value("beta") == "0.3" and value("lora-r") == "5"
