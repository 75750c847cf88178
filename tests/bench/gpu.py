"""Speed and memory on a CUDA device, on the Stable Diffusion 1.x shape: 860 M parameters, random weights, 512 x 512.

    python tests/bench/gpu.py --work FOLDER [--json FILE] [--peer imagic_stable_diffusion.py] [--only PART ...]

One process runs the paper's recipe through the command line, as a user would but for `--checkpoint-every 0` and
`--probe-every 0`: 1000 steps of A, 1500 of B over every weight, an image of 50 guided steps, then eight in one call.
Beside it: the first steps of a LoRA's B, of one with 8-bit moments where bitsandbytes is installed, and of one that
writes a checkpoint every few seconds; those of A and B without a graph, whose losses must be those of the graph (made
twice: what differs between the two, no graph can be blamed for); and with `--peer` diffusers' community pipeline on the
same model, driven as `peers.py` does. Each part's numbers are a line of JSON as soon as they are there, and a
part that fails leaves the others alone. `--quick` is a toy model and few steps on any device, to try the script.

Seconds of a stage are of the whole command, loading and saving included; those of a step are a median. Memory is in GB
(1e9 bytes), the most at once. The floor of a step is its FLOPs at the machine's own rate of a large fp16 product, and
for B also Adam's 30 bytes for each parameter at the rate of a large copy.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import io
import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
import peers
import toys
from clock import Clock, EnoughError
from flops import flops, parameters
from peers import TEXT, median_gap

import imagic_cli.backends.stable_diffusion
import imagic_cli.stages.finetune
import imagic_cli.stages.generate
import imagic_cli.stages.optimize  # noqa: F401
from imagic_cli.artifacts import Progress
from imagic_cli.cli import run
from imagic_cli.stages import checkpoints, training

PARTS = ("machine", "A", "B", "image", "images", "eager", "LoRA", "8-bit", "checkpoints", "peer", "again")
STAGES = ("A", "B", "image")
ADAM_BYTES = 30
NO_CHECKPOINTS = ("--checkpoint-every", 0)


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory() -> dict[str, float]:
    if not torch.cuda.is_available():
        return {}
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"allocated GB": round(allocated / 1e9, 2), "reserved GB": round(reserved / 1e9, 2)}


class Bench:
    """The parts; what one found is there for the others.

    Args:
        given: the command line.
        model: the model's folder.
        photo: the picture.
        side: its side, pixels.
    """

    def __init__(self, given: argparse.Namespace, model: Path, photo: Path, side: int) -> None:
        self.given, self.model, self.photo, self.side = given, model, photo, side
        self.clock = Clock()
        self.losses: dict[str, list[float]] = {}
        self.found: dict[str, dict[str, object]] = {}
        quick = given.quick
        self.steps = {"A": 12, "B": 12, "image": 6} if quick else {"A": 1000, "B": 1500, "image": 50}
        self.few = 8 if quick else 60
        self.many = 12 if quick else 100
        self.peer_steps = 8 if quick else 40

    def imagic(self, *arguments: object, most: int | None = None) -> float:
        """Seconds of one command; with `most` it ends after so many updates, and nothing is saved."""
        release()
        self.clock.forget(most)
        heard = io.StringIO()
        begun = time.perf_counter()
        try:
            with redirect_stdout(heard), redirect_stderr(heard):
                code = run([*(str(each) for each in arguments), "--quiet", "--debug"])
            if code:
                raise RuntimeError(f"exit code {code}: {heard.getvalue()}")
        except EnoughError:
            pass
        return time.perf_counter() - begun

    def optimize(self, folder: str, most: int | None = None) -> float:
        settings = ["--steps", self.steps["A"], "--lr", 2e-3, "--batch", 1, "--checkpoint-every", 0, "--probe-every", 0]
        where = ["--model", self.model, "--run", self.given.work / folder]
        return self.imagic("optimize", self.photo, TEXT, *where, *settings, most=most)

    def finetune(
        self, folder: str, *method: object, most: int | None = None, checkpoints: Sequence[object] = NO_CHECKPOINTS
    ) -> float:
        settings = ["--steps", self.steps["B"], "--batch", 1, *checkpoints, "--probe-every", 0]
        return self.imagic("finetune", "--run", self.given.work / folder, *settings, *method, most=most)

    def copy(self, folder: str) -> str:
        """A run with stage A's result and no other."""
        target = self.given.work / folder
        shutil.rmtree(target, ignore_errors=True)
        ignored = shutil.ignore_patterns("weights*", "images", "samples*", ".lock", ".progress", "variants")
        shutil.copytree(self.given.work / "run", target, ignore=ignored)
        return folder

    def trained(self, seconds: float) -> dict[str, object]:
        step = median_gap(self.clock.updates)
        steps = len(self.clock.updates)
        first = self.clock.updates[0] - self.clock.begun[0]
        spent = {"seconds": seconds, "steps": steps, "step ms": 1e3 * step}
        return spent | {"training s": self.clock.updates[-1] - self.clock.begun[0], "first step s": first} | memory()

    def machine(self) -> dict[str, object]:
        """What the device does at best, with what is installed."""
        names = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors")
        about: dict[str, object] = {name: version(name) for name in names}
        if not torch.cuda.is_available():
            return about | {"device": "cpu"}
        about |= {"device": torch.cuda.get_device_name(), "GB": torch.cuda.get_device_properties(0).total_memory / 1e9}
        side = 1024 if self.given.quick else 8192
        for dtype in (torch.float16, torch.bfloat16):
            left, right = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
            name = str(dtype).removeprefix("torch.")
            about[f"{name} TFLOP/s"] = 2e-12 * side**3 / launched(lambda left=left, right=right: left @ right)
        source = torch.empty(1 << (24 if self.given.quick else 32), dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        about["copy TB/s"] = 2e-12 * source.nbytes / launched(lambda: target.copy_(source))
        return about

    def stage_a(self) -> dict[str, object]:
        """Stage A, all of it."""
        shutil.rmtree(self.given.work / "run", ignore_errors=True)
        found = self.trained(self.optimize("run"))
        self.losses["A"] = self.clock.losses
        return found

    def stage_b(self) -> dict[str, object]:
        """Stage B, all of it."""
        found = self.trained(self.finetune("run", "--method", "full", "--lr", 5e-7))
        self.losses["B"] = self.clock.losses
        return found

    def rescue(self, stage: str) -> None:
        """A result of few steps without a graph: the parts that follow need one."""
        self.steps[stage] = self.few
        try:
            # In this part alone: what fails in one may work in the next.
            with mock.patch.object(training, "is_graphed", lambda *_: False):
                if stage == "A":
                    self.optimize("run")
                else:
                    self.finetune("run", "--method", "full", "--lr", 5e-7)
        except Exception:
            say({"part": f"{stage} without a graph", "failed": traceback.format_exc()})

    def image(self) -> dict[str, object]:
        """One guided image."""
        return self.sampled("--eta", 0.7, "--seed", 0)

    def images(self) -> dict[str, object]:
        """Eight in one call, four at a time."""
        return self.sampled("--eta", 0.7, "--seeds", 8)

    def sampled(self, *which: object) -> dict[str, object]:
        settings = ["--steps", self.steps["image"], "--guidance", 7.5, "--force"]
        seconds = self.imagic("generate", "--run", self.given.work / "run", *which, *settings)
        ended = time.perf_counter()
        spent = {"seconds": seconds, "after loading s": ended - self.clock.begun[0]}
        return spent | {"step ms": 1e3 * self.clock.step()} | memory()

    def eager(self) -> dict[str, object]:
        """The first steps of A and B without a graph."""
        found: dict[str, object] = {}
        with mock.patch.object(training, "is_graphed", lambda *_: False):
            for stage in ("A", "B"):
                if stage == "A":
                    shutil.rmtree(self.given.work / "eager", ignore_errors=True)
                    seconds = self.optimize("eager", most=self.few)
                else:
                    seconds = self.finetune(self.copy("eager"), "--method", "full", "--lr", 5e-7, most=self.few)
                found[stage] = self.trained(seconds) | {
                    f"difference from {name}": apart(self.clock.losses, self.losses[name])
                    for name in (stage, f"eager {stage}")
                    if name in self.losses
                }
                self.losses[f"eager {stage}"] = self.clock.losses
        return found

    def lora(self) -> dict[str, object]:
        """The first steps of B over a LoRA."""
        return self.trained(self.finetune(self.copy("lora"), "--method", "lora", "--lr", 1e-4, most=self.many))

    def eight_bit(self) -> dict[str, object]:
        """The first steps of B with 8-bit moments."""
        method = ("--method", "full", "--lr", 5e-7, "--optimizer", "adam8bit")
        return self.trained(self.finetune(self.copy("8bit"), *method, most=self.many))

    def checkpoints(self) -> dict[str, object]:
        """The first steps of B, with a checkpoint every few seconds: how long the loop waits, how long each takes."""
        often = mock.patch.multiple(checkpoints, _SECONDS=0.01 if self.given.quick else 4.0, _SHARE=0)
        method = ("--method", "full", "--lr", 5e-7)
        most = min(3 * self.many, self.steps["B"] - 1)
        with often, timed(checkpoints.Checkpoints, "save") as waited, timed(Progress, "save") as written:
            seconds = self.finetune(self.copy("checkpoints"), *method, most=most, checkpoints=())
        size = (self.given.work / "checkpoints/.progress/finetune.safetensors").stat().st_size
        return self.trained(seconds) | {"the loop waits s": waited, "each takes s": written, "each GB": size / 1e9}

    def peer(self) -> dict[str, object]:
        """The community pipeline."""
        release()
        peer = peers.Community(self.given.peer, self.model, self.photo)
        found: dict[str, object] = {}
        for stage, a, b in (("A", self.peer_steps, 0), ("B", 0, self.peer_steps)):
            release()
            self.clock.forget(None)
            peer.train(a, b)
            step = 1e3 * self.clock.step()
            found[stage] = {"step ms": step} | memory() | self.ratio(stage, step, "step ms")
        # What training leaves would be counted to the image.
        peer.pipeline.unet.zero_grad(set_to_none=True)
        release()
        self.clock.forget(None)
        begun = time.perf_counter()
        peer.sample(self.steps["image"])
        seconds = time.perf_counter() - begun
        ratio = self.ratio("image", seconds, "after loading s")
        found["image"] = {"seconds": seconds, "step ms": 1e3 * self.clock.step()} | memory() | ratio
        return found

    def ratio(self, stage: str, theirs: float, what: str) -> dict[str, float]:
        ours = self.found.get(stage, {}).get(what)
        return {"peer / ours": theirs / ours} if isinstance(ours, float) else {}

    def summary(self) -> dict[str, object]:
        """Each stage beside what the machine could do."""
        machine = self.found.get("machine", {})
        rate, copy = (machine.get(name) for name in ("float16 TFLOP/s", "copy TB/s"))
        table: dict[str, object] = {}
        work = flops(self.model, self.side)
        for stage, count in zip(STAGES, (work["A"], work["B"], work["sampling"]), strict=True):
            step = self.found.get(stage, {}).get("step ms")
            if isinstance(step, float) and isinstance(rate, float) and isinstance(copy, float):
                update = ADAM_BYTES * parameters(self.model) if stage == "B" else 0
                least = count / rate / 1e12 + update / copy / 1e12
                share = count / (step / 1e3) / 1e12 / rate
                table[stage] = {"floor ms": 1e3 * least, "share of floor": 1e3 * least / step, "share of rate": share}
        seconds = [self.found.get(stage, {}).get("seconds") for stage in STAGES]
        whole = sum(each for each in seconds if isinstance(each, float)) if all(seconds) else None
        return {"part": "summary", "whole edit s": whole, "stages": table, "found": self.found}

    def all(self, parts: list[str]) -> None:
        """Every part in its turn."""
        works: dict[str, Callable[[], dict[str, object]]] = {
            "machine": self.machine,
            "A": self.stage_a,
            "B": self.stage_b,
            "image": self.image,
            "images": self.images,
            "eager": self.eager,
            "LoRA": self.lora,
            "8-bit": self.eight_bit,
            "checkpoints": self.checkpoints,
            "peer": self.peer,
            "again": self.eager,
        }
        for part in parts:
            begun = time.perf_counter()
            try:
                self.found[part] = works[part]()
            except Exception:  # The machine is lent once: the other parts are still worth having.
                self.found[part] = {"failed": traceback.format_exc()}
                if part in ("A", "B"):
                    self.rescue(part)
            say({"part": part, "took s": time.perf_counter() - begun} | self.found[part])


@contextmanager
def timed(kind: type, name: str) -> Iterator[list[float]]:
    """The seconds of every call of a method while this is entered."""
    seconds: list[float] = []
    real = getattr(kind, name)

    def called(*arguments: object, **options: object) -> object:
        begun = time.perf_counter()
        try:
            return real(*arguments, **options)
        finally:
            seconds.append(time.perf_counter() - begun)

    with mock.patch.object(kind, name, called):
        yield seconds


def launched(work: Callable[[], object], times: int = 20) -> float:
    """Seconds of one of many launches, by the device's own clock."""
    for _ in range(3):
        work()
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    for _ in range(times):
        work()
    ended.record()
    torch.cuda.synchronize()
    return begun.elapsed_time(ended) / 1e3 / times


def apart(some: list[float], others: list[float]) -> dict[str, float]:
    """How far the losses of the same steps lie apart at most, and how many are the same to the bit."""
    pairs = list(zip(some, others, strict=False))
    same = sum(a == b for a, b in pairs)
    return {"most": max(abs(a - b) for a, b in pairs), "equal": same, "of": len(pairs)}


def say(found: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where the model and the runs lie")
    parser.add_argument("--json", type=Path, help="write everything there too")
    parser.add_argument("--peer", type=Path, help="the community pipeline's file")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--quick", action="store_true", help="a toy model and few steps, on any device")
    given = parser.parse_args()
    given.work = given.work.resolve()
    model, photo, side = given.work / "model", given.work / "photo.png", 64 if given.quick else 512
    given.work.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    if not (model / "model_index.json").exists():
        if given.quick:
            toys.stable_diffusion(model)
        else:
            import memory as shape

            shape.build(model)
    Image.effect_noise((side, side), 80).convert("RGB").save(photo)
    say({"part": "build", "took s": time.perf_counter() - begun})
    bench = Bench(given, model, photo, side)
    try:
        absent = {"peer": not given.peer, "8-bit": importlib.util.find_spec("bitsandbytes") is None}
        bench.all([part for part in PARTS if part in given.only and not absent.get(part)])
    finally:
        summary = bench.summary()
        if given.json:
            given.json.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        say(summary)


if __name__ == "__main__":
    main()
