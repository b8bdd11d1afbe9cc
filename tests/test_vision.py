"""Models that see: scored, trained and asked as transformers and TRL have it, on tiny models with random weights.

The oracle is a family's own model with eager attention in eval mode, a row at a time, given what its own processor
makes of the whole rendered row: prompt, answer and end together.
"""

import functools
import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from PIL import Image
from test_step import make_config, run_step
from tiny_models import tiny_model
from tiny_vision import FAMILIES, picture, png, tiny_vision
from transformers import AutoModelForImageTextToText, GenerationConfig
from trl import KTOConfig as TrlConfig
from trl import KTOTrainer as TrlTrainer

from kto_workbench import KTOConfig, compare, train
from kto_workbench.engine.batches import Batch, Pair, mismatched_pair
from kto_workbench.engine.examples import Examples
from kto_workbench.engine.generation import generate
from kto_workbench.engine.memory import peak_bytes
from kto_workbench.engine.models import (
    adapter_off,
    add_lora,
    base_of,
    checkpoint_activations,
    load_model,
    make_trainable,
)
from kto_workbench.engine.preparation import prepare
from kto_workbench.engine.reference import ReferenceCache, pair_key
from kto_workbench.engine.scoring import make_scorer
from kto_workbench.engine.step import kto_step
from kto_workbench.engine.vision import besides_language
from kto_workbench.errors import DataError, ModelError
from kto_workbench.feedback import Row, check, load_feedback
from kto_workbench.feedback.images import Images, keys_in
from kto_workbench.feedback.rendering import encode, encode_rows, load_tokenizer
from kto_workbench.feedback.rows import Problem
from kto_workbench.runs.memory import ModelShape, Tokens, estimate_memory

CPU = torch.device("cpu")
SIZES = ((1, 20, 14), (2, 30, 30), (3, 40, 12))  # seeds, widths and heights of pictures
# Which pictures a prompt has, what it says, and the answer.
SAID = [((0,), "what is it", "the cat sat"), ((1,), "what is it", "a dog"), ((), "the red mat", "yes it is good")]
SAID += [((0, 2), "who is this", "no"), ((0,), "what is it", "a blue mat")]


class World:
    """A family's folder, our tokenizer with its eyes, pictures, and rows."""

    def __init__(self, family, path, wide=1):
        self.folder = path / "model"
        self.processor = tiny_vision(family, self.folder, wide=wide)
        self.images = Images(path / "workspace")
        self.keys = [self.images.add(png(*size), None, "image") for size in SIZES]
        self.tokenizer = load_tokenizer(str(self.folder), self.images)
        self.rows = [Row(self.prompt(pictures, text), answer, True) for pictures, text, answer in SAID]

    def prompt(self, pictures, text):
        if not pictures:
            return text
        blocks = [{"type": "image", "image": self.keys[number]} for number in pictures]
        return [{"role": "user", "content": [*blocks, {"type": "text", "text": text}]}]

    def pairs(self):
        encoded = encode_rows(self.tokenizer, self.rows, 128)
        return [Pair(one.prompt_ids, one.completion_ids, one.look) for one in encoded]

    def model(self, **options):
        """Our model with an adapter of which no factor is zero."""
        base = load_model(str(self.folder), device=CPU, dtype=torch.float32)
        model = add_lora(base, KTOConfig(model=str(self.folder), lora_r=2, lora_alpha=4, **options))
        draw = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
        return model

    def oracle(self, model):
        """The family's own model with the same adapter."""
        twin = AutoModelForImageTextToText.from_pretrained(self.folder, attn_implementation="eager")
        twin = get_peft_model(twin, model.peft_config["default"]).eval()
        values = dict(model.named_parameters())
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(values[name])
        return twin

    def whole(self, pictures, text, answer):
        """What the family's processor makes of a row, and how many of its tokens are the answer's."""
        blocks = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": text}]
        asked = [{"role": "user", "content": blocks}]
        rendered = self.processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        end = f"{answer}<|end|>"
        images = [[picture(*SIZES[number]) for number in pictures]] if pictures else None
        given = self.processor(text=[rendered + end], images=images, return_tensors="pt", add_special_tokens=False)
        return given, len(self.processor.tokenizer(end, add_special_tokens=False)["input_ids"])

    def says(self, twin, row):
        """[n, V] log-probabilities where a row's answer is predicted, and the [n] tokens that it has."""
        given, n = self.whole(*row)
        logits = twin(**given, use_cache=False).logits[0, -n - 1 : -1].float()
        return logits.log_softmax(-1), given["input_ids"][0, -n:]

    def logps(self, twin, rows):
        said = [self.says(twin, row) for row in rows]
        return torch.stack([spread.gather(-1, ids[:, None]).sum() for spread, ids in said])

    @torch.no_grad()
    def entropies(self, twin, rows):
        said = [self.says(twin, row)[0] for row in rows]
        return torch.stack([-(spread.exp() * spread).sum() for spread in said])


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    made = {}

    def world(family):
        if family not in made:
            made[family] = World(family, tmp_path_factory.mktemp(family))
        return made[family]

    return world


def tuned_scorer(world):
    model, pairs = world.model(), world.pairs()
    return model, pairs, make_scorer(model, sight=world.tokenizer.sight, prompts=[p for p in pairs if p.look][:3])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_scored_and_learns_as_its_own_model_says_row_by_row(family, worlds, caplog):
    world = worlds(family)
    model, pairs, scorer = tuned_scorer(world)
    assert scorer.name == "padded" and "rows with images are not packed" in caplog.text
    # Each prompt keeps its pictures; the completions move on by one.
    mixed = [(*row[:2], other[2]) for row, other in zip(SAID, SAID[1:] + SAID[:1], strict=True)]
    others = pairs[1:] + pairs[:1]
    kl = [mismatched_pair(a.prompt_ids, b.completion_ids, 128, a.look) for a, b in zip(pairs, others, strict=True)]
    scores, kl_logps = scorer.score_both(pairs, kl)
    twin = world.oracle(model)
    want = world.logps(twin, SAID)
    torch.testing.assert_close(scores.logps, want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kl_logps, world.logps(twin, mixed).detach(), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        tokens = torch.stack([scorer.score_tokens(pair).sum() for pair in pairs])
        torch.testing.assert_close(tokens, want.detach(), rtol=1e-4, atol=1e-4)
        with adapter_off(model), twin.disable_adapter():
            reference, own = scorer.score(pairs).logps, world.logps(twin, SAID)
    torch.testing.assert_close(reference, own, rtol=1e-4, atol=1e-4)
    assert (want - own).abs().min() > 1e-3, "the adapter does something"
    with torch.no_grad():
        entropy = scorer.score(pairs, entropy=True).entropy
    torch.testing.assert_close(entropy, world.entropies(twin, SAID), rtol=1e-4, atol=1e-4)

    factors = torch.linspace(-1, 2, len(pairs))
    for values in (scores.logps, want):
        (values * factors).sum().backward()
    ours = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    theirs = {name: p.grad for name, p in twin.named_parameters() if p.requires_grad}
    assert ours.keys() == theirs.keys() and len(ours) == 28  # A and B of seven matrices in two layers of language
    assert not [name for name in ours if "vision" in name or "visual" in name or "projector" in name]
    largest = max(gradient.norm() for gradient in theirs.values())
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-3 * max(gradient.norm(), 1e-2 * largest), name


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "gemma3"])
def test_a_step_is_trls_on_the_same_images(family, worlds, tmp_path):
    world = worlds(family)
    said, labels = [row for row in SAID if row[0]], [True, False, False, True]
    rows = [
        {
            "images": [picture(*SIZES[number]) for number in pictures],
            "prompt": [{"role": "user", "content": text}],
            "completion": [{"role": "assistant", "content": answer}],
            "label": up,
        }
        for (pictures, text, answer), up in zip(said, labels, strict=True)
    ]
    config = TrlConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, beta=0.3, max_length=None, report_to="none",
        use_cpu=True, bf16=False, activation_checkpointing=False, desirable_weight=1.2, undesirable_weight=0.8,
    )  # fmt: skip
    model = world.model()
    trainer = TrlTrainer(
        model=AutoModelForImageTextToText.from_pretrained(world.folder, attn_implementation="eager"),
        args=config,
        # TRL pairs x_i with y_(i−1), we with y_(i+1): reversed rows make them the same pairs.
        train_dataset=Dataset.from_list(rows[::-1]),
        processing_class=world.processor,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=model.peft_config["default"].target_modules,
            exclude_modules=model.peft_config["default"].exclude_modules,
        ),
    )  # fmt: skip
    theirs = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                theirs.pop(name).copy_(parameter)
    assert not theirs, "the same adapter"
    trainer._metrics["train"].clear()
    collated = trainer.data_collator([dict(row) for row in rows[::-1]])
    loss = trainer.compute_loss(trainer.model, collated)
    loss.backward()
    their_gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
    log = {name: values[-1] for name, values in trainer._metrics["train"].items()}

    pairs = [pair for pair in world.pairs() if pair.look]
    for pair, ids, mask in zip(pairs[::-1], collated["input_ids"], collated["attention_mask"], strict=True):
        assert list(pair.prompt_ids + pair.completion_ids) == ids[mask.bool()].tolist()
    others = pairs[1:] + pairs[:1]
    kl = [mismatched_pair(a.prompt_ids, b.completion_ids, 128, a.look) for a, b in zip(pairs, others, strict=True)]
    scorer = make_scorer(model, sight=world.tokenizer.sight, prompts=pairs[:3])
    with torch.no_grad(), adapter_off(model):
        references = scorer.score(pairs).logps, scorer.score(kl).logps
    sums, gradient = run_step(model, Batch(pairs, kl, torch.tensor(labels), *references), make_config(), scorer=scorer)
    assert sums.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert (gradient - their_gradient).norm() <= 1e-4 * their_gradient.norm()
    assert sums.z0.item() == pytest.approx(float(log["kl"]), rel=1e-4, abs=1e-6)
    up = torch.tensor(labels)
    assert sums.logps[up].mean().item() == pytest.approx(float(log["logps/chosen"]), rel=1e-4)
    assert sums.rewards[~up].mean().item() == pytest.approx(float(log["rewards/rejected"]), rel=1e-4, abs=1e-6)


def test_a_rare_image_is_on_trial_all_the_same(worlds, tmp_path):
    world = worlds("llava")
    rows = [{"prompt": f"who {n}", "completion": "a cat", "label": n % 2 == 0} for n in range(250)]
    rows[117]["images"] = [png(*SIZES[0])]
    feedback = load_feedback(rows, workspace=tmp_path)
    tokenizer = load_tokenizer(str(world.folder), feedback.images)
    config = KTOConfig(model="m", data="rows", max_length=96)
    (found,) = prepare(feedback.rows, tokenizer, config, with_images=True).looking
    assert found.look.keys == keys_in(feedback.rows[117].prompt) and not found.completion_ids


def test_examples_keep_prompt_and_picture_together(worlds):
    world = worlds("llava")
    encode_some = lambda rows: encode_rows(world.tokenizer, rows, 128)
    partner = np.array([1, 2, 3, 4, 0])
    batch = Examples(world.rows, partner, encode_some, 128).batch(range(5))
    for own, mixed, other in zip(batch.pairs, batch.mismatched, batch.pairs[1:] + batch.pairs[:1], strict=True):
        assert (mixed.prompt_ids, mixed.look) == (own.prompt_ids, own.look)
        assert mixed.completion_ids == other.completion_ids
    first, second = batch.pairs[:2]
    assert first.prompt_ids == second.prompt_ids and first.look != second.look, "another picture, the same ids"


def test_the_cache_tells_pictures_apart_that_have_the_same_ids(worlds, tmp_path):
    first, second, *_, fifth = worlds("llava").pairs()
    one, other = Pair(first.prompt_ids, (7, 2), first.look), Pair(second.prompt_ids, (7, 2), second.look)
    blind = Pair(first.prompt_ids, (7, 2))
    assert len({pair_key(pair) for pair in (one, other, blind)}) == 3
    assert pair_key(Pair(fifth.prompt_ids, (7, 2), fifth.look)) == pair_key(one), "the same picture of another row"
    cache = ReferenceCache(tmp_path / "cache.sqlite")
    cache.add([one], [-1.5])
    np.testing.assert_array_equal(cache.look_up([one, other, blind]), np.float32([-1.5, np.nan, np.nan]))


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_the_familys_own_processor_and_model(family, worlds):
    world = worlds(family)
    model = world.model()
    twin = world.oracle(model)
    told = []
    answers = generate(
        model, world.tokenizer, [row.prompt for row in world.rows], temperature=0, max_new_tokens=6,
        on_tokens=told.append,
    )  # fmt: skip
    how = GenerationConfig(max_new_tokens=6, do_sample=False, use_cache=False, pad_token_id=0, eos_token_id=2)
    for (pictures, text, _), answer, pair in zip(SAID, answers, told, strict=True):
        given, n = world.whole(pictures, text, "")
        given = {
            name: value[:, :-n] if value.shape == given["input_ids"].shape else value for name, value in given.items()
        }
        ids = given["input_ids"].shape[1]
        with torch.no_grad():
            own = twin.generate(**given, generation_config=how)[0, ids:].tolist()
        want = own[: own.index(2)] if 2 in own else own
        assert answer == world.tokenizer.decode(want, skip_special_tokens=True).strip()
        assert list(pair.completion_ids) == (own[: own.index(2) + 1] if 2 in own else own)
        assert (pair.look is None) == (not pictures) and list(pair.prompt_ids) == given["input_ids"][0].tolist()


def note_graph(graphs, module, given, out):
    graphs.append(getattr(out, "requires_grad", False))


@pytest.mark.parametrize("family", ["qwen2_vl", "idefics3"])
def test_activations_made_again_give_the_same_gradients(family, worlds):
    found = []
    for again in (False, True):
        model, pairs, scorer = tuned_scorer(worlds(family))
        if again:
            checkpoint_activations(model)
        causal_lm, graphs = base_of(model), []
        for name in besides_language(causal_lm):
            causal_lm.get_submodule(name).register_forward_hook(functools.partial(note_graph, graphs))
        scorer.score(pairs).logps.sum().backward()
        assert graphs and not any(graphs)  # of what sees nothing is kept, nor made again
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    torch.testing.assert_close(*found)


def test_tuning_everything_leaves_what_sees_as_it_is(worlds):
    world = worlds("qwen2_vl")
    base = load_model(str(world.folder), device=CPU, dtype=torch.float32)
    model = make_trainable(base, KTOConfig(model=str(world.folder), tuning="full"))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and all(".visual." in name for name in frozen)
    assert not [name for name, p in model.named_parameters() if p.requires_grad and "visual" in name]
    assert besides_language(tiny_model("llama")) == []


def test_layers_named_alone_are_those_of_the_language_side(worlds):
    # CLIP's tower has layers of the same names.
    named = [
        name for name, _ in worlds("llava").model(lora_targets="q_proj,v_proj").named_parameters() if "lora" in name
    ]
    assert len(named) == 8 and all("language_model" in name for name in named)


def test_a_prompt_with_pictures_is_never_cut(worlds):
    world = worlds("llava")
    row = world.rows[0]
    whole = encode(world.tokenizer, row, 128)  # 22 tokens, of which 16 are the picture's, and 4 of the answer
    assert (len(whole.prompt_ids), len(whole.completion_ids)) == (22, 4)
    short = encode(world.tokenizer, Row(row.prompt, " ".join(["cat"] * 40), True), 32)
    assert short.prompt_ids == whole.prompt_ids and len(short) == 32 and short.completion_cut == 41 - 10
    (refused,) = encode_rows(world.tokenizer, [row], 24)
    assert refused.reason == (
        "a prompt takes 22 tokens with its images, which leaves its answer too few of 24; raise max_length"
    )


def test_a_text_that_names_an_image_which_is_not_there_is_left_out(worlds):
    world = worlds("llava")
    rows = [Row("what <image> is it", "a cat", True), Row("what is it", "an <image> yes", True)]
    rows += [Row(world.rows[0].prompt, "an <image>", True), Row(world.prompt((0,), "and <image>"), "a cat", True)]
    *strays, more = encode_rows(world.tokenizer, rows, 128)
    assert {one.reason for one in strays} == {"its text holds '<image>', which stands for an image that is not there"}
    assert isinstance(more, Problem) and more.reason.startswith("the model's processor refuses a prompt with images:")


def test_a_model_that_reads_no_images_says_so_by_row(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    row = {"prompt": "What is it?", "completion": "A cat.", "label": True}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in [row, row | {"image": "a.png"}, row | {"label": False}]))
    report = check(path, model="demo", workspace=tmp_path / "workspace")
    (refused,) = report.tokens.refused
    assert (refused.line, refused.reason) == (2, "this model reads no images")
    assert "1 of 3 rows can't be trained on: this model reads no images." in report.to_text()
    assert "images   in the prompts of 1 rows" in report.to_text()
    path.write_text("\n".join(json.dumps(row | {"image": "a.png", "label": up}) for up in (True, False)))
    config = KTOConfig(model="demo", data=str(path), workspace=str(tmp_path / "workspace"), max_steps=1)
    with pytest.raises(DataError, match="this model reads no images"):
        train(config, progress=False)


def test_an_estimate_counts_what_sees():
    # Layers of four square matrices and two of the feed-forward block, by the names that each family has for sizes, the
    # patches' embedding, and two matrices to the language side, which is 64 wide: CLIP's large tower
    # 24 · (4 · 1024² + 2 · 1024 · 4096) + 3 · 14² · 1024 + 1024² + 1024 · 64, and Qwen2-VL's, which joins four patches,
    # 32 · (4 · 1280² + 2 · 1280 · 4 · 1280) + 2 · 3 · 14² · 1280 + 5120² + 5120 · 64.
    text = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    clip = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 14}
    qwen = {"embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4, "depth": 32}
    qwen |= {"patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2}
    blind = estimate_memory(KTOConfig(model="m"), ModelShape.of(text))
    for vision, count in ((clip, 303_706_112), (qwen, 657_192_960)):
        shape = ModelShape.of({"text_config": text, "vision_config": vision})
        assert shape.vision.parameters == count
        assert estimate_memory(KTOConfig(model="m"), shape).weights == blind.weights + 4 * count


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("family", ["qwen2_vl", "llava"])
def test_an_estimate_is_near_what_a_step_with_images_takes(family, again, tmp_path):
    world = World(family, tmp_path, wide=8)
    rows = [Row(world.prompt([i % 3], "what is it"), "the cat sat on a red mat", i % 2 == 0) for i in range(6)]
    pairs = [Pair(one.prompt_ids, one.completion_ids, one.look) for one in encode_rows(world.tokenizer, rows, 128)]
    mismatched = [
        Pair(a.prompt_ids, b.completion_ids, a.look) for a, b in zip(pairs, pairs[1:] + pairs[:1], strict=True)
    ]
    config = make_config(lora_r=4, gradient_checkpointing=again)
    model = add_lora(load_model(str(world.folder), device=CPU, dtype=torch.float32), config)
    if again:
        checkpoint_activations(model)
    scorer = make_scorer(model, sight=world.tokenizer.sight, prompts=pairs[:2])
    batch = Batch(pairs, mismatched, torch.tensor([row.label for row in rows]), torch.zeros(6), torch.zeros(6))
    measured = peak_bytes(lambda: kto_step(scorer, batch, config, None, train=True), CPU)
    shape = ModelShape.of(json.loads((world.folder / "config.json").read_text()))
    _, looked = world.tokenizer.sight.numbers([pair.look for pair in pairs])
    longest, completion = max(map(len, pairs)), 6 * len(pairs[0].completion_ids)
    found = estimate_memory(
        config, shape, Tokens(6 * longest - completion, completion, longest, looked["pixel_values"].size)
    )
    assert found.training + found.gradients == pytest.approx(measured, rel=0.2)
    seen = sum(p.numel() for n, p in model.named_parameters() if "vis" in n or "projector" in n)
    assert shape.vision.parameters == pytest.approx(seen, rel=0.1)


def test_the_doctor_says_whether_a_model_sees(worlds, tmp_path):
    from kto_workbench.doctor.model import files
    from kto_workbench.doctor.results import Subject

    result = files(Subject(tmp_path, str(worlds("llava").folder)))
    assert result.figures["sees"] and "only its language side is trained" in result.said
    assert "sees" not in files(Subject(tmp_path, "demo")).figures
    mute = shutil.copytree(worlds("llava").folder, tmp_path / "mute")
    (mute / "processor_config.json").unlink()
    result = files(Subject(tmp_path, str(mute)))
    assert not result.figures["sees"] and "rows with images can't be trained on: this model's processor" in result.said


def test_an_image_that_changes_its_size_while_training_is_a_sentence(worlds, tmp_path):
    world = worlds("qwen2_vl")
    path = tmp_path / "a.png"
    path.write_bytes(png(*SIZES[0]))
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"prompt": "a", "completion": "b", "label": True, "image": "a.png"})
    )
    feedback = load_feedback(tmp_path / "rows.jsonl", workspace=world.images.path.parent.parent)
    encoded = encode(world.tokenizer, feedback.rows[0], 128)
    path.write_bytes(png(*SIZES[1]))
    with pytest.raises(ModelError, match="An image is another one than it was"):
        world.tokenizer.sight.numbers([encoded.look])


@pytest.fixture(scope="module")
def trained(worlds, tmp_path_factory):
    """A run of six rows with pictures and two without, beside their file, in a small model."""
    path = tmp_path_factory.mktemp("run")
    for seed in range(4):
        Image.Image.save(picture(seed, 20, 14), path / f"{seed}.png")
    rows = [
        {"prompt": f"what is it {n}", "completion": answer, "label": up, **({"images": [f"{n}.png"]} if n < 4 else {})}
        for n, name in enumerate(["cat", "dog", "mat", "red", "blue", "good"])
        for answer, up in ((f"the {name}", True), (f"no {name}", False))
    ]
    (path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = KTOConfig(
        model=str(worlds("qwen2_vl").folder), data=str(path / "rows.jsonl"), workspace=str(path / "workspace"),
        max_steps=3, batch_size=4, max_length=96, eval_fraction=0.3, sample_max_new_tokens=4, lora_r=2, seed=1,
        learning_rate=1e-2, device="cpu",
    )  # fmt: skip
    return train(config, progress=False)


def test_a_run_goes_from_a_file_with_pictures_to_an_adapter_that_answers(trained):
    assert trained.status().state == "finished"
    metrics = trained.metrics()
    assert any("eval_loss" in one for one in metrics), "held-out rows were evaluated"
    assert all(np.isfinite(one["loss"]) for one in metrics if "loss" in one)
    assert any(one.get("kl_sampled") is not None for one in metrics)
    log = trained.log_path.read_text() if trained.log_path.exists() else ""
    assert "Traceback" not in log
    samples = trained.samples()
    pictured = [one for one in samples if not isinstance(one["prompt"], str)]
    assert pictured and pictured[0]["prompt"][0]["content"][0]["image"].startswith("image:")
    assert trained.trained_with_images()
    (answer,) = compare(trained, [pictured[0]["prompt"]], max_new_tokens=4)
    assert {"reference", "tuned"} <= answer.keys()


def test_held_out_prompts_are_asked_with_their_pictures(trained):
    from kto_workbench.judging.questions import held_out_of

    pictured = [prompt for prompt in held_out_of(trained) if keys_in(prompt)]
    assert pictured and {"reference", "tuned"} <= compare(trained, pictured[:1], max_new_tokens=4)[0].keys()


def test_a_second_run_computes_no_reference_again(trained):
    again = train(trained.config().replace(beta=0.3), progress=False)
    note = json.loads((again.path / "reference.json").read_text())
    assert note["computed"] == 0 and note["reused"] > 0


def test_a_merged_model_brings_its_processor(trained, tmp_path, worlds):
    from kto_workbench.answers.export import export

    folder = export(trained, "merged", out=tmp_path / "merged")
    images = Images(trained.config().workspace)
    prompt = next(one["prompt"] for one in trained.samples() if not isinstance(one["prompt"], str))
    tokenizer = load_tokenizer(str(folder), images)
    model = load_model(str(folder), device=CPU, dtype=torch.float32)
    merged = generate(model, tokenizer, [prompt], temperature=0, max_new_tokens=4)
    (answer,) = compare(trained, [prompt], max_new_tokens=4, temperature=0)
    assert merged == [answer["tuned"]]


def test_the_page_foresees_what_images_take(trained):
    from kto_workbench.ui import estimate

    config = trained.config()
    feedback = load_feedback(config.data, workspace=config.workspace)
    lengths = estimate.token_lengths(feedback, config.model, config.max_length, "auto")
    # 20 by 14 pixels become 16 by 16, multiples of 8: 16 patches of 4 by 4 in three colours, each twice.
    assert lengths.pixels == 16 * 2 * 3 * 4 * 4
    assert lengths.largest_batch(4)[3] == 4 * lengths.pixels
    assert "Memory: about" in estimate.expected("en", config, feedback, [])
