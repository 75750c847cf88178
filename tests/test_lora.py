"""LoRA in stage B, and the text's keys and values alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from drive import digests, done, imagic
from test_oracle import Reference, adam, double, logged, optimized

from imagic_cli.artifacts import Embeddings, Weights
from imagic_cli.config import FinetuneSettings
from imagic_cli.noise import Stream
from imagic_cli.presets import load_preset
from imagic_cli.tuning import changes, initialise, leaves

FAMILIES = ["sd", "sdv", "sdxl"]
STEPS, RATE, RANK = 4, 1e-2, 3
LORA = ["--method", "lora", "--rank", RANK, "--lr", RATE]
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def tuned(photo: Path, folder: Path, *flags: object) -> None:
    optimized(photo, folder)
    done("finetune", "--run", "run", "--steps", STEPS, "--seed", 6, *LORA, *flags)


def recorded() -> dict[str, object]:
    return json.loads(Path("run/run.json").read_text())["finetune"]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_formula(photo: Path, models: Path, family: str) -> None:
    """W + B A for every projection of attention, against a reference in float64 that knows no peft."""
    tuned(photo, models / family, "--delta-dtype", "fp32")
    reference = Reference.of(models / family, Path("run/image.png"))
    reference.unet.requires_grad_(False)
    tokens, pooled = double(Embeddings.load(Path("run/embeddings.safetensors")).content.optimized)
    layers = {name: part for name, part in reference.unet.named_modules() if name.endswith(ATTENTION)}
    frozen = {name: layers[name]._parameters.pop("weight") for name in layers}
    generator, factors = Stream(6, "lora", "finetune", "base").at(0), {}
    for name in sorted(layers):
        out, width = frozen[name].shape
        drawn = torch.empty(RANK, width).uniform_(-(width**-0.5), width**-0.5, generator=generator)
        factors[name] = (torch.zeros(out, RANK, dtype=torch.float64).requires_grad_(), drawn.double().requires_grad_())
    stream = Stream(6, "train", "finetune", "base")

    def loss(step: int) -> torch.Tensor:
        for name, (b, a) in factors.items():
            layers[name].weight = frozen[name] + b @ a
        return reference.loss(tokens, pooled, stream.at(step))

    told = adam([factor for both in factors.values() for factor in both], loss, RATE)
    np.testing.assert_allclose(logged("finetune"), told, rtol=2e-5)
    found = dict(changes(Weights.load(Path("run/weights.safetensors")).content.of("base")))
    assert found.keys() == {f"{name}.weight" for name in factors}
    gap = sum(((found[f"{name}.weight"] - b @ a) ** 2).sum() for name, (b, a) in factors.items())
    assert (gap / sum(((b @ a) ** 2).sum() for b, a in factors.values())).sqrt() < 5e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_and_values_are_trained_alone(photo: Path, models: Path, family: str) -> None:
    optimized(photo, models / family)
    command = ["finetune", "--run", "run", "--steps", STEPS, "--seed", 6, "--delta-dtype", "fp32"]
    done(*command, "--method", "kv", "--lr", RATE)
    reference = Reference.of(models / family, Path("run/image.png"))
    reference.unet.requires_grad_(False)
    before = {name: each.clone() for name, each in reference.unet.named_parameters() if is_key_or_value(name)}
    trained = {name: reference.unet.get_parameter(name).requires_grad_() for name in before}
    tokens, pooled = double(Embeddings.load(Path("run/embeddings.safetensors")).content.optimized)
    stream = Stream(6, "train", "finetune", "base")
    told = adam(list(trained.values()), lambda step: reference.loss(tokens, pooled, stream.at(step)), RATE)
    np.testing.assert_allclose(logged("finetune"), told, rtol=2e-5)
    found = Weights.load(Path("run/weights.safetensors")).content.of("base")
    assert found.keys() == trained.keys()
    gap = sum(((found[name] - (trained[name] - before[name])) ** 2).sum() for name in found)
    assert (gap / sum(((trained[name] - before[name]) ** 2).sum() for name in found)).sqrt() < 5e-3
    cost = json.loads(done(*command, "--method", "kv", "--dry-run", "--json").lines[-1])
    assert cost["work"].endswith("the text's keys and values")
    assert cost["disk"] == 2 * 4 * 3 * sum(each.numel() for each in found.values())


def test_a_cascade_keeps_the_texts_keys_and_values_apart(photo: Path, models: Path) -> None:
    optimized(photo, models / "cascade")
    done("finetune", "--run", "run", "--steps", 1, "--method", "kv")
    for path, level in (("weights", "base"), ("weights-sr16-32", "sr16-32")):
        found = Weights.load(Path(f"run/{path}.safetensors")).content.of(level)
        layers = {name.rpartition(".")[0].rpartition(".")[2] for name in found}
        assert layers == {"add_k_proj", "add_v_proj"}
        assert all(tensor.any() for tensor in found.values())


def is_key_or_value(name: str) -> bool:
    return "attn2" in name and name.endswith(("to_k.weight", "to_v.weight"))


def test_the_global_random_state_is_neither_read_nor_moved(photo: Path, models: Path) -> None:
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        optimized(photo, models / "sd")
        done("finetune", "--run", "run", "--steps", 2, "--force", *LORA)
        made.append(digests(Path("run")))
        module = UNet2DConditionModel.from_pretrained(models / "sd" / "unet")
        torch.set_rng_state(state)
        initialise(leaves(module, FinetuneSettings(method="lora")), Stream(0, "lora").at(0))
        assert torch.equal(torch.get_rng_state(), state)
    assert made[0] == made[1]


def test_each_method_has_its_own_rate_unless_one_is_typed(photo: Path, models: Path) -> None:
    optimized(photo, models / "sd")
    steps = ["--run", "run", "--steps", 1, "--force"]
    for flags, wanted in (
        (["--method", "lora"], ("lora", 16, 1e-4)),
        ([], ("lora", 16, 1e-4)),
        (["--method", "lora", "--rank", 2], ("lora", 2, 1e-4)),
        (["--method", "full"], ("full", None, 5e-7)),
        (["--method", "lora", "--lr", 3e-4], ("lora", 16, 3e-4)),
        (["--method", "lora", "--rank", 4], ("lora", 4, 3e-4)),
        (["--method", "kv"], ("kv", None, 1e-5)),
    ):
        done("finetune", *steps, *flags)
        found = recorded()
        assert (found["method"], found["rank"], found["learning_rate"]) == wanted
        assert imagic("check", "run").code == 0


def test_back_at_full_fine_tuning_a_cascade_has_the_rates_of_its_family(photo: Path, models: Path) -> None:
    optimized(photo, models / "cascade")
    before = recorded()
    done("finetune", "--run", "run", "--steps", 1, "--method", "kv")
    plan, *_costs = done("finetune", "--run", "run", "--method", "full", "--dry-run", "--json").lines
    record, usual = json.loads(plan)["record"], load_preset("if")
    assert record["preset"] == ""
    assert record["finetune"]["learning_rate"] == before["learning_rate"] == usual.finetune.learning_rate
    assert record["above"]["sr16-32"]["learning_rate"] == usual.super_resolution.learning_rate


def test_full_fine_tuning_keeps_the_key_that_it_had_before_there_was_a_method() -> None:
    names = {"steps", "learning_rate", "batch", "seed", "optimizer", "dtype", "delta_dtype"}
    assert FinetuneSettings().work().keys() == names
    assert FinetuneSettings(rank=4).rank is None
    assert FinetuneSettings(method="lora").work().keys() == names | {"method", "rank"}
    assert FinetuneSettings(method="kv", rank=4).rank is None


def test_edit_takes_it(photo: Path, models: Path) -> None:
    steps = ["--optimize-steps", 2, "--finetune-steps", 2, "--steps", 2]
    done("edit", photo, "a bird", "--model", models / "sd", "--run", "run", *steps, "--method", "lora", "--rank", 2)
    assert (recorded()["method"], recorded()["rank"], recorded()["learning_rate"]) == ("lora", 2, 1e-4)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_in_half_precision_the_denoiser_is_frozen_in_it_and_the_leaves_are_not(
    photo: Path, models: Path, dtype: str
) -> None:
    tuned(photo, models / "sdxl", "--dtype", dtype, "--delta-dtype", "fp32", "--lr", "1e-5")
    found = Weights.load(Path("run/weights.safetensors")).content.of("base")
    up = torch.cat([factor.flatten() for name, factor in found.items() if name.endswith("lora_B.weight")])
    assert 0 < up.abs().max() < 1e-4
    done("generate", "--run", "run", "--steps", 2)


def test_less_memory_by_gradient_checkpointing_changes_no_bit(photo: Path, models: Path) -> None:
    tuned(photo, models / "sd")
    plain = Path("run/weights.safetensors").read_bytes()
    done("finetune", "--run", "run", "--force", "--gradient-checkpointing")
    assert Path("run/weights.safetensors").read_bytes() == plain


def test_a_dry_run_counts_the_factors_only(photo: Path, models: Path) -> None:
    optimized(photo, models / "sd")

    def cost(*flags: object) -> dict[str, float]:
        return json.loads(done("finetune", "--run", "run", "--dry-run", "--json", *flags).lines[-1])

    full, lora = cost(), cost("--method", "lora", "--rank", 2)
    assert lora["disk"] < full["disk"] / 10
    assert lora["memory"] < full["memory"]
    # The denoiser's own backward pass is needed all the same, but for its weights.
    assert 0.5 < lora["flop"] / full["flop"] < 1
    assert "LoRA of rank 2" in str(lora["work"])
