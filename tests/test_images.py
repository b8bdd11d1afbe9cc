"""Images in prompts: found where a row says they are and nowhere else, read when visited, and harmless."""

import base64
import gc
import io
import json
import os
import re
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kto_workbench.errors import DataError, WorkbenchError
from kto_workbench.feedback import files, kept, load_feedback
from kto_workbench.feedback import images as module
from kto_workbench.feedback.held_out import prompt_numbers
from kto_workbench.feedback.images import ImageProblem, Images, keys_in
from kto_workbench.feedback.prompts import load_prompts
from kto_workbench.runs.completions import answers
from kto_workbench.runs.endpoints import Endpoint
from kto_workbench.ui import data
from kto_workbench.ui.workbench import Workbench


def pixels(seed, width=12, height=9):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def packed(seed, kind="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(pixels(seed)).save(out, kind, **options)
    return out.getvalue()


def url(seed):
    return "data:image/png;base64," + base64.b64encode(packed(seed)).decode()


def text(said):
    return {"type": "text", "text": said}


def row(prompt="What is it?", **more):
    return {"prompt": prompt, "completion": "A cat.", "label": True, **more}


def asked(*content):
    return [{"role": "user", "content": list(content)}]


@pytest.fixture
def folder(tmp_path):
    """A folder with two images and one of other feedback above it, which no row may name."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    for seed in (1, 2):
        (tmp_path / "set" / "images" / f"{seed}.png").write_bytes(packed(seed))
    (tmp_path / "secret.png").write_bytes(packed(9))
    return tmp_path / "set"


def load(folder, rows, name="rows.jsonl", **options):
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return load_feedback(path, workspace=folder.parent / "workspace", **options)


def reasons(folder, *rows, **options):
    """Why rows can't be used; a good one goes first, since a file without any is refused as a whole."""
    return [problem.reason for problem in load(folder, [row(), *rows], **options).problems]


def seen(feedback, number=0):
    """The pixels of a row's images."""
    images = Images(feedback.path.parent.parent / "workspace")
    return [np.asarray(images.open(key)) for key in keys_in(feedback.rows[number].prompt)]


SHAPES = {
    "a path in a list": row(images=["images/1.png"]),
    "a path": row(image="images/1.png"),
    "a path with dots": row(image="./images/../images/1.png"),
    "a data URL": row(images=[url(1)]),
    "of the hub, with a path": row(images=[{"path": "images/1.png", "bytes": None}]),
    "a place in the text": row("<image>\nWhat is it?", images=["images/1.png"]),
    "a place in a block": row(asked({"type": "image"}, text("What is it?")), images=["images/1.png"]),
    "in the message": row(asked({"type": "image", "image": "images/1.png"}, text("What is it?"))),
    "OpenAI's chat": row(asked(text("What is it?"), {"type": "image_url", "image_url": {"url": url(1)}})),
    "OpenAI's responses": row(asked({"type": "input_image", "image_url": url(1)}, text("What is it?"))),
    "Anthropic's": row(
        asked({"type": "image", "source": {"type": "base64", "data": url(1).partition(",")[2]}}, text("What?"))
    ),
    "Ollama's": row([{"role": "user", "content": "What?", "images": [url(1).partition(",")[2]]}]),
    "Open WebUI's": row([{"role": "user", "content": "What?", "files": [{"type": "image", "url": url(1)}]}]),
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A cat."}],
        "images": ["images/1.png"],
        "label": True,
    },
    "blocks alone": row([{"type": "image", "image": "images/1.png"}, text("What is it?")]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_is_found_in_every_shape_that_files_have(folder, shape):
    feedback = load(folder, [SHAPES[shape]])
    assert not feedback.problems and feedback.n_with_images == 1
    (found,) = seen(feedback)
    np.testing.assert_array_equal(found, pixels(1))
    (message,) = feedback.rows[0].prompt
    kinds = [block["type"] for block in message["content"]]
    assert sorted(kinds) == ["image", "text"] and feedback.rows[0].completion == "A cat."
    # Neither bytes nor a path of this machine: a row stays small, and may be shown.
    assert str(folder) not in json.dumps(message) and len(json.dumps(message)) < 200


def test_bytes_in_parquet_as_the_hub_has_them(folder):
    raw = [{"bytes": packed(n), "path": f"{n}.png"} for n in (1, 2)]
    rows = [row(images=raw), row(images=raw[1:]), row(images=[])]
    feedback = load(folder, rows, "rows.parquet")
    assert not feedback.problems and feedback.n_with_images == 2 and len(feedback.rows) == 3
    for found, seeds in ((seen(feedback), (1, 2)), (seen(feedback, 1), (2,)), (seen(feedback, 2), ())):
        assert len(found) == len(seeds)
        for one, seed in zip(found, seeds, strict=True):
            np.testing.assert_array_equal(one, pixels(seed))
    assert feedback.rows[2].prompt == "What is it?"
    # The same from memory, where there is no folder beside which a path could lie.
    table = pq.read_table(folder / "rows.parquet")
    assert load_feedback(table, workspace=folder.parent / "workspace").n_with_images == 2
    bare = load_feedback([row(), row(image=packed(1)), row(image="images/1.png")], workspace=folder.parent / "other")
    assert bare.n_with_images == 1
    assert bare.problems[0].reason.endswith("is named by its path, and there is no file beside which it could lie")


def test_images_stand_where_the_prompt_has_places_for_them(folder):
    two = ["images/1.png", "images/2.png"]
    rows = [
        row("a <image> b <image>", images=two),
        row([{"role": "system", "content": "Be kind."}, *asked(text("a"))], images=two),
        row(asked(text("a"), {"type": "image"}, text("b"), {"type": "image"}), images=two),
    ]
    feedback = load(folder, rows)
    say = lambda number, turn=-1: [block.get("text", "·") for block in feedback.rows[number].prompt[turn]["content"]]
    assert [say(0), say(1), say(2)] == [["a ", "·", " b ", "·"], ["·", "·", "a"], ["a", "·", "b", "·"]]
    for number in range(3):
        np.testing.assert_array_equal(seen(feedback, number)[1], pixels(2))
    assert feedback.rows[1].prompt_text == "system: Be kind.\nuser: [image] [image] a"
    wrong = reasons(folder, row("a <image> b <image>", images=two[:1]), row(asked({"type": "image"}, text("a"))))
    assert wrong == [
        "images does not hold one image for each of 2 places in the prompt",
        "the prompt has a place for an image, and there is none",
    ]


def test_an_answer_with_an_image_is_named_by_row(folder):
    answer = {"role": "assistant", "content": [{"type": "image", "image": url(1)}]}
    talk = {"messages": [{"role": "user", "content": "draw"}, answer], "label": True}
    good = {"messages": [{"role": "user", "content": "draw"}, {"role": "assistant", "content": "no"}], "label": True}
    (problem,) = load(folder, [good, talk]).problems
    assert problem.reason == "messages ends with an answer that holds an image; only text can be trained on"


@pytest.mark.parametrize(
    "name, reason",
    [
        ("../secret.png", "the image '../secret.png' lies outside of the feedback's folder"),
        ("images/../../secret.png", "the image 'images/../../secret.png' lies outside of the feedback's folder"),
        ("/etc/hostname", "the image '/etc/hostname' lies outside of the feedback's folder"),
        ("link.png", "the image 'link.png' lies outside of the feedback's folder"),
        ("loop.png", "there is no image 'loop.png' beside the feedback"),
        ("images/3.png", "there is no image 'images/3.png' beside the feedback"),
        ("images", "there is no image 'images' beside the feedback"),
        ("a\0b", "there is no image 'a\\x00b' beside the feedback"),
        ("pipe", "the image 'pipe' is no file"),
        ("rows.jsonl", "an image is none that can be read; it should be PNG, JPEG, WEBP, GIF, BMP"),
        ("http://localhost/1.png", "an image is named by its address, and addresses are not fetched"),
        ("https://localhost/1.png", "an image is named by its address, and addresses are not fetched"),
        ("file:///etc/hostname", "an image is named by its address, and addresses are not fetched"),
        ("data:image/png;base64,!!!!", "a data URL is damaged: it is not valid base64"),
        ("data:image/png,abc", "a data URL is not in base64"),
        ("image:" + 32 * "0", "an image is not known in this workspace; load the feedback that it came with again"),
    ],
)
def test_what_is_no_image_beside_the_file_is_refused_by_row(folder, name, reason):
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe")
    assert reasons(folder, row(images=[name])) == [f"images: {reason}"]


def claiming(width, height):
    """A small PNG file that claims to be of this size: what it unpacks to is mostly nothing."""
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(2**20))) + chunk(b"IEND", b"")
    )


def test_bombs_are_refused_by_their_heads(folder, monkeypatch):
    (folder / "gigapixel.png").write_bytes(claiming(40_000, 40_000))
    (folder / "large.png").write_bytes(claiming(8_000, 8_000))
    assert (folder / "gigapixel.png").stat().st_size < 24 * 2**10
    sparse = folder / "sparse.png"
    with sparse.open("wb") as file:
        file.truncate(module.MAX_BYTES + 1)
    decoded = []
    monkeypatch.setattr(Image.Image, "load", lambda self: decoded.append(self))
    found = reasons(folder, *(row(image=name) for name in ("gigapixel.png", "large.png", "sparse.png")))
    assert found == [
        "image: an image has more than 50 million pixels",
        "image: an image has 8,000 × 8,000 pixels, more than 50 million together",
        "image: an image takes 32 MB, more than 32",
    ]
    assert not decoded
    many = row(images=["images/1.png"] * (module.MAX_IMAGES + 1))
    assert reasons(folder, many) == ["the prompt holds 65 images, more than 64"]


def test_nothing_is_decoded_before_a_row_is_visited(folder, monkeypatch):
    decoded = []
    load_pixels = Image.Image.load
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda self: decoded.append(1) or load_pixels(self))
    feedback = load(folder, [row(images=["images/1.png"])] * 3)
    keys_in(feedback.rows[0].prompt), prompt_numbers(feedback.rows)
    assert not decoded


def test_a_damaged_image_or_one_that_went_away_is_a_sentence(folder):
    whole = packed(1)
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    feedback = load(folder, [row(image="half.png"), row(image="images/1.png"), row(image="images/2.png")])
    images = Images(folder.parent / "workspace")
    half, gone, moved = (keys_in(one.prompt)[0] for one in feedback.rows)
    (folder / "images" / "1.png").unlink()
    (folder / "images" / "2.png").unlink()
    (folder / "images" / "2.png").symlink_to(folder.parent / "secret.png")
    for key, said in ((half, "is damaged"), (gone, "is gone"), (moved, "is gone"), ("image:0", "is not known")):
        with pytest.raises(ImageProblem, match=said):
            images.open(key)


@pytest.fixture
def archive(folder):
    """An archive of feedback in a folder of its own, with images beside it and elsewhere, and what systems add."""
    path = folder / "all.zip"
    rows = [row(images=[name]) for name in ("images/1.png", "other/2.png", "../../secret.png", "images/4.png")]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("set/rows.jsonl", "".join(json.dumps(one) + "\n" for one in rows))
        file.writestr("set/images/1.png", packed(1))
        file.writestr("other/2.png", packed(2))
        file.writestr("../secret.png", packed(9))
        file.writestr("set/images/4.png", bytes(2**10 * module.MAX_BYTES // 2**10 + 1))
        file.writestr("__MACOSX/._rows.jsonl", b"\0")
        file.writestr("README.md", "about")
    return path


def test_an_archive_brings_its_feedback_and_images(archive, folder):
    feedback = load_feedback(archive, workspace=folder.parent / "workspace")
    assert feedback.container == "JSON lines, in a zip archive" and feedback.source == str(archive)
    assert [(one.line, one.reason) for one in feedback.problems] == [
        (3, "images: the image '../../secret.png' lies outside of the archive"),
        (4, "images: an image takes 32 MB, more than 32"),
    ]
    for number, seed in enumerate((1, 2)):
        np.testing.assert_array_equal(seen(feedback, number)[0], pixels(seed))
    assert not (folder.parent / "secret").exists() and str(archive) not in json.dumps(feedback.rows[0].prompt)


def test_an_archive_without_feedback_with_too_much_or_a_bomb_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BOMB_BYTES", 2**20)
    path = tmp_path / "a.zip"

    def refused(members):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in members.items():
                file.writestr(name, data)
        with pytest.raises(DataError) as caught:
            load_feedback(path, workspace=tmp_path / "workspace")
        return str(caught.value)

    assert "without a file of feedback" in refused({"a.png": packed(1)})
    assert "with 2 files of feedback (a.jsonl, b.csv)" in refused({"a.jsonl": "", "b.csv": ""})
    assert "looks like a zip bomb" in refused({"a.jsonl": bytes(2**21)})
    assert refused({"b/a.jsonl": "{}\n"}).startswith(f"{path} is not feedback as it stands")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="can't be read as a zip archive"):
        load_feedback(path, workspace=tmp_path / "workspace")
    gc.collect()
    assert not list((tmp_path / "workspace" / "cache").glob("unpacked-*")), "left behind"


def test_rows_with_other_images_are_other_prompts(folder):
    rows = [row(image=f"images/{n}.png") for n in (1, 2, 1)]
    first, second, third = prompt_numbers(load(folder, rows).rows)
    assert first == third != second


def test_what_was_read_is_kept_as_long_as_its_images_are(folder, monkeypatch):
    monkeypatch.setattr(kept, "KEPT_FROM", 0)
    rows = [row(image="images/1.png"), row(image=url(2))]
    fresh = load(folder, rows)
    reads = []
    read = module.Images.add
    monkeypatch.setattr(module.Images, "add", lambda self, *given: reads.append(1) or read(self, *given))
    again = load(folder, rows)
    assert not reads and again.n_with_images == 2 and list(again.rows) == list(fresh.rows)
    np.testing.assert_array_equal(seen(again)[0], pixels(1))
    for path in (folder.parent / "workspace" / "cache").glob("images.sqlite*"):
        path.unlink()
    np.testing.assert_array_equal(seen(load(folder, rows), 1)[0], pixels(2))
    assert len(reads) == 2


def test_a_fixed_file_keeps_its_images(folder):
    from kto_workbench.feedback import check

    rows = [row(f"What is it? {name}@example.org", image="images/1.png") for name in ("a", "b")]
    report = check(load(folder, rows))
    path = report.fix(["email"], folder.parent / "elsewhere.jsonl")
    fixed = load_feedback(path, workspace=folder.parent / "workspace")
    assert fixed.rows[0].prompt[0]["content"][1] == text("What is it? [email]")
    np.testing.assert_array_equal(
        np.asarray(Images(folder.parent / "workspace").open(keys_in(fixed.rows[0].prompt)[0])), pixels(1)
    )


def test_a_thumbnail_is_small_and_says_nothing_of_where_it_was_made(folder):
    large = Image.fromarray(pixels(1, 900, 600))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8825] = 6, "A camera", {1: "N", 2: (48.0, 8.0, 0.0)}
    large.save(folder / "photo.jpg", exif=exif, comment=b"at home")
    feedback = load(folder, [row(image="photo.jpg")])
    images, (key,) = Images(folder.parent / "workspace"), keys_in(feedback.rows[0].prompt)
    assert images.open(key).size == (600, 900), "it lies on its side, and is turned upright"
    data = images.thumbnail(key)
    small = Image.open(io.BytesIO(data))
    assert max(small.size) == module.THUMBNAIL and small.size[0] < small.size[1] and len(data) < 32 * 2**10
    assert not small.getexif() and b"camera" not in data and b"at home" not in data and "comment" not in small.info


@pytest.mark.parametrize("kind, options", [("GIF", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("JPEG", {})])
def test_formats(folder, kind, options):
    image = Image.fromarray(pixels(1))
    image.save(folder / "it", kind, **options)
    (found,) = seen(load(folder, [row(image="it")]))
    with Image.open(folder / "it") as whole:
        want = np.asarray(whole.convert("RGB"))
    np.testing.assert_array_equal(found, want)


def test_transparency_palettes_and_shades_of_grey_become_colours(folder):
    grey = Image.fromarray(pixels(1)).convert("L")
    glass = Image.fromarray(pixels(1)).convert("RGBA")
    palette = Image.fromarray(pixels(1)).quantize(8)
    palette.info["transparency"] = bytes([0, 255] * 4)
    for image in (grey, glass, palette):
        image.save(folder / "it.png")
        (found,) = seen(load(folder, [row(image="it.png")]))
        np.testing.assert_array_equal(found, np.asarray(image.convert("RGBA").convert("RGB")))


def test_videos_and_sounds_are_named_as_not_readable(folder):
    assert reasons(folder, row(videos=["a.mp4"]), row(audios=["a.wav"])) == [
        "videos holds a video or sound, which can't be read",
        "audios holds a video or sound, which can't be read",
    ]


def test_rows_are_shown_with_small_pictures_of_nothing_but_pixels(folder):
    Image.fromarray(pixels(1, 900, 600)).save(folder / "large.png")
    (folder / "half.png").write_bytes(packed(1)[:60])
    feedback = load(folder, [row(image="large.png"), row(image="half.png"), row()])
    drawn, *_ = data.show_rows("en", feedback, "all", 0, {})
    (found,) = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="Image 1">', drawn)
    small = Image.open(io.BytesIO(base64.b64decode(found)))
    assert small.format == "JPEG" and max(small.size) == module.THUMBNAIL
    assert "an image is damaged" in drawn and str(folder) not in drawn and "large.png" not in drawn
    assert drawn.count("[image] What is it?") == 2, "its place in the text is told, too"
    zh, *_ = data.show_rows("zh", feedback, "all", 0, {})
    assert "图片已损坏" in zh


def test_a_zip_that_is_dropped_on_the_page_is_feedback(archive, folder):
    bench = Workbench(folder.parent / "workspace")
    bench.received.mkdir(parents=True)
    sent = shutil.copy(archive, bench.received / "all.zip")
    feedback = bench.feedback(bench.keep_upload(sent))
    assert feedback.n_with_images == 2
    np.testing.assert_array_equal(np.asarray(feedback.images.open(keys_in(feedback.rows[0].prompt)[0])), pixels(1))


def test_prompts_with_images_are_not_sent_to_endpoints(folder):
    feedback = load(folder, [row(image="images/1.png")])
    there = Endpoint("http://127.0.0.1:1/v1", "m", name="it")
    with pytest.raises(WorkbenchError, match="Prompts with images are not sent to endpoints such as it"):
        next(answers(there, [feedback.rows[0].asked], seed=0, temperature=0, max_new_tokens=1))


def test_a_file_of_prompts_with_images_is_refused_in_a_sentence(folder):
    path = folder / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": asked({"type": "image", "image": url(1)}, text("a"))}))
    with pytest.raises(DataError, match="Prompt 1 of .* holds an image; prompts of a file can only be text"):
        load_prompts(path)
