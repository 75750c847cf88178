"""Option types, each named once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from imagic_cli.config import Condition, Dtype, EncoderDtype, Fit, Method, Optimizer, Scheduler
from imagic_cli.sketchbook.vocabulary import KINDS

_MODEL, _RECIPE, _HOW, _SAY = "Model and photograph", "Recipe", "Computation", "Output"

# Whether a file can be read is asked where it is read: that is no mistake of typing.
_FILE = {"readable": False, "show_default": False}
ImageArgument = Annotated[Path | None, typer.Argument(metavar="IMAGE", help="The photograph.", **_FILE)]
TextArgument = Annotated[
    str | None, typer.Argument(metavar="TEXT", help="What the edited picture shows.", show_default=False)
]
RunArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN", help="Run directory (or IMAGIC_RUN); else the one last used here.", show_default=False
    ),
]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", help="Run directory (or IMAGIC_RUN); else a new one, or the one last used here."),
]

SceneArgument = Annotated[
    str,
    typer.Argument(metavar="TEXT", help=f"One of {', '.join(KINDS)}, with pose, colour and place.", show_default=False),
]
SceneFileArgument = Annotated[Path, typer.Argument(metavar="PNG", help="Where it is saved.", show_default=False)]
SceneSeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Of shades, place, light, and all else that TEXT leaves out.")
]

ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="Preset, hub id, diffusers folder or .safetensors file.", rich_help_panel=_MODEL),
]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="Whose numbers: see configs/.", rich_help_panel=_MODEL)
]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit on the hub.", rich_help_panel=_MODEL)
]
VariantOption = Annotated[
    str | None, typer.Option("--variant", help="Weight files to load, such as fp16.", rich_help_panel=_MODEL)
]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", help="For a .safetensors file: a folder with its configs.", rich_help_panel=_MODEL),
]
EncoderOption = Annotated[
    EncoderDtype | None,
    typer.Option("--encoder", help="What the text encoders compute in; 8bit is CUDA's.", rich_help_panel=_MODEL),
]
SizeOption = Annotated[
    int | None,
    typer.Option("--size", help="Side of the square of the wanted area, pixels.", rich_help_panel=_MODEL),
]
FitOption = Annotated[
    Fit | None,
    typer.Option("--fit", help="Keep the aspect ratio, or crop or pad to a square.", rich_help_panel=_MODEL),
]
CenterOption = Annotated[
    str | None,
    typer.Option(
        "--center", metavar="X,Y", help="Of --fit crop: its centre, fractions of the picture.", rich_help_panel=_MODEL
    ),
]

StepsOption = Annotated[int | None, typer.Option("--steps", help="Updates.", rich_help_panel=_RECIPE)]
RateOption = Annotated[float | None, typer.Option("--lr", help="Adam's learning rate.", rich_help_panel=_RECIPE)]
BatchOption = Annotated[int | None, typer.Option("--batch", help="Draws per update.", rich_help_panel=_RECIPE)]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Of noise and timesteps.", rich_help_panel=_RECIPE)]
OptimizerOption = Annotated[
    Optimizer | None, typer.Option("--optimizer", help="Where Adam keeps its moments.", rich_help_panel=_RECIPE)
]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option("--dtype", help="What the denoiser computes in; trained values stay fp32.", rich_help_panel=_RECIPE),
]
DeltaOption = Annotated[
    str | None,
    typer.Option("--delta-dtype", help="How the change is stored: fp16, bf16, fp32.", rich_help_panel=_RECIPE),
]
MethodOption = Annotated[
    Method | None,
    typer.Option(
        "--method",
        help="Train every weight, a LoRA beside the attention's, or the text's keys and values.",
        rich_help_panel=_RECIPE,
    ),
]
RankOption = Annotated[int | None, typer.Option("--rank", help="Of --method lora.", rich_help_panel=_RECIPE)]

OptimizeStepsOption = Annotated[
    int | None, typer.Option("--optimize-steps", help="Updates of stage A.", rich_help_panel=_RECIPE)
]
FinetuneStepsOption = Annotated[
    int | None, typer.Option("--finetune-steps", help="Updates of stage B.", rich_help_panel=_RECIPE)
]

OptimizeRateOption = Annotated[
    float | None, typer.Option("--optimize-lr", help="Learning rate of stage A.", rich_help_panel=_RECIPE)
]
FinetuneRateOption = Annotated[
    float | None, typer.Option("--finetune-lr", help="Learning rate of stage B.", rich_help_panel=_RECIPE)
]

SweepEtaOption = Annotated[str, typer.Option("--eta", help="Etas, such as 0:1:0.05 (the end included).")]
SweepSeedOption = Annotated[str, typer.Option("--seed", help="Seeds, such as 0:8 (the end excluded).")]
AblationArgument = Annotated[
    Literal["optimize", "finetune", "super-resolution"],
    typer.Argument(help="What is varied.", show_default=False),
]
LengthsOption = Annotated[
    str | None, typer.Option("--steps", help="Of ablate optimize: lengths of stage A; else 10,100,1000.")
]
MethodArgument = Annotated[Literal["sdedit", "ddib"], typer.Argument(help="Which method.", show_default=False)]
StrengthOption = Annotated[
    str | None,
    typer.Option("--strength", help="SDEdit: how much is noised, from 0 to 1; else 0.4:0.8:0.1."),
]
RivalSeedOption = Annotated[
    str | None, typer.Option("--seed", help="SDEdit: seeds, such as 3, or 0:4 (the end excluded); else 0:8.")
]
SourceOption = Annotated[
    str | None, typer.Option("--source", help="DDIB: what the photograph shows.", show_default=False)
]
GuidancesOption = Annotated[
    str | None, typer.Option("--guidance", help="DDIB: guidance scales, such as 3; else 1,3,5,7.5.")
]
ClipOption = Annotated[
    str | None,
    typer.Option(
        "--clip", help="CLIP model for text alignment: folder or hub id; else the demo model's or a usual one."
    ),
]

PairsArgument = Annotated[
    Path,
    typer.Argument(metavar="PAIRS", help="TEdBench folder, or .csv or .jsonl with image and text.", **_FILE),
]
EvaluateOutOption = Annotated[Path, typer.Option("--out", help="Folder of the runs; what is done is not done again.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="The first so many of the list alone.")]
DiscardOption = Annotated[
    bool, typer.Option("--discard-weights", help="Remove each run's trained change once its images are there.")
]
BesideOption = Annotated[
    list[str] | None,
    typer.Option(
        "--beside", metavar="METHOD=FOLDER", help="Another method's results, an image per pair (may be repeated)."
    ),
]

SuiteArgument = Annotated[Literal["sketchbook"], typer.Argument(help="Which edits.", show_default=False)]
PairsOption = Annotated[int, typer.Option("--pairs", min=1, max=10_000, help="How many edits.")]
FullOption = Annotated[bool, typer.Option("--full", help="Texts that name all that has to stay.")]
ShardOption = Annotated[str, typer.Option("--shard", metavar="I/N", help="Do the I-th of N equal parts alone.")]
BenchOutOption = Annotated[Path, typer.Option("--out", help="Folder of the results; what is there is not done again.")]

PageOption = Annotated[
    Path | None, typer.Option("--out", help="The .html file; else report.html in the run.", show_default=False)
]

MethodsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="METHOD=FOLDER...", help="Two or more methods' results, an image per input.", show_default=False
    ),
]
InputsOption = Annotated[
    Path,
    typer.Option("--inputs", help="A TEdBench folder, or a .csv or .jsonl file with image and text.", **_FILE),
]
StudyOutOption = Annotated[Path, typer.Option("--out", help="Folder of the page.", show_default=False)]
StudySeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of the questions' order and sides.")]
QuestionsOption = Annotated[
    int | None, typer.Option("--questions", min=1, help="How many each rater is asked, drawn at random; else all.")
]
AnswersArgument = Annotated[
    list[Path], typer.Argument(metavar="ANSWERS...", help="Downloaded answers, a file per rater.", **_FILE)
]
PlotOption = Annotated[Path, typer.Option("--out", help="The plot's .svg file.")]

EtaOption = Annotated[
    str,
    # Rich would make an emoji of what stands whole between two colons.
    typer.Option("--eta", help="0.7, or 0.5,0.7, or [i]start:[/i][i]end:step[/i]. 0 is the input, 1 the text."),
]
FirstSeedOption = Annotated[int, typer.Option("--seed", help="First seed.")]
SeedsOption = Annotated[int, typer.Option("--seeds", help="How many seeds, from the first on.")]
PromptOption = Annotated[str | None, typer.Option("--prompt", help="Another target text on the same tuned run.")]
NegativeOption = Annotated[
    str | None, typer.Option("--negative", help="What to lead away from.", rich_help_panel=_RECIPE)
]
SchedulerOption = Annotated[Scheduler | None, typer.Option("--scheduler", help="Sampler.", rich_help_panel=_RECIPE)]
SampleStepsOption = Annotated[int | None, typer.Option("--steps", help="Denoising steps.", rich_help_panel=_RECIPE)]
GuidanceOption = Annotated[
    float | None, typer.Option("--guidance", help="Classifier-free guidance scale; 1 is off.", rich_help_panel=_RECIPE)
]
LevelOption = Annotated[
    str,
    typer.Option("--level", help="Of a cascade: base, the name of one above it, or all.", rich_help_panel=_RECIPE),
]
ConditionOption = Annotated[
    Condition | None,
    typer.Option(
        "--sr-condition", help="Of a cascade: tune above the base at this embedding.", rich_help_panel=_RECIPE
    ),
]
StopOption = Annotated[
    int | None, typer.Option("--size", help="Of a cascade: the size to stop at.", rich_help_panel=_RECIPE)
]
PretrainedOption = Annotated[
    bool, typer.Option("--pretrained", help="Ignore what finetune trained.", rich_help_panel=_RECIPE)
]
BatchSizeOption = Annotated[
    int | None, typer.Option("--batch-size", help="Images denoised together.", rich_help_panel=_HOW)
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="Also copy the one image to this .png file; without --force no other program's is replaced.",
        show_default=False,
    ),
]
LoraOption = Annotated[
    Path, typer.Option("--lora", metavar="FILE", help="The .safetensors file to write.", show_default=False)
]

DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=_HOW)]
CheckpointEveryOption = Annotated[
    int | None,
    typer.Option("--checkpoint-every", help="Steps between checkpoints; 0 never; else by time.", rich_help_panel=_HOW),
]
ProbeEveryOption = Annotated[
    int, typer.Option("--probe-every", help="Steps between fixed-noise losses; 0 never.", rich_help_panel=_HOW)
]
CheckpointingOption = Annotated[
    bool,
    typer.Option("--gradient-checkpointing", help="Less memory, a third more time.", rich_help_panel=_HOW),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse where bits could differ; re-read the model.", rich_help_panel=_HOW)
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace results of other work.", rich_help_panel=_HOW)]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan and its cost, do nothing.", rich_help_panel=_HOW)
]

QuietOption = Annotated[bool, typer.Option("--quiet", help="Nothing but results and errors.", rich_help_panel=_SAY)]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.", rich_help_panel=_SAY)]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_SAY)]
