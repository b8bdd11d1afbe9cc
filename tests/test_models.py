"""Which models are taken, which refused in a sentence, and what a row is worth beyond a rotary limit."""

import json
import shutil

import pytest
import torch
from family_check import CPU, close, oracle_logps, oracle_model
from safetensors.torch import load_file, save_file
from tiny_families import tiny_family
from tiny_models import VOCABULARY, tiny_lora, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

from kto_workbench import KTOConfig, train
from kto_workbench.engine.attention import NAME
from kto_workbench.engine.batches import Pair
from kto_workbench.engine.models import check_tokens, load_model, longest_row
from kto_workbench.engine.scoring import LonelyScorer, PackedScorer, PaddedScorer, make_scorer
from kto_workbench.errors import ModelError


def load(folder):
    return load_model(str(folder), device=CPU, dtype=torch.float32)


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_without_some_weights_is_refused_by_their_names(folder):
    weights = load_file(folder / "model.safetensors")
    left = {name: tensor for name, tensor in weights.items() if not name.startswith("model.layers.1.mlp")}
    save_file(left, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack weights.*model\.layers\.1\.mlp\.down_proj\.weight"):
        load(folder)


def test_a_folder_with_a_layer_too_many_in_its_config_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(ModelError, match=r"lack weights.*model\.layers\.3\..* and \d+ more"):
        load(folder)


def test_tied_weights_are_not_missing(tmp_path):
    tiny_model("llama-tied").save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    load(tmp_path)


def test_a_tokenizer_of_a_larger_model_is_refused(folder):
    tokenizer = tiny_tokenizer()
    check_tokens(load(folder), tokenizer)
    tokenizer.add_tokens(["<|thought|>"] + [f"<|{i}|>" for i in range(VOCABULARY)])
    with pytest.raises(ModelError, match=r"no embedding for, such as '<\|"):
        check_tokens(load(folder), tokenizer)


@pytest.mark.parametrize("kind, longest", [("llama", None), ("gpt2", 256), ("gemma2", None)])
def test_positions_in_a_table_end_somewhere(kind, longest):
    model = tiny_model(kind)
    assert longest_row(model) == longest
    ids = torch.arange(257)[None] % VOCABULARY
    if longest is None:
        model(input_ids=ids)
    else:
        with pytest.raises(IndexError):
            model(input_ids=ids)


def test_a_run_cuts_rows_at_the_model_s_positions_and_says_so(tmp_path, caplog):
    tiny_model("gpt2").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"prompt": "the cat " * 200, "completion": "good " * (5 + i), "label": i % 2 == 0} for i in range(6)]
    (tmp_path / "thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = KTOConfig(
        model=str(tmp_path / "model"), data=str(tmp_path / "thumbs.jsonl"), workspace=str(tmp_path / "workspace"),
        batch_size=2, max_steps=1, eval_fraction=0, sample_steps=-1, device="cpu", max_length=2048,
    )  # fmt: skip
    run = train(config, progress=False)
    assert "positions for 256 tokens, so max_length is lowered" in caplog.text
    assert run.metrics()


def test_a_family_that_can_be_trained_and_not_asked_is_trained(tmp_path, caplog):
    tiny_family("blt").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"prompt": "the cat", "completion": f"sat {n}", "label": n < 2} for n in range(4)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    config = KTOConfig(
        model=str(tmp_path / "model"), data=str(tmp_path / "rows.json"), workspace=str(tmp_path), batch_size=2,
        max_steps=1, eval_fraction=0, device="cpu", max_length=64, lora_r=2,
    )  # fmt: skip
    run = train(config, progress=False)
    assert "can't answer, so it is not watched" in caplog.text
    assert run.status().state == "finished" and run.metrics() and not run.samples()


def test_a_later_token_must_change_nothing_before_it():
    model = tiny_model("llama")
    for layer in model.model.layers:
        # As a model that looks both ways would: a mask that hides nothing.
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "attention_mask": torch.zeros(1, 1, 1, 1)}), with_kwargs=True
        )
    with pytest.raises(ModelError, match="no causal language model"):
        make_scorer(model)


def test_a_model_that_draws_by_chance_is_refused():
    model = tiny_model("llama")
    model.model.norm.register_forward_hook(lambda module, args, output: output + 0.1 * torch.randn_like(output))
    with pytest.raises(ModelError, match="another score each time"):
        make_scorer(model)


@pytest.mark.parametrize("adapted", [False, True])
def test_weights_that_are_no_numbers_are_named(adapted):
    model = tiny_lora("llama") if adapted else tiny_model("llama")
    with torch.no_grad():
        model.get_parameter(next(n for n, _ in model.named_parameters() if "layers.1.mlp.up" in n))[3, 4] = torch.nan
    with pytest.raises(ModelError, match=r"hold NaN or infinity, first in model\.layers\.1\.mlp\.up_proj\.weight\.$"):
        make_scorer(model)
    sound = tiny_model("llama")
    sound.model.norm.register_forward_hook(lambda module, args, output: output * torch.inf)
    with pytest.raises(ModelError, match="its log-probabilities are no numbers"):
        make_scorer(sound)


def test_an_argument_that_attention_does_not_know_leads_the_plain_way_and_is_named(caplog):
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "strange_bias": torch.ones(1)}), with_kwargs=True
        )
    scorer = make_scorer(model)
    assert type(scorer) is PaddedScorer and model.config._attn_implementation == "sdpa"
    assert "padded, which is slower: its attention takes strange_bias" in caplog.text


def test_a_state_across_rows_is_padded_and_a_state_across_columns_goes_one_by_one(caplog):
    def carry(module, args, output):
        # What a token gets is a sum over all before it: in a packed pass of the neighbour's too.
        return output + 0.1 * output.cumsum(1)

    model = tiny_model("llama")
    model.model.norm.register_forward_hook(carry)
    assert type(make_scorer(model)) is PaddedScorer and "with another neighbour" in caplog.text
    caplog.clear()
    model = tiny_model("llama")
    model.model.norm.register_forward_hook(lambda module, args, output: output + 0.1 * output.shape[1])
    # The width of the batch is a fact about the neighbours too.
    assert type(make_scorer(model)) is LonelyScorer and "scored one by one" in caplog.text


def test_a_packed_backward_that_fails_leads_the_plain_way(caplog):
    model = tiny_lora("llama")

    def fail(grad):
        raise RuntimeError("no backward here")

    def hook(module, args, output):
        if model.config._attn_implementation == NAME and output.requires_grad:
            output.register_hook(fail)

    model.get_base_model().model.layers[1].mlp.register_forward_hook(hook)
    assert type(make_scorer(model)) is PaddedScorer
    assert "no backward here" in caplog.text


def long_rope(tmp_path, kind):
    """A tiny model whose rotary frequencies change when a row is longer than 32 tokens."""
    ropes = {
        "longrope": {
            "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32,
            "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0], "factor": 4.0,
        },
        "dynamic": {
            "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
        },
    }  # fmt: skip
    original = {"original_max_position_embeddings": 32} if kind == "longrope" else {}
    config = (Phi3Config if kind == "longrope" else LlamaConfig)(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        max_position_embeddings=128 if kind == "longrope" else 32, rope_parameters=ropes[kind], **original,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    shutil.rmtree(tmp_path / kind, ignore_errors=True)
    model.save_pretrained(tmp_path / kind)
    return tmp_path / kind


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_row_is_worth_the_same_beside_rows_on_the_other_side_of_a_rotary_limit(tmp_path, kind):
    folder = long_rope(tmp_path, kind)
    draw = torch.Generator().manual_seed(5)
    ids = lambda n: tuple(torch.randint(5, 60, (n,), generator=draw).tolist())
    short, other, long, longer = (Pair(ids(n), ids(4)) for n in (6, 9, 35, 50))
    crossing = Pair(short.prompt_ids, ids(30))  # the prompt of a short row, and a completion that goes over the limit
    want = {p: oracle_logps(oracle_model(folder), [p]).item() for p in (short, other, long, longer, crossing)}
    # The limit is real: whole rows in one padded batch of transformers' own would give the short one another value.
    both = torch.tensor([short.prompt_ids + short.completion_ids + (0,) * 29, long.prompt_ids + long.completion_ids])
    mixed = oracle_model(folder)(input_ids=both, attention_mask=(both > 0).long()).logits[0].log_softmax(-1)
    beside_long = sum(mixed[5 + t, token].item() for t, token in enumerate(short.completion_ids))
    assert abs(beside_long - want[short]) > 1e-2

    scorer = make_scorer(load(folder))
    assert type(scorer) is PackedScorer
    for rows in (
        [short, other],
        [short, long],
        [long, longer, short],
        [short, crossing],
        [longer, other],
        [longer, long],
        [crossing],
    ):
        with torch.no_grad():
            close(scorer.score(rows).logps, torch.tensor([want[row] for row in rows]), "rows beside each other")
    for on in (True, False):
        with torch.set_grad_enabled(on):
            scores, kl_logps = scorer.score_both(
                [short, other], [crossing, Pair(other.prompt_ids, short.completion_ids)]
            )
        close(scores.logps.detach(), torch.tensor([want[short], want[other]]), "a short row")
        close(kl_logps[:1], torch.tensor([want[crossing]]), "what goes on from a short prompt over the limit")
