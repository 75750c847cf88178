"""What diffusers offers for the same work, driven as its users drive it, and a clock for all of them.

Neither file is ours, nor in the repository: take them from the diffusers repository at the version that is installed,
examples/community/imagic_stable_diffusion.py and examples/dreambooth/train_dreambooth.py.
"""

from __future__ import annotations

import importlib.util
import io
import statistics
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

TEXT = "a bird spreading wings"
# The first steps choose kernels, allocate and, where there are graphs, capture them.
WARM_UP = 3


class Forwards:
    """When each forward pass of the denoiser began: the steps of whatever runs are what lies between."""

    def __init__(self) -> None:
        self.first: float | None = None
        """Of all, seconds since the epoch."""
        self.begun: list[float] = []
        self.marks: list[torch.cuda.Event] = []
        """The same on a GPU, by its own clock: it is told of many passes before it makes them."""
        # Not its `forward`, in the place of which ours replays what that does.
        call = UNet2DConditionModel.__call__

        def noted(*arguments: object, **options: object) -> object:
            if arguments[1].is_meta:
                # Only the shapes of a pass.
                return call(*arguments, **options)
            self.first = self.first or time.time()
            self.begun.append(time.perf_counter())
            if torch.cuda.is_available() and not torch.cuda.is_current_stream_capturing():
                self.marks.append(torch.cuda.Event(enable_timing=True))
                self.marks[-1].record()
            return call(*arguments, **options)

        UNet2DConditionModel.__call__ = noted

    def step(self) -> float:
        """Median seconds from one to the next."""
        if not self.marks:
            return median_gap(self.begun)
        torch.cuda.synchronize()
        times = [self.marks[0].elapsed_time(each) / 1e3 for each in self.marks]
        return median_gap(times)


def median_gap(times: list[float]) -> float:
    """Median seconds from one to the next."""
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    return statistics.median(gaps[WARM_UP:] or gaps[-1:])


class Community:
    """The community Imagic pipeline, loaded; the photograph's size must be one that the model takes.

    Two things are not as its users have them: there is no safety checker, and without a GPU no mixed precision, which
    accelerate refuses there. (With one it wraps no network, so all of it is fp32 in either case.)
    """

    def __init__(self, file: Path, model: Path, photo: Path) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        module = _module(file)
        if self.device == "cpu":
            real = module.Accelerator
            module.Accelerator = lambda **options: real(**options | {"mixed_precision": "no"})
        whole = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, dtype=torch.float32)
        parts = whole.components
        parts.pop("image_encoder", None)
        self.pipeline = module.ImagicStableDiffusionPipeline(**parts)
        self.pipeline.to(self.device)
        with Image.open(photo) as image:
            self.image = image.convert("RGB")
        self.side = {"height": self.image.height, "width": self.image.width}

    def train(self, a: int, b: int) -> None:
        """So many steps of A and of B."""
        with redirect_stderr(io.StringIO()):
            self.pipeline.train(
                TEXT,
                self.image,
                **self.side,
                generator=torch.Generator(self.device).manual_seed(0),
                text_embedding_optimization_steps=a,
                model_fine_tuning_optimization_steps=b,
            )

    def sample(self, steps: int) -> None:
        """One image."""
        with redirect_stderr(io.StringIO()):
            self.pipeline(alpha=0.7, num_inference_steps=steps, **self.side)


def dreambooth(file: Path, model: Path, photo: Path, work: Path, steps: int) -> None:
    """Run diffusers' DreamBooth training script over every weight of the denoiser, without prior preservation.

    Where torchvision is not installed it is given the four transforms that it asks of it, in pillow and numpy.
    """
    if importlib.util.find_spec("torchvision") is None:
        _stand_in()
    module = _module(file)
    with Image.open(photo) as image:
        side = min(image.size)
    (work / "photos").mkdir(parents=True)
    (work / "photos" / photo.name).write_bytes(photo.read_bytes())
    given = {
        "pretrained_model_name_or_path": model,
        "instance_data_dir": work / "photos",
        "instance_prompt": TEXT,
        "output_dir": work / "tuned",
        "resolution": side,
        "train_batch_size": 1,
        "learning_rate": 2e-6,
        "lr_scheduler": "constant",
        "max_train_steps": steps,
    }
    read = module.parse_args([word for name, value in given.items() for word in (f"--{name}", str(value))])
    read.report_to = None
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        module.main(read)


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _stand_in() -> None:
    class Transforms(ModuleType):
        InterpolationMode = Image.Resampling

        @staticmethod
        def Compose(each):  # noqa: N802
            def all_of(image):
                for transform in each:
                    image = transform(image)
                return image

            return all_of

        @staticmethod
        def Resize(side, interpolation):  # noqa: N802
            return lambda image: image.resize((side, side), interpolation)

        @staticmethod
        def RandomCrop(_side):  # noqa: N802
            return lambda image: image

        @staticmethod
        def ToTensor():  # noqa: N802
            return lambda image: torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)

        @staticmethod
        def Normalize(mean, deviation):  # noqa: N802
            return lambda values: (values - mean[0]) / deviation[0]

    package = ModuleType("torchvision")
    package.transforms = Transforms("torchvision.transforms")
    sys.modules |= {"torchvision": package, "torchvision.transforms": package.transforms}
