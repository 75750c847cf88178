"""`imagic report`: what the page holds."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path

import exhibits
import instant
import numpy as np
import pytest
import toys
from drive import done, imagic
from exhibits import TEXT, data, written
from PIL import Image

from imagic_cli import png
from imagic_cli.errors import ArtifactError
from imagic_cli.evaluation.table import Table, load
from imagic_cli.pages import previews, typed
from imagic_cli.pages.album import curves
from imagic_cli.pages.previews import preview
from imagic_cli.run import Run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tuned(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exhibits.tuned(models, tmp_path_factory.mktemp("ein Vögel"))


@pytest.fixture(scope="module")
def full(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exhibits.full(tuned, tmp_path_factory.mktemp("voll"))


def test_the_page_holds_every_picture_and_how_to_make_it_again(full: Path) -> None:
    page = written(full)
    found = data(page)
    own, pretrained = found["albums"]
    assert (own["values"], own["seeds"]) == (["0.000", "0.700", "1.000"], [0, 1])
    assert (pretrained["name"], pretrained["values"], pretrained["seeds"]) == ("pretrained", ["0.700"], [0])
    cell = own["cells"]["0.700/1"]
    assert cell["figures"] == {"clip_score[x]": "20.7", "ssim": "0.65"}
    assert "src" not in own["cells"]["1.000/1"] and "--seed 1" in own["cells"]["1.000/1"]["command"]
    original = (full / urllib.parse.unquote(cell["original"])).resolve()
    assert original == (full / "images" / "eta-0.700_seed-0001.png").resolve()
    record = json.loads((full / "run.json").read_text())
    for told in (record["identity"], record["image"]["pixels"], "learning rate", "0.6 to 0.8", "Stage B: the denoiser"):
        assert told in page
    assert page.count("<svg") == 3
    assert str(full.parent) not in page.replace(shlex.quote(str(full)), "").replace(html.escape(str(full)), "")
    assert page == written(full)


def test_the_commands_make_the_same_pictures(full: Path, tmp_path: Path) -> None:
    cells = [album["cells"] for album in data(written(full))["albums"]]
    again = Path(shutil.copytree(full, tmp_path / "again"))
    for cell in (cells[0]["0.700/1"], cells[1]["0.700/0"]):
        words = [str(again) if word == str(full) else word for word in shlex.split(cell["command"])]
        with instant.denoiser():
            told = done(*words[1:])
        assert Path(told.lines[0]).relative_to(again) == Path(urllib.parse.unquote(cell["original"]))
        assert "up to date" in told.err


def test_training_commands_hold_every_setting(full: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = written(full)
    first, second = (html.unescape(each) for each in re.findall(r'<code id="training\d">(.*?)</code>', page))
    words = shlex.split(first)
    assert words[:4] == ["imagic", "optimize", "bïrd 1.png", TEXT]
    assert {"--steps": "5", "--lr": "0.002", "--model": "sd"}.items() <= dict(
        zip(words, words[1:], strict=False)
    ).items()
    with instant.denoiser():
        again = done(*shlex.split(second)[1:])
    assert "up to date" in again.err


def test_a_text_is_only_text(full: Path) -> None:
    page = written(full)
    assert page.count("<script") == 2 and "alert" in page
    assert TEXT not in page and html.escape(TEXT, quote=False).split("&amp;")[0][:20] in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)


def test_the_page_may_lie_elsewhere(full: Path, tmp_path: Path) -> None:
    target = tmp_path / "über alles" / "seite.html"
    target.parent.mkdir()
    page = written(full, "--out", target)
    link = data(page)["albums"][0]["cells"]["0.000/0"]["original"]
    assert (target.parent / urllib.parse.unquote(link)).resolve() == (full / "images/eta-0.000_seed-0000.png").resolve()


def test_nothing_generated_yet_gives_a_page_that_says_what_to_type(tuned: Path) -> None:
    page = written(tuned)
    assert data(page)["albums"] == [] and "Nothing has been generated yet" in page
    assert (
        shlex.quote(str(tuned)) in html.unescape(page) and "imagic generate --run" in page and page.count("<svg") == 2
    )


def test_figures_go_with_the_pictures_that_they_are_of(full: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(full, tmp_path / "run"))
    with instant.denoiser():
        done("generate", "--run", run, "--eta", "0", "--force")
    assert not (run / "images" / "metrics.csv").exists()
    assert "imagic sweep" in written(run)


def test_what_is_damaged_or_stale_is_told(full: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(full, tmp_path / "run"))
    path = run / "images" / "eta-0.700_seed-0000.png"
    path.write_bytes(path.read_bytes()[:-30])
    (run / "images" / "metrics.csv").write_text("eta,seed\nx,y\n")
    (run / "logs" / "finetune.jsonl").write_text('{"step": 1, "loss": 0.5}\n[]\n{"step": 2, "lo')
    with instant.denoiser():
        done("finetune", "--run", run, "--steps", 3, "--force", "--probe-every", 0)
    page = written(run)
    assert "eta-0.700_seed-0000.png is damaged" in html.unescape(page)
    assert "metrics.csv is no table of figures" in page and "generate is stale" in page
    measure = shlex.split(html.unescape(re.findall(r'id="measure0">(.*?)</code>', page)[0]))
    assert measure[:7] == ["imagic", "sweep", str(run), "--eta", "0.000,0.700,1.000", "--seed", "0:2"]
    assert "src" not in data(page)["albums"][0]["cells"]["0.700/0"]


def test_every_level_of_a_cascade_has_a_command_of_its_own(photo: Path, models: Path) -> None:
    run = Run(Path("run"))
    done("optimize", photo, TEXT, "--model", models / "cascade", "--encoder", "fp32", "--run", "run", "--steps", 1)
    upper = ["--steps", 2, "--lr", "1e-3", "--batch", 2, "--sr-condition", "optimized"]
    done("finetune", "--run", "run", "--level", "sr16-32", *upper)
    first, base, above = map(shlex.split, typed.training(run, run.read_record()))
    assert first[first.index("--encoder") + 1] == "fp32"
    assert [line[line.index("--level") + 1] for line in (base, above)] == ["base", "sr16-32"]
    assert [line[line.index("--steps") + 1] for line in (base, above)] == ["1500", "2"]
    assert above[above.index("--sr-condition") + 1] == "optimized" and "--sr-condition" not in base
    done(*above[1:])


def test_baselines_stand_beside_the_run(full: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(full, tmp_path / "run"))
    folder = run / "baselines" / "sdedit"
    folder.mkdir(parents=True)
    record = {"method": "sdedit", "strength": "0.400", "seed": 3, "prompt": TEXT, "key": "k"}
    png.save(folder / "strength-0.400_seed-0003.png", toys.picture(48), "parameters", record)
    (*_others, album) = data(written(run))["albums"]
    assert (album["name"], album["setting"], album["values"], album["seeds"]) == ("sdedit", "strength", ["0.400"], [3])
    command = shlex.split(album["cells"]["0.400/3"]["command"])
    assert command == ["imagic", "baseline", "sdedit", str(run), "--strength", "0.400", "--seed", "3"]


def test_a_command_holds_no_flag_that_would_be_refused(full: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(full, tmp_path / "run"))
    (run / "baselines" / "ddib").mkdir(parents=True)
    record = {"method": "ddib", "guidance": "3.000", "seed": 0, "prompt": TEXT, "source": "a bird", "key": "k"}
    place = run / "baselines" / "ddib" / "guidance-3.000_seed-0000.png"
    png.save(place, toys.picture(48), "parameters", record)
    page = written(run)
    command = shlex.split(data(page)["albums"][-1]["cells"]["3.000/0"]["command"])
    assert command == ["imagic", "baseline", "ddib", str(run), "--guidance", "3.000", "--source", "a bird"]
    assert "--fit keep" in page and "--center" not in page


def test_a_page_elsewhere_replaces_a_page_and_no_other_file(full: Path) -> None:
    for _again in range(2):
        done("report", full, "--out", "page.html")
    Path("page.html").write_text("<title>mine</title>")
    refused = imagic("report", full, "--out", "page.html")
    assert (refused.code, Path("page.html").read_text()) == (2, "<title>mine</title>")


@pytest.mark.parametrize(
    ("code", "typed", "part"),
    [
        (4, ["report", "nowhere"], "no run in nowhere"),
        (2, ["report", "run", "--out", "page.txt"], "must end in .html"),
        (2, ["report", "run", "--out", "nowhere/page.html"], "cannot be a file"),
        (4, ["report", "run"], "image.png is missing"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_line(code: int, typed: list[str], part: str, full: Path) -> None:
    shutil.copytree(full, "run")
    Path("run/image.png").unlink()
    result = imagic(*typed)
    assert (result.code, part in result.err, len(result.err.splitlines())) == (code, True, 1), result.err


def test_a_report_does_without_torch(full: Path) -> None:
    script = "import sys\nfrom imagic_cli.cli import run\nsys.exit(run(sys.argv[1:]) or 'torch' in sys.modules)\n"
    command = [sys.executable, "-c", script, "report", str(full)]
    made = subprocess.run(command, capture_output=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert made.returncode == 0, made.stderr[-2000:]


def test_previews_keep_their_bounds() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(256, size=(600, 900, 3), dtype=np.uint8))
    for most in (previews.MOST_BYTES, 40_000, 2000):
        kind, _comma, text = preview(noise, most).partition(",")
        content = base64.b64decode(text)
        assert kind == "data:image/webp;base64" and len(content) <= most
        shown = Image.open(io.BytesIO(content))
        assert max(shown.size) <= previews.MOST_SIDE and shown.width / shown.height == pytest.approx(1.5, rel=0.05)
    small = base64.b64decode(preview(toys.picture(48), 10_000).partition(",")[2])
    assert Image.open(io.BytesIO(small)).size == (48, 48)


def test_long_logs_are_thinned_to_means(tmp_path: Path) -> None:
    path = tmp_path / "optimize.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": float(step)}) + "\n" for step in range(1, 1501)))
    points = curves(path)["loss"]
    assert len(points) == 500 and points[0] == (3, 2.0) and points[-1] == (1500, 1499.0)
    assert curves(tmp_path / "none.jsonl") == {}


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    table = Table({("0.000", 1): {"clip_score[a,b]": 20.5, "ssim": 0.5}}, "clip_score[a,b]", "ssim")
    table.save(tmp_path / "metrics.csv")
    assert load(tmp_path / "metrics.csv") == table
    for text in (
        "",
        "eta,seed,ssim\n",
        "eta,seed,psnr_db\n0,1,2\n",
        "eta,seed,ssim\n0,1,nan\n",
        "eta,seed,ssim\n0,1\n",
    ):
        (tmp_path / "metrics.csv").write_text(text)
        with pytest.raises(ArtifactError, match="no table of figures"):
            load(tmp_path / "metrics.csv")
