"""Training of the small cascade: resumed bit for bit, read as IF's pipeline reads, and run by the real command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import IFPipeline
from drive import done
from PIL import Image
from safetensors.torch import load_file
from transformers import T5Tokenizer

from imagic_cli.sketchbook import bench, cascade_networks, lesson_cascade, measure, train
from imagic_cli.sketchbook.bench_summary import read
from imagic_cli.sketchbook.captions import known_words
from imagic_cli.sketchbook.corpus import Corpus
from imagic_cli.sketchbook.export_cascade import trained_text_encoder
from imagic_cli.sketchbook.judge import CLASSES, Judge
from imagic_cli.sketchbook.loop import Lesson, Memory, Pace, advance, batches
from imagic_cli.sketchbook.networks import Sizes
from imagic_cli.sketchbook.scenes import drawn, sample

TINY = Sizes(t5_width=32, t5_layers=1, t5_heads=2, base=(16, 16), super_resolution=(16, 16))
LESSONS = {
    "cascade-text": train.learn_cascade_text,
    "cascade-base": train.learn_cascade_base,
    "cascade-sr": train.learn_cascade_sr,
}
SR = "sr32-128"


PACE = Pace(steps=3, rate=1e-3, warmup=2, tail=2)


def learn(name: str, out: Path, corpus: Corpus) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lesson_cascade, "SHOWN", ("a bird", "a dog"))
        patch.setattr(lesson_cascade, "ENLARGED", 2)
        torch.manual_seed(0)
        LESSONS[name](out, TINY, PACE, corpus, 2, "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the three lessons made three steps and the cascade was exported."""
    out = tmp_path_factory.mktemp("cascade")
    for name in LESSONS:
        learn(name, out, Corpus(out / "cache", 6, 4))
    return out


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(drawn("heldout", 0)).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.mark.parametrize("name", LESSONS)
def test_a_resumed_lesson_equals_one_that_was_never_stopped(
    name: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(lesson: Lesson[Any], out: Path, pace: Pace, workers: int) -> None:
        memory = Memory.fresh(lesson.network, pace)
        advance(lesson, memory, pace, next(iter(batches(lesson, pace))))
        memory.save(out / f"{lesson.name}.safetensors")

    for other in LESSONS:
        if other != name:
            shutil.copy(trained / f"{other}.safetensors", tmp_path)
    corpus = Corpus(trained / "cache", 6, 4)
    with monkeypatch.context() as patch:
        patch.setattr(train, "train", stopped)
        learn(name, tmp_path, corpus)
    learn(name, tmp_path, corpus)
    whole, parts = (load_file(folder / f"{name}.safetensors") for folder in (trained, tmp_path))
    assert whole.keys() == parts.keys()
    assert [each for each, value in whole.items() if not torch.equal(value, parts[each])] == []


@pytest.mark.parametrize(("name", "columns", "rows"), [("cascade-base", 8, 1), ("cascade-sr", 2, 3)])
def test_a_lesson_measures_and_shows(name: str, columns: int, rows: int, trained: Path) -> None:
    (record,) = map(json.loads, (trained / f"{name}.jsonl").read_text().splitlines())
    assert record["step"] == 3 and 0 < record["heldout_loss"] < 4
    with Image.open(trained / f"{name}.png") as grid:
        assert grid.size == (130 * columns, 130 * rows)


def test_the_text_encoder_learns_first_and_no_loss_reaches_the_variance(trained: Path) -> None:
    found = load_file(trained / "cascade-text.safetensors")
    torch.manual_seed(0)
    words = len(cascade_networks.tokenizer(trained / "cascade-tokenizer"))
    before = dict(cascade_networks.text_encoder(TINY, words).named_parameters())
    assert not torch.equal(found["network.text_encoder.shared.weight"], before["shared.weight"])
    # The pictures' encoder, beside which it learns, is not its own.
    assert {name.split(".")[1] for name in found} == {"text_encoder", "projection", "logit_scale"}
    last = load_file(trained / "cascade-base.safetensors")["network.conv_out.weight"]
    assert last[:3].abs().max() > 0
    assert not last[3:].any()


def test_captions_are_read_as_the_pipeline_reads_them(trained: Path) -> None:
    tokenizer, text_encoder = trained_text_encoder(trained, TINY)
    pipeline = IFPipeline.from_pretrained(trained / "cascade/base")
    said = " A red bird perched on grass, at night"
    with torch.no_grad():
        tokens, null = pipeline.encode_prompt(said, device="cpu")
        ours = cascade_networks.read(text_encoder, cascade_networks.tokenized(tokenizer, [said, ""]))
    # The exported weights are in half precision.
    torch.testing.assert_close(ours, torch.cat([tokens, null]), atol=0.02, rtol=0.02)


def test_every_word_of_the_grammar_is_one_token_and_other_letters_are_known(tmp_path: Path) -> None:
    tokenizer = cascade_networks.tokenizer(tmp_path)
    assert T5Tokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()
    for word in known_words():
        assert len(tokenizer(word).input_ids) == 2, word
    unknown = tokenizer.unk_token_id
    assert all(unknown not in tokenizer(sample(i, "train").caption(i)).input_ids for i in range(200))
    assert unknown not in tokenizer("a qzx, (7 of them)!").input_ids
    assert max(len(tokenizer(sample(i, "train").caption(i)).input_ids) for i in range(200)) < 40
    assert tokenizer.decode(tokenizer("two green parrots kissing").input_ids[:-1]) == "two green parrots kissing"


def test_the_real_networks_fit_the_size(tmp_path: Path) -> None:
    sizes, words = Sizes(), len(cascade_networks.tokenizer(tmp_path))
    with torch.device("meta"):
        parts = [
            cascade_networks.text_encoder(sizes, words),
            cascade_networks.base(sizes),
            cascade_networks.super_resolution(sizes),
        ]
    assert 2 * sum(p.numel() for part in parts for p in part.parameters()) < 40e6


def test_the_exported_cascade_goes_through_all_stages_of_the_command(trained: Path, photo: Path) -> None:
    short = ["--optimize-steps", 2, "--finetune-steps", 2, "--steps", 2]
    done("edit", photo, "a bird spreading wings", "--model", trained / "cascade", "--run", "run", *short)
    assert {path.name for path in Path("run").glob("weights*")} == {"weights.safetensors", f"weights-{SR}.safetensors"}
    done("generate", "--run", "run", "--eta", 1, "--steps", 2, "--size", 32)
    sizes = {Image.open(path).size for path in Path("run").rglob("eta-*.png")}
    assert sizes == {(32, 32), (128, 128)}
    for path in (trained / "cascade").rglob("*.safetensors"):
        assert {value.dtype for value in load_file(path).values()} == {torch.float16}, path


def test_the_model_card_tells_what_was_measured(trained: Path) -> None:
    card = (trained / "cascade" / "README.md").read_text()
    for name in LESSONS:
        record = json.loads((trained / f"{name}.jsonl").read_text())
        figure = "right_of_64" if name == "cascade-text" else "heldout_loss"
        assert f"| {name} | 3 | {record['hours']:.2f} | {figure} {record[figure]:.4g}" in card


def test_what_it_draws_is_judged_and_noted_in_its_card(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "load", lambda: Judge((16, 16)))
    measure.main([str(trained / "cascade"), "--captions", "2"])
    found = json.loads(capsys.readouterr().out)
    assert {f"text_to_image_{name}" for name in CLASSES} <= found.keys()
    card = (trained / "cascade" / "README.md").read_text()
    assert f"| text to image subject | {found['text_to_image_subject']:.4g} |" in card
    assert "# sketchbook cascade" in card


def test_the_benchmark_sets_it_beside_its_own_ablations(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "SEEDS", 1)
    monkeypatch.setattr(bench, "CURVE_SEEDS", 1)
    short = ["--optimize-steps", 2, "--finetune-steps", 2, "--steps", 2]
    done("bench", "sketchbook", "--model", trained / "cascade", "--pairs", 1, "--out", tmp_path / "out", *short)
    (scores,) = read(tmp_path / "out").values()
    trivial = {"input unchanged", "answer blurred", "half and half"}
    assert {score.method for score in scores} - trivial == {"imagic", "A off", "B off", "text to image"}
    table = (tmp_path / "out" / "summary.md").read_text()
    assert "| imagic, 3 settings |" in table and "SDEdit" not in table
