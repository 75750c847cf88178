"""Speed and memory beside diffusers' own programs: the same model, photograph, steps, batch and threads.

    python tests/bench/speed.py --peer imagic_stable_diffusion.py (--model FOLDER | --width SHARE) [--steps 40]
        [--dtype bf16] [--dreambooth train_dreambooth.py] [--no-sweep]

What the peers are and how they are driven: `peers.py`. Ours runs through its command line in the process that is
measured. The programs take turns, so that all meet the same disturbances of the machine; a ratio is the median of the
rounds' ratios, and the spread is their range.

--dtype is for ours: the peers compute in fp32. With --width the model is Stable Diffusion 1.x with random weights, its
UNet that many times as wide as the real one.

Seconds: a step of A, of B and of guided sampling; an image (ours loads the model for it, the community pipeline has it
loaded); from the start of the process to the first pass of the denoiser. Memory: the peak of all that, MiB, above what
the imports take. Share: the model's FLOPs of a step at the rate of a large matrix product on this machine, in the time
of the step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import peers
import resident
import torch
from flops import flops
from peers import TEXT, Forwards, median_gap

from imagic_cli.cli import ENVIRONMENT
from imagic_cli.plan import product_rate
from imagic_cli.precision import DTYPES, pick_dtype


def say(found: object, indent: int | None = None) -> None:
    sys.stdout.write(json.dumps(found, indent=indent) + "\n")


class Measured:
    """The quantities of one round of one program."""

    def __init__(self, started: float, forwards: Forwards) -> None:
        self.started = started
        self.forwards = forwards
        self.imports = resident.peak()
        self.found: dict[str, float] = {}

    def step(self, name: str, times: list[float] | None = None) -> None:
        """What has run since the last call was this stage. Its steps began with the denoiser's passes, or as given."""
        self.found[name] = median_gap(times or self.forwards.begun)
        self.forwards.begun.clear()

    def all(self) -> dict[str, float]:
        assert self.forwards.first is not None
        start_up = self.forwards.first - self.started
        return self.found | {"start-up": start_up, "memory": resident.peak() - self.imports}


def ours(given: argparse.Namespace) -> dict[str, float]:
    """One round of `imagic`."""
    from clock import Clock

    import imagic_cli.backends.stable_diffusion
    import imagic_cli.stages.finetune
    import imagic_cli.stages.generate
    import imagic_cli.stages.optimize  # noqa: F401
    from imagic_cli.cli import run

    def imagic(*arguments: object) -> None:
        shared = ["--run", given.work / "run", "--dtype", given.dtype, "--quiet"]
        with redirect_stdout(StringIO()):
            code = run([str(each) for each in (*arguments, *shared)])
        if code:
            sys.exit(code)

    # The paper's settings and no others: one draw a step.
    common = ["--steps", given.steps, "--batch", 1, "--probe-every", 0]
    clock = Clock()
    measured = Measured(given.started, clock)
    photo = ["optimize", given.photo, TEXT, "--size", given.size]
    imagic(*photo, "--model", given.model, *common, "--lr", 1e-3)
    measured.step("A", clock.updates)
    clock.forget(None)
    imagic("finetune", *common, "--lr", 2e-6)
    measured.step("B", clock.updates)
    begun = time.perf_counter()
    imagic("generate", "--eta", 0.7, "--steps", given.image_steps, "--guidance", 7.5)
    measured.found["image"] = time.perf_counter() - begun
    measured.step("sampling")
    return measured.all()


def community(given: argparse.Namespace) -> dict[str, float]:
    """One round of the community pipeline."""
    measured = Measured(given.started, Forwards())
    peer = peers.Community(given.peer, given.model, given.photo)
    peer.train(given.steps, 0)
    measured.step("A")
    peer.train(0, given.steps)
    measured.step("B")
    begun = time.perf_counter()
    peer.sample(given.image_steps)
    measured.found["image"] = time.perf_counter() - begun
    measured.step("sampling")
    return measured.all()


def dreambooth(given: argparse.Namespace) -> dict[str, float]:
    """One round of DreamBooth, which is stage B alone."""
    measured = Measured(given.started, Forwards())
    peers.dreambooth(given.dreambooth, given.model, given.photo, given.work, given.steps)
    measured.step("B")
    return measured.all()


PROGRAMS = {"ours": ours, "community": community, "dreambooth": dreambooth}


def rounds(given: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """All programs in turn, each in a process of its own."""
    names = ["ours", "community", *(["dreambooth"] if given.dreambooth else [])]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    shared = ("photo", "model", "peer", "dreambooth", "steps", "image_steps", "size", "dtype")
    told = [f"--{name.replace('_', '-')}={value}" for name in shared if (value := getattr(given, name)) is not None]
    for turn in range(given.rounds):
        for name in sorted(found, reverse=turn % 2 == 1):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, *told, "--one", name, "--work", folder]
                command += ["--started", str(time.time())]
                environment = os.environ | (ENVIRONMENT if name == "ours" else {})
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            sys.stderr.write(f"{turn + 1}/{given.rounds} {name}: {found[name][-1]}\n")
    return found


def sweep(given: argparse.Namespace) -> dict[str, float]:
    """Seconds for forty images (5 eta, 8 seeds) in one call, and for the forty calls that they would be (of four)."""

    def imagic(*arguments: object) -> float:
        begun = time.perf_counter()
        command = [sys.executable, "-m", "imagic_cli", *(str(each) for each in arguments), "--quiet"]
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - begun

    with tempfile.TemporaryDirectory() as folder:
        run = ["--run", f"{folder}/run"]
        imagic("optimize", given.photo, TEXT, "--model", given.model, "--size", given.size, "--steps", 1, *run)
        imagic("finetune", "--steps", 1, *run)
        sampling = ["--steps", given.image_steps, *run]
        single = [imagic("generate", "--eta", 0.7, "--seed", seed, *sampling) for seed in range(100, 104)]
        together = imagic("generate", "--eta", "0.6:0.8:0.05", "--seeds", 8, *sampling)
    alone = 40 * statistics.median(single)
    return {"one call": together, "forty calls": alone, "ratio": alone / together}


def compared(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """For each peer and quantity both medians, and the peer's over ours: its median and range over the rounds."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for peer in [name for name in found if name != "ours"]:
        for what in found[peer][0]:
            mine, theirs = ([each[what] for each in found[name]] for name in ("ours", peer))
            ratios = sorted(b / a for a, b in zip(mine, theirs, strict=True))
            table.setdefault(peer, {})[what] = {
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
    parser.add_argument("--dreambooth", type=Path, help="the DreamBooth script's file")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, help="a Stable Diffusion folder")
    which.add_argument("--width", type=float, help="of a random UNet, as a share of Stable Diffusion's")
    parser.add_argument("--steps", type=int, default=40, help="of A and of B")
    parser.add_argument("--image-steps", type=int, default=25)
    parser.add_argument("--dtype", default="auto", help="of ours")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=128, help="side of the picture, pixels")
    parser.add_argument("--no-sweep", action="store_true", help="leave out the forty images in one call")
    parser.add_argument("--json", type=Path, help="write the table there too")
    parser.add_argument("--one", choices=list(PROGRAMS), help=argparse.SUPPRESS)
    parser.add_argument("--photo", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        say(PROGRAMS[given.one](given))
        return
    from imagic_cli.sketchbook.scenes import Scene

    with tempfile.TemporaryDirectory() as folder:
        if given.width:
            import memory as shape

            given.model = Path(folder) / "model"
            shape.build(given.model, given.width)
        given.photo = Path(folder) / "photo.png"
        Scene.from_text("a red bird on grass", 4).draw(given.size).save(given.photo)
        cpu = torch.device("cpu")
        best, work = product_rate(cpu, DTYPES[pick_dtype(given.dtype, cpu)]), flops(given.model, given.size)
        found = rounds(given)
        table: dict[str, object] = dict(compared(found))
        table["share"] = {
            stage: each / best / statistics.median(one[stage] for one in found["ours"]) for stage, each in work.items()
        }
        if not given.no_sweep:
            table["sweep"] = sweep(given)
    about = {
        "versions": {name: version(name) for name in ("torch", "diffusers", "accelerate")},
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "GFLOP/s of a large product": best / 1e9,
        "GFLOP of a step": {stage: each / 1e9 for stage, each in work.items()},
        "size": given.size,
        "steps": given.steps,
        "rounds": given.rounds,
    }
    result = {"about": about, "table": table}
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    say(result, indent=2)


if __name__ == "__main__":
    main()
