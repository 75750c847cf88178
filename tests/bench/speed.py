"""Speed and memory beside diffusers' community Imagic pipeline: the same model, photograph, steps, batch and threads.

    python tests/bench/speed.py --peer imagic_stable_diffusion.py (--model FOLDER | --width SHARE) [--steps 40]

The peer's file is not ours and not in the repository: take examples/community/imagic_stable_diffusion.py from the
diffusers repository at the version that is installed. It is driven as its users drive it, through `train` and a call,
with two changes: its mixed precision is off where there is no GPU (accelerate refuses it there), and without a safety
checker. Ours runs through its command line in the process that is measured. Both take turns, so that both meet the same
disturbances of the machine; a ratio is the median of the rounds' ratios, and the spread is their range.

With --width the model is Stable Diffusion 1.x with random weights, its UNet that many times as wide as the real one.

Seconds: a step of A and of B; an image (ours loads the model for it, the peer has it loaded); from the start of the
process to the first pass of the denoiser. Memory: the peak of all that, MiB, above what the imports take.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import torch

TEXT = "a bird spreading wings"
IMAGE_STEPS = 25
# Every process times these: the first calls of a network choose kernels and allocate.
WARM_UP = 3


class Stopwatch:
    """When each forward pass of the denoiser began: the steps of whatever runs are what lies between."""

    def __init__(self, started: float) -> None:
        from diffusers import UNet2DConditionModel

        self.start_up = 0.0

        self.begun: list[float] = []
        forward = UNet2DConditionModel.forward

        def timed(*arguments: object, **options: object) -> object:
            self.start_up = self.start_up or time.time() - started
            self.begun.append(time.perf_counter())
            return forward(*arguments, **options)

        UNet2DConditionModel.forward = timed

    def step(self, work: Callable[[], object]) -> float:
        """Median seconds from one forward pass of `work` to the next."""
        self.begun.clear()
        work()
        gaps = [after - before for before, after in zip(self.begun, self.begun[1:], strict=False)]
        return statistics.median(gaps[WARM_UP:])


def say(found: object, indent: int | None = None) -> None:
    sys.stdout.write(json.dumps(found, indent=indent) + "\n")


def memory() -> float:
    """Peak resident memory of this process, MiB (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(given: argparse.Namespace) -> dict[str, float]:
    """One round of `imagic`."""
    import imagic_cli.backends.stable_diffusion
    import imagic_cli.stages.finetune
    import imagic_cli.stages.generate
    import imagic_cli.stages.optimize  # noqa: F401
    from imagic_cli.cli import run

    def imagic(*arguments: object) -> Callable[[], None]:
        def call() -> None:
            with redirect_stdout(StringIO()):
                code = run([*(str(each) for each in arguments), "--run", str(given.work), "--quiet"])
            if code:
                sys.exit(code)

        return call

    # The paper's settings and no others: one draw a step.
    common = ["--steps", given.steps, "--batch", 1, "--probe-every", 0]
    watch = Stopwatch(given.started)
    before = memory()
    a = watch.step(imagic("optimize", given.photo, TEXT, "--model", given.model, *common, "--lr", 1e-3))
    b = watch.step(imagic("finetune", *common, "--lr", 2e-6))
    begun = time.perf_counter()
    imagic("generate", "--eta", 0.7, "--steps", IMAGE_STEPS)()
    image = time.perf_counter() - begun
    return {"A": a, "B": b, "image": image, "start-up": watch.start_up, "memory": memory() - before}


def peer(given: argparse.Namespace) -> dict[str, float]:
    """One round of the community pipeline."""
    import accelerate
    from diffusers import StableDiffusionPipeline
    from PIL import Image

    if not torch.cuda.is_available():
        real = accelerate.Accelerator
        accelerate.Accelerator = lambda **options: real(**options | {"mixed_precision": "no"})
    spec = importlib.util.spec_from_file_location("peer", given.peer)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    watch = Stopwatch(given.started)
    before = memory()
    parts = StableDiffusionPipeline.from_pretrained(given.model, safety_checker=None).components
    parts.pop("image_encoder", None)
    pipeline = module.ImagicStableDiffusionPipeline(**parts)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    image = Image.open(given.photo).convert("RGB")
    side = {"height": image.height, "width": image.width}

    def train(a: int, b: int) -> Callable[[], None]:
        return lambda: pipeline.train(
            TEXT,
            image,
            **side,
            generator=torch.Generator().manual_seed(0),
            text_embedding_optimization_steps=a,
            model_fine_tuning_optimization_steps=b,
        )

    a, b = watch.step(train(given.steps, 0)), watch.step(train(0, given.steps))
    begun = time.perf_counter()
    pipeline(alpha=0.7, num_inference_steps=IMAGE_STEPS, **side)
    image = time.perf_counter() - begun
    return {"A": a, "B": b, "image": image, "start-up": watch.start_up, "memory": memory() - before}


def rounds(arguments: argparse.Namespace, photo: Path) -> dict[str, list[dict[str, float]]]:
    """Both programs in turn, each in a process of its own."""
    found: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for turn in range(arguments.rounds):
        for name in sorted(found, reverse=turn % 2 == 1):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, "--one", name, "--photo", str(photo), "--work", f"{folder}/run"]
                command += ["--model", str(arguments.model), "--peer", str(arguments.peer)]
                command += ["--steps", str(arguments.steps), "--started", str(time.time())]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            sys.stderr.write(f"{turn + 1}/{arguments.rounds} {name}: {found[name][-1]}\n")
    return found


def sweep(given: argparse.Namespace, photo: Path) -> dict[str, float]:
    """Seconds for forty images (5 eta, 8 seeds) in one call, and for the forty calls that they would be (of four)."""

    def imagic(*arguments: object) -> float:
        begun = time.perf_counter()
        command = [sys.executable, "-m", "imagic_cli", *(str(each) for each in arguments), "--quiet"]
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - begun

    with tempfile.TemporaryDirectory() as folder:
        run = ["--run", f"{folder}/run"]
        imagic("optimize", photo, TEXT, "--model", given.model, "--steps", 1, *run)
        imagic("finetune", "--steps", 1, *run)
        sampling = ["--steps", IMAGE_STEPS, *run]
        single = [imagic("generate", "--eta", 0.7, "--seed", seed, *sampling) for seed in range(100, 104)]
        together = imagic("generate", "--eta", "0.6:0.8:0.05", "--seeds", 8, *sampling)
    alone = 40 * statistics.median(single)
    return {"one call": together, "forty calls": alone, "ratio": alone / together}


def compared(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """For each quantity both medians, and the peer's over ours: its median and range over the rounds."""
    table = {}
    for what in found["ours"][0]:
        mine, theirs = ([each[what] for each in found[name]] for name in ("ours", "peer"))
        ratios = sorted(b / a for a, b in zip(mine, theirs, strict=True))
        table[what] = {
            "ours": statistics.median(mine),
            "peer": statistics.median(theirs),
            "peer / ours": statistics.median(ratios),
            "least": ratios[0],
            "most": ratios[-1],
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="the community pipeline's file")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, help="a Stable Diffusion folder")
    which.add_argument("--width", type=float, help="of a random UNet, as a share of Stable Diffusion's")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=128, help="side of the picture, pixels")
    parser.add_argument("--json", type=Path, help="write the table there too")
    parser.add_argument("--one", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--photo", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        say({"ours": ours, "peer": peer}[given.one](given))
        return
    from imagic_cli.sketchbook.scenes import Scene

    with tempfile.TemporaryDirectory() as folder:
        if given.width:
            import memory as shape

            given.model = Path(folder) / "model"
            shape.build(given.model, given.width)
        photo = Path(folder) / "photo.png"
        Scene.from_text("a red bird on grass", 4).draw(given.size).save(photo)
        table = compared(rounds(given, photo)) | {"sweep": sweep(given, photo)}
    about = {
        "versions": {name: version(name) for name in ("torch", "diffusers", "accelerate")},
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "processor": platform.processor() or platform.machine(),
        "steps": given.steps,
        "rounds": given.rounds,
    }
    found = {"about": about, "table": table}
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    say(found, indent=2)


if __name__ == "__main__":
    main()
