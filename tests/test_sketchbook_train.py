"""Training of the bundled model: resumed bit for bit, and exported as a folder that the stock pipeline loads."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPModel, CLIPTokenizer

from imagic_cli.sketchbook import export, lesson_cascade, lesson_unet, measure, networks, train
from imagic_cli.sketchbook.captions import known_words
from imagic_cli.sketchbook.corpus import Corpus
from imagic_cli.sketchbook.judge import CLASSES, Judge
from imagic_cli.sketchbook.loop import Memory, Pace, advance, batches, generator
from imagic_cli.sketchbook.loop import train as run
from imagic_cli.sketchbook.muon import orthogonal
from imagic_cli.sketchbook.networks import Sizes
from imagic_cli.sketchbook.scenes import drawn, sample

TINY = Sizes(
    vae=(8, 8, 8, 8),
    vae_groups=4,
    text_width=16,
    text_layers=1,
    vision_width=16,
    vision_layers=1,
    vision_patch=64,
    heads=2,
    unet=(16, 16),
    unet_heads=(2, 2),
    t5_width=32,
    t5_layers=1,
    t5_heads=2,
    base=(16, 16),
    super_resolution=(16, 16),
    judge=(16, 16),
)


class Line:
    """A lesson small enough to see: one weight matrix that should become the identity."""

    name = "line"

    def __init__(self):
        torch.manual_seed(3)
        self.network = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Linear(4, 4)).to(
            memory_format=torch.channels_last
        )

    def draw(self, rng):
        return torch.randn(2, 2, 4, 4, generator=rng)

    def loss(self, clean):
        return (self.network(clean) - clean).square().mean()

    def measure(self, network):
        return {"error": float((network(torch.ones(1, 2, 4, 4)) - 1).abs().mean())}

    def picture(self, network):
        return Image.new("RGB", (4, 4))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which every network made two steps, in the order the command line asks for."""
    out = tmp_path_factory.mktemp("sketchbook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "SCALE_SCENES", 6)
        for lesson in (lesson_unet, lesson_cascade):
            patch.setattr(lesson, "SHOWN", ("a bird", "a dog"))
        patch.setattr(lesson_cascade, "ENLARGED", 2)
        for name, learn in train.LEARN.items():
            torch.manual_seed(0)
            learn(out, TINY, Pace(steps=2, rate=1e-3), Corpus(out / "cache", 6, 4), 2, "cpu")
            assert (out / f"{name}.png").exists()
    return out


def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path):
    pace = {"rate": 0.01, "warmup": 3, "tail": 4}
    run(Line(), tmp_path / "whole", Pace(steps=9, **pace))
    stopped = Line()
    memory = Memory.fresh(stopped.network, Pace(steps=9, **pace))
    (tmp_path / "parts").mkdir()
    for batch in batches(stopped, Pace(steps=4, **pace)):
        advance(stopped, memory, Pace(steps=9, **pace), batch)
    memory.save(tmp_path / "parts" / "line.safetensors")
    run(Line(), tmp_path / "parts", Pace(steps=9, **pace))
    whole, parts = (load_file(tmp_path / name / "line.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    assert not torch.equal(whole["network.0.weight"], whole["ema.0.weight"])


def test_training_lowers_the_error_and_writes_figures_and_no_partial_file(tmp_path):
    run(Line(), tmp_path, Pace(steps=1, rate=0.03, warmup=1))
    run(Line(), tmp_path, Pace(steps=150, rate=0.03, warmup=1))
    first, last = [json.loads(line) for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert (first["step"], last["step"]) == (1, 150)
    assert last["error"] < first["error"] / 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["line.jsonl", "line.png", "line.safetensors"]


def test_batches_drawn_ahead_by_processes_are_those_drawn_when_wanted():
    pace = Pace(steps=5, rate=0.01)
    alone, ahead = (list(batches(Line(), pace, 2, workers)) for workers in (0, 2))
    assert len(alone) == 3 and all(torch.equal(one, other) for one, other in zip(alone, ahead, strict=True))
    assert not torch.equal(alone[0], alone[1])


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    lesson = Line()
    run(lesson, tmp_path, Pace(steps=1, rate=0.01))
    other = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="another network"):
        Memory.fresh(other, Pace(steps=1, rate=0.01)).load(tmp_path / "line.safetensors")


def test_minutes_end_a_session_before_its_last_step(tmp_path):
    assert run(Line(), tmp_path, Pace(steps=10**9, rate=0.01, minutes=0.001)).step < 10**6


def test_the_rate_warms_up_and_falls_to_zero_over_the_tail():
    pace = Pace(steps=100, rate=1.0, warmup=10, tail=20)
    assert pace.rate_at(0) == pytest.approx(0.1)
    assert pace.rate_at(50) == 1.0
    assert pace.rate_at(90) == pytest.approx(0.5)
    assert pace.rate_at(99) < 0.01


def test_each_purpose_draws_its_own_numbers():
    drawn = {float(torch.rand((), generator=generator(0, name, step))) for name in ("vae", "unet") for step in range(3)}
    assert len(drawn) == 6


def test_the_corpus_is_drawn_once_and_alike_by_one_process_and_by_two(tmp_path):
    one, two = Corpus(tmp_path / "one", 4, 2), Corpus(tmp_path / "two", 4, 2, workers=2)
    assert np.array_equal(one.pictures("train"), two.pictures("train"))
    assert np.array_equal(one.pictures("train")[3], drawn("train", 3))
    (file,) = (tmp_path / "one").iterdir()
    before = file.stat().st_mtime_ns
    one.pictures("train")
    assert file.stat().st_mtime_ns == before


def test_an_earlier_network_must_be_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="train that network first"):
        train.learn_unet(tmp_path, TINY, Pace(steps=1, rate=1e-3), Corpus(tmp_path), 2, "cpu")


def test_the_exported_folder_is_a_stock_stable_diffusion_pipeline(trained):
    pipeline = StableDiffusionPipeline.from_pretrained(trained / "model")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a bird spreading wings", num_inference_steps=2, guidance_scale=3.0).images[0]
    assert image.size == (128, 128)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    for path in trained.joinpath("model").rglob("*.safetensors"):
        assert {value.dtype for value in load_file(path).values()} == {torch.float16}, path
    names = {path.suffix for path in trained.joinpath("model").rglob("*") if path.is_file()}
    assert names <= {".json", ".txt", ".md", ".safetensors"}
    judge = Judge(TINY.judge)
    judge.load_state_dict(load_file(trained / "model" / "judge" / "judge.safetensors"))


def test_the_exported_scaling_factor_gives_latents_unit_variance(trained):
    vae = StableDiffusionPipeline.from_pretrained(trained / "model").vae
    latents = load_file(next(trained.glob("cache/latents-train-*")))["mean"].float()
    assert float(latents.std()) * vae.config.scaling_factor == pytest.approx(1, rel=0.02)


def test_the_text_encoder_is_the_exported_clips_own(trained):
    pipeline = StableDiffusionPipeline.from_pretrained(trained / "model")
    clip = CLIPModel.from_pretrained(trained / "model" / "clip")
    ids = pipeline.tokenizer("a red bird", return_tensors="pt").input_ids
    with torch.no_grad():
        ours, theirs = (tower(ids).last_hidden_state for tower in (pipeline.text_encoder, clip.text_model))
    assert torch.equal(ours, theirs)


def test_the_model_card_tells_what_was_measured(trained):
    card = (trained / "model" / "README.md").read_text()
    for name in ("vae", "clip", "unet"):
        last = json.loads((trained / f"{name}.jsonl").read_text().splitlines()[-1])
        assert f"| {name} | 2 |" in card
        for value in last.values():
            assert f"{value:.4g}" in card or f"{value:.2f}" in card


def test_the_command_line_trains_and_resumes(trained, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setitem(train.LEARN, "clip", lambda out, sizes, pace, *rest: asked.append((out, pace, rest)))
    train.main(["clip", "--out", str(tmp_path / "new"), "--steps", "50", "--minutes", "2"])
    ((out, pace, rest),) = asked
    assert out == tmp_path / "new"
    assert (pace.steps, pace.minutes, pace.tail) == (50, 2.0, 15)
    assert rest == (Corpus(out / "cache", train.PLANS["clip"].scenes), train.PLANS["clip"].batch, "cpu")


def test_every_word_of_the_grammar_is_one_token_and_ids_never_change(tmp_path):
    tokenizer = networks.tokenizer(tmp_path / "one", Sizes())
    again = networks.tokenizer(tmp_path / "two", Sizes())
    assert tokenizer.get_vocab() == again.get_vocab()
    assert CLIPTokenizer.from_pretrained(tmp_path / "one").get_vocab() == tokenizer.get_vocab()
    for word in known_words():
        pieces = tokenizer.tokenize(word)
        assert len(pieces) == (2 if word.endswith("'s") else 1), word
    longest = max(len(tokenizer(sample(i, "train").caption(i)).input_ids) for i in range(500))
    assert longest <= tokenizer.model_max_length
    assert tokenizer.unk_token_id not in tokenizer("a qzx émeu!").input_ids[1:-1]


def test_the_real_networks_fit_the_size_that_ships(tmp_path):
    sizes = Sizes()
    tokenizer = networks.tokenizer(tmp_path, sizes)
    with torch.device("meta"):
        parts = [networks.vae(sizes), networks.unet(sizes), networks.clip(sizes, tokenizer.get_vocab())]
    halves = 2 * sum(p.numel() for part in parts for p in part.parameters())
    text = 2 * sum(p.numel() for p in parts[2].text_model.parameters())
    assert halves + text < 39e6


def test_muon_steps_have_equal_singular_values():
    torch.manual_seed(0)
    for shape in ((12, 30), (30, 12), (8, 4, 3, 3)):
        matrix = torch.randn(shape).flatten(1)
        turned = orthogonal(matrix[None])[0]
        assert turned.shape == matrix.shape
        values = torch.linalg.svdvals(turned)
        assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        assert float((turned * (u @ v)).sum() / turned.norm() / (u @ v).norm()) > 0.97


def test_weights_that_mix_features_are_muons_and_the_rest_adams():
    network = networks.unet(TINY)
    muon, adam = Memory.fresh(network, Pace(steps=1, rate=1e-3)).optimizers
    mixing = {id(p) for p in muon.param_groups[0]["params"]}
    rest = {id(p) for p in adam.param_groups[0]["params"]}
    assert mixing | rest == {id(p) for p in network.parameters()} and not mixing & rest
    assert id(network.conv_in.weight) in rest and id(network.mid_block.resnets[0].conv1.weight) in mixing


def test_measuring_writes_the_figures_into_the_card_once(trained, monkeypatch, capsys):
    monkeypatch.setattr(measure, "load", lambda: Judge((16, 16)))
    for _ in range(2):
        measure.main([str(trained / "model"), "--scenes", "4", "--captions", "3"])
    found = json.loads(capsys.readouterr().out.partition("\n}\n")[0] + "}")
    assert 0 < found["vae_psnr_db"] < 40
    assert {f"{kind}_{name}" for kind in ("judge", "text_to_image") for name in CLASSES} <= found.keys()
    card = (trained / "model" / "README.md").read_text()
    assert card.count("## Measured") == 1 and f"| vae psnr db | {found['vae_psnr_db']:.4g} |" in card
    assert "# sketchbook" in card
