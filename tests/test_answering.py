"""The child process that answers: warm, repeatable, and no worse for being killed or left half-way."""

import os
import shutil
import signal
import threading

import pytest
import torch

from kto_workbench import KTOConfig
from kto_workbench.errors import WorkbenchError
from kto_workbench.feedback.rendering import load_tokenizer, model_path
from kto_workbench.feedback.templates import render_prompt
from kto_workbench.runs.answering import Answerer
from kto_workbench.runs.directory import Run, new_run

PROMPTS = ["How many legs does a hedgehog have?", "Where do I find the kettle?"]
SETTINGS = dict(seed=3, temperature=0.7, max_new_tokens=24)


@pytest.fixture(scope="module")
def answerer(tmp_path_factory):
    answerer = Answerer(tmp_path_factory.mktemp("answering"))
    yield answerer
    answerer.close()


def final(events):
    """{side: [answer to each prompt]} of what was streamed; each text grows from the one before."""
    growing, done = {}, {}
    for event in events:
        key = (event["side"], event["prompt"])
        assert event["text"].startswith(growing.get(key, "").rstrip("\ufffd")) and key not in done
        growing[key] = event["text"]
        if event["done"]:
            done[key] = event["text"]
    sides = {side for side, _ in done}
    return {side: [text for (s, _), text in sorted(done.items()) if s == side] for side in sides}


def test_both_sides_answer_and_the_same_seed_gives_the_same_text(answerer, trained):
    first = final(answerer.stream(trained.path, PROMPTS, **SETTINGS))
    assert {side: len(answers) for side, answers in first.items()} == {"reference": 2, "tuned": 2}
    assert all(text for answers in first.values() for text in answers) and answerer.warm
    child = answerer._child.pid
    assert final(answerer.stream(trained.path, PROMPTS, **SETTINGS)) == first
    assert final(answerer.stream(trained.path, PROMPTS, **{**SETTINGS, "seed": 4})) != first
    assert answerer._child.pid == child  # the model was loaded once


def test_one_side_alone_is_the_same_as_beside_the_other(answerer, trained):
    both = final(answerer.stream(trained.path, PROMPTS, **SETTINGS))
    for side in ("tuned", "reference"):
        assert final(answerer.stream(trained.path, PROMPTS, **SETTINGS, sides=[side])) == {side: both[side]}


def test_the_reference_is_the_base_model_itself(answerer, trained):
    from transformers import AutoModelForCausalLM

    greedy = {**SETTINGS, "temperature": 0}
    answers = final(answerer.stream(trained.path, PROMPTS, **greedy))
    tokenizer = load_tokenizer("demo")
    model = AutoModelForCausalLM.from_pretrained(model_path("demo")).eval()
    for prompt, answer in zip(PROMPTS, answers["reference"], strict=True):
        ids = tokenizer(render_prompt(tokenizer, prompt), add_special_tokens=False, return_tensors="pt")["input_ids"]
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)
        assert answer == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_a_system_prompt_goes_before_those_that_have_none(answerer, trained):
    system = {"role": "system", "content": "You answer the questions of the villagers."}
    asked = [system, {"role": "user", "content": PROMPTS[0]}]
    by_hand = final(answerer.stream(trained.path, [asked], **SETTINGS))
    assert final(answerer.stream(trained.path, PROMPTS[:1], **SETTINGS, system=system["content"])) == by_hand
    assert final(answerer.stream(trained.path, [asked], **SETTINGS, system="Something else.")) == by_hand


def test_a_run_without_an_adapter_is_one_sentence_and_the_child_lives_on(answerer, trained, tmp_path):
    run = new_run(KTOConfig(workspace=str(tmp_path)), {})
    before = final(answerer.stream(trained.path, PROMPTS, **SETTINGS))
    child = answerer._child.pid
    with pytest.raises(WorkbenchError, match=f"^Run {run.id} has no adapter yet; it is queued.$"):
        list(answerer.stream(run.path, PROMPTS, **SETTINGS))
    with pytest.raises(WorkbenchError, match="^There is no run in"):
        list(answerer.stream(tmp_path / "nowhere", PROMPTS, **SETTINGS))
    assert final(answerer.stream(trained.path, PROMPTS, **SETTINGS)) == before and answerer._child.pid == child


def test_many_adapters_take_turns_on_one_base(answerer, trained, tmp_path):
    # More than are kept warm; the second half of them have their adapter negated, so answers must differ.
    from safetensors.torch import load_file, save_file

    expected = final(answerer.stream(trained.path, PROMPTS, **SETTINGS))
    runs = []
    for i in range(6):
        path = tmp_path / "runs" / f"copy-{i}"
        shutil.copytree(trained.path, path, ignore=shutil.ignore_patterns("checkpoints"))
        if i >= 3:
            weights = load_file(path / "adapter" / "adapter_model.safetensors")
            strong = {name: w * -20 if "lora_B" in name else w for name, w in weights.items()}
            save_file(strong, path / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
        runs.append(Run(path))
    for i in (0, 1, 2, 3, 4, 5, 0, 3):
        answers = final(answerer.stream(runs[i].path, PROMPTS, **SETTINGS))
        assert answers["reference"] == expected["reference"]
        assert (answers["tuned"] == expected["tuned"]) == (i < 3), i


def test_whoever_stops_listening_half_way_leaves_nothing_to_the_next(answerer, trained):
    expected = final(answerer.stream(trained.path, PROMPTS, **SETTINGS))
    stream = answerer.stream(trained.path, ["Tell me about pears."], **{**SETTINGS, "max_new_tokens": 200})
    assert next(stream)["text"] is not None
    stream.close()
    assert final(answerer.stream(trained.path, PROMPTS, **SETTINGS)) == expected


def test_a_killed_child_is_one_sentence_and_the_next_request_works(answerer, trained):
    expected = final(answerer.stream(trained.path, PROMPTS, **SETTINGS))
    stream = answerer.stream(trained.path, PROMPTS * 8, **{**SETTINGS, "max_new_tokens": 400})
    next(stream)
    os.kill(answerer._child.pid, signal.SIGKILL)
    with pytest.raises(WorkbenchError) as caught:
        list(stream)
    log = answerer.workspace / "answering.log"
    assert str(caught.value) == (
        f"The process that answers has died; the end of {log} says more. Ask again to start a new one."
    )
    assert not answerer.warm
    assert final(answerer.stream(trained.path, PROMPTS, **SETTINGS)) == expected


def test_a_workspace_that_can_not_be_written_is_one_sentence(trained, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkbenchError, match="^Can't write to the workspace .*/file: File exists.$"):
        next(Answerer(tmp_path / "file").stream(trained.path, PROMPTS, **SETTINGS))


@pytest.mark.reliability("A hung answering process holds nobody up")
def test_a_child_that_hangs_is_ended_and_holds_nobody_up(answerer, trained, monkeypatch):
    from kto_workbench.runs import answering

    expected = final(answerer.stream(trained.path, PROMPTS, **SETTINGS))
    monkeypatch.setattr(answering, "SILENT_SECONDS", 4.0)
    stream = answerer.stream(trained.path, PROMPTS * 8, **{**SETTINGS, "max_new_tokens": 400})
    next(stream)
    os.kill(answerer._child.pid, signal.SIGSTOP)
    later = []
    other = threading.Thread(target=lambda: later.append(final(answerer.stream(trained.path, PROMPTS, **SETTINGS))))
    other.start()  # waits for its turn, and gets it
    with pytest.raises(WorkbenchError, match="^The process that answers did not answer any more and was ended."):
        list(stream)
    other.join(120)
    assert later == [expected]


@pytest.mark.reliability("A hung answering process holds nobody up")
def test_a_hung_child_is_unloaded_at_once(answerer, trained):
    stream = answerer.stream(trained.path, PROMPTS * 8, **{**SETTINGS, "max_new_tokens": 400})
    next(stream)
    os.kill(answerer._child.pid, signal.SIGSTOP)
    told = []

    def listen():
        try:
            list(stream)
        except WorkbenchError as error:
            told.append(str(error))

    listener = threading.Thread(target=listen)
    listener.start()
    answerer.close()  # as Unload does, and the server at its end; it used to wait for the answer
    listener.join(20)
    assert not answerer.warm and len(told) == 1 and "has died" in told[0]
