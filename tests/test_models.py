"""Group 13: only safetensors are read, no model's code runs, and only a whole model is used."""

from __future__ import annotations

import ast
import json
import pickle  # noqa: TID251 - to plant one
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from drive import digests, done, imagic
from refusals import Planted, edit_json, optimize, pixels, refused
from safetensors.torch import load_file, save_file

PACKAGE = Path(__file__).parents[1] / "imagic_cli"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(models: Path, tmp_path: Path) -> Path:
    """A model to damage."""
    folder = tmp_path / "model"
    shutil.copytree(models / "sd", folder)
    return folder


@pytest.mark.parametrize("suffix", ["bin", "ckpt", "pt", "pth", "pkl"])
def test_pickled_weights_are_refused_unread(suffix: str, photo: Path, model: Path) -> None:
    for path in model.rglob("*.safetensors"):
        path.with_suffix(f".{suffix}").write_bytes(pickle.dumps(Planted()))
        path.unlink()
    refused(optimize(photo, model), "has only pickled weights, which can run code", "convert them to safetensors")
    assert not Path("ran").exists()
    assert not Path("run").exists()


def test_pickles_beside_safetensors_are_left_unread(photo: Path, model: Path) -> None:
    for path in list(model.rglob("*.safetensors")):
        path.with_suffix(".bin").write_bytes(pickle.dumps(Planted()))
        (path.parent / "pytorch_model.bin").write_bytes(pickle.dumps(Planted()))
    assert optimize(photo, model).code == 0
    done("generate", "--run", "run", "--steps", 2)
    assert not Path("ran").exists()


def test_code_in_a_models_folder_never_runs(photo: Path, model: Path) -> None:
    code = "import pathlib\npathlib.Path('ran').touch()\nclass Own: pass\n"
    for name in ("pipeline", "own", "unet/own", "unet/unet_2d_condition", "text_encoder/own", "tokenizer/own"):
        (model / f"{name}.py").write_text(code)
    automatic = {"AutoModel": "own.Own", "AutoConfig": "own.Own", "AutoTokenizer": ["own.Own", None]}
    for component in ("text_encoder/config.json", "tokenizer/tokenizer_config.json", "unet/config.json"):
        edit_json(model / component, auto_map=automatic)
    edit_json(model / "model_index.json", unet=["own", "Own"], text_encoder=["pipeline", "Own"])
    assert optimize(photo, model).code == 0
    done("finetune", "--run", "run", "--steps", 1)
    done("generate", "--run", "run", "--steps", 2)
    edit_json(model / "model_index.json", _class_name=["own", "Own"])
    refused(optimize(photo, model), "asks to run code of its own")
    edit_json(model / "model_index.json", _class_name="Own")
    refused(optimize(photo, model), "is a Own", "supported: StableDiffusionPipeline")
    assert not Path("ran").exists()


def _without_first_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors[min(tensors)]
    save_file(tensors, path, metadata={"format": "pt"})


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


WRONG: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no index": (lambda model: (model / "model_index.json").unlink(), ["has no model_index.json"]),
    "index is no JSON": (
        lambda model: (model / "model_index.json").write_text("{"),
        ["model_index.json cannot be read"],
    ),
    "index is a list": (lambda model: (model / "model_index.json").write_text("[]"), ["is not a JSON object"]),
    "deep index": (lambda model: (model / "model_index.json").write_text("[" * 10**5), ["cannot be read"]),
    "another family": (
        lambda model: edit_json(model / "model_index.json", _class_name="FluxPipeline"),
        ["is a FluxPipeline", "supported: StableDiffusionPipeline, StableDiffusionXLPipeline"],
    ),
    "no unet": (lambda model: shutil.rmtree(model / "unet"), ["has no unet config"]),
    "no vae": (lambda model: shutil.rmtree(model / "vae"), ["has no vae config"]),
    "no scheduler": (lambda model: shutil.rmtree(model / "scheduler"), ["has no scheduler config"]),
    "no text encoder": (lambda model: shutil.rmtree(model / "text_encoder"), ["text_encoder"]),
    "no tokenizer": (lambda model: shutil.rmtree(model / "tokenizer"), ["tokenizer"]),
    "no vocabulary": (
        lambda model: [
            (model / "tokenizer" / name).unlink() for name in ("vocab.json", "merges.txt", "tokenizer.json")
        ],
        ["tokenizer cannot be loaded: its vocabulary has 2 entries"],
    ),
    "no weights": (lambda model: (model / UNET).unlink(), ["unet has no weights"]),
    "weights cut": (lambda model: _cut(model / UNET), ["unet cannot be loaded"]),
    "text weights cut": (
        lambda model: _cut(model / "text_encoder/model.safetensors"),
        ["text_encoder cannot be loaded"],
    ),
    "a tensor short": (lambda model: _without_first_tensor(model / UNET), ["1 of its tensors are missing, such as"]),
    "text a tensor short": (
        lambda model: _without_first_tensor(model / "text_encoder/model.safetensors"),
        ["text_encoder", "tensors are missing"],
    ),
    "a vae for a unet": (
        lambda model: [shutil.rmtree(model / "unet"), shutil.copytree(model / "vae", model / "unet")],
        ["unet cannot be loaded"],
    ),
    "a unet for a vae": (
        lambda model: [shutil.rmtree(model / "vae"), shutil.copytree(model / "unet", model / "vae")],
        ["vae cannot be loaded"],
    ),
    "a unet for a text encoder": (
        lambda model: [shutil.rmtree(model / "text_encoder"), shutil.copytree(model / "unet", model / "text_encoder")],
        ["cannot be loaded"],
    ),
    "an empty config": (lambda model: (model / "unet/config.json").write_text("{}"), ["config cannot be loaded"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_is_not_whole_is_refused(name: str, photo: Path, model: Path) -> None:
    damage, parts = WRONG[name]
    damage(model)
    refused(optimize(photo, model), *parts)
    assert not Path("run/embeddings.safetensors").exists()


def test_sharded_weights_are_the_same_model_to_the_bit(photo: Path, models: Path, model: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    shutil.rmtree(model / "unet")
    unet.save_pretrained(model / "unet", max_shard_size="150KB")
    assert len(list((model / "unet").glob("*-of-*.safetensors"))) > 2
    assert optimize(photo, models / "sd", run="whole").code == 0
    assert optimize(photo, model, run="sharded").code == 0
    for run in ("whole", "sharded"):
        done("generate", "--run", run, "--steps", 2)
    assert pixels("whole") == pixels("sharded")
    shard = max((model / "unet").glob("*-of-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-4] + b"\0\0\0\1")
    result = imagic("finetune", "--run", "sharded")
    assert (result.code, "its files changed" in result.err) == (4, True), result.err
    shard.unlink()
    refused(optimize(photo, model, run="short"), "unet cannot be loaded")


def test_a_variant_must_be_named(photo: Path, model: Path) -> None:
    for component in ("unet", "vae", "text_encoder"):
        (path,) = (model / component).glob("*.safetensors")
        half = {name: tensor.half() for name, tensor in load_file(path).items()}
        save_file(half, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        path.unlink()
    refused(optimize(photo, model), "only variants", "--variant fp16")
    refused(optimize(photo, model, "--variant", "bf16"), "only variants", "--variant fp16")
    assert optimize(photo, model, "--variant", "fp16").code == 0
    done("generate", "--run", "run", "--steps", 2)
    assert json.loads(Path("run/run.json").read_text())["model"]["variant"] == "fp16"


def test_names_of_older_files_are_understood(photo: Path, models: Path, model: Path) -> None:
    """The VAE's attention and the text encoder as the files on the hub call them."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    path = model / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = {}
    for name, tensor in load_file(path).items():
        for new, before in old.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{before}.")
        tensors[name] = tensor
    assert any(".query." in name for name in tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    path = model / "text_encoder" / "model.safetensors"
    prefixed = {f"text_model.{name.removeprefix('text_model.')}": each for name, each in load_file(path).items()}
    save_file(prefixed, path, metadata={"format": "pt"})
    for run, folder in (("old", model), ("new", models / "sd")):
        assert optimize(photo, folder, run=run).code == 0
        done("generate", "--run", run, "--steps", 2)
    assert pixels("old") == pixels("new")


FORBIDDEN_NAMES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {
    ("torch", "load"),
    ("os", "system"),
    ("os", "popen"),
    ("hub", "load"),
}
# A recorded step is compiled from what fx writes of operations that this process has just made: of no file.
GENERATED = {"program.py": ["exec", "compile"]}
FORBIDDEN_OPTIONS = {"trust_remote_code", "custom_pipeline", "custom_revision", "shell", "allow_pickle", "weights_only"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_in_the_package_can_run_what_it_reads(path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                found += [each.name for each in names if each.name.split(".")[0] in FORBIDDEN_NAMES]
            case ast.ImportFrom(module=str(name)):
                found += [name] if name.split(".")[0] in FORBIDDEN_NAMES else []
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                found.append(name)
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if (owner, name) in FORBIDDEN_METHODS:
                found.append(f"{owner}.{name}")
            case ast.keyword(arg=str(name)) if name in FORBIDDEN_OPTIONS:
                found.append(name)
            case ast.keyword(arg="use_safetensors", value=ast.Constant(value=False)):
                found.append("use_safetensors=False")
            case ast.Constant(value=str(text)) if text in FORBIDDEN_OPTIONS - {"shell"}:
                found.append(text)
    assert found == GENERATED.get(str(path.relative_to(PACKAGE)), [])


def test_the_models_files_are_only_read(photo: Path, model: Path) -> None:
    before = digests(model)
    assert optimize(photo, model).code == 0
    done("finetune", "--run", "run", "--steps", 1)
    done("generate", "--run", "run", "--steps", 2)
    assert digests(model) == before
