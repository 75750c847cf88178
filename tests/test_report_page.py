"""The page of a run in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exhibits
import pytest
from browser import browser, keep_shot, quiet_page
from exhibits import written
from PIL import Image

from imagic_cli import png


@pytest.fixture(scope="module")
def tuned(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exhibits.tuned(models, tmp_path_factory.mktemp("ein Vögel"))


@pytest.fixture(scope="module")
def full(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exhibits.full(tuned, tmp_path_factory.mktemp("voll"))


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    with browser() as found:
        yield found


def colour(page: Any, image: str) -> list[int]:
    script = """image => { const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
        const pen = canvas.getContext("2d"); pen.drawImage(image, 0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data]; }"""
    page.wait_for_function(f"document.querySelector('{image}').complete")
    return list(page.locator(image).evaluate(script))[:3]


def test_the_slider_changes_the_picture(full: Path, opened: Any) -> None:
    written(full)
    with quiet_page(opened) as page:
        page.goto((full / "report.html").as_uri())
        assert page.locator("#value").inner_text() == "0.700, in the paper's useful range"
        assert colour(page, "#after") == pytest.approx([140, 90, 40], abs=6)
        page.locator("#eta").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("#value").inner_text() == "1.000"
        assert colour(page, "#after") == pytest.approx([200, 90, 40], abs=6)
        assert "--eta 1.000 --seed 0" in page.locator("#command").inner_text()
        page.locator("#stage").focus()
        page.keyboard.press("ArrowDown")
        assert "no picture at eta 1.000, seed 1" in page.locator("#stage .missing").inner_text()
        page.keyboard.press("ArrowLeft")
        assert colour(page, "#after") == pytest.approx([160, 90, 40], abs=6)
        assert page.locator("#figures dd").all_inner_texts() == ["20.7", "0.65"]
        page.get_by_role("button", name="eta 0.000, seed 0").click()
        assert page.locator("#caption").inner_text() == "eta 0.000, seed 0"
        page.get_by_label("Sampled").select_option(label="pretrained")
        assert "--pretrained" in page.locator("#command").inner_text()
        assert page.get_by_text("have not been measured").is_visible()


def test_wiping_and_copying(full: Path, opened: Any) -> None:
    written(full)
    with quiet_page(opened, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto((full / "report.html").as_uri())
        page.locator("#stage").focus()
        page.keyboard.press("w")
        wipe = page.get_by_label("Wipe from the input")
        wipe.focus()
        page.keyboard.press("Home")
        assert "0%)" in page.locator("#over").evaluate("image => image.style.clipPath")
        assert not page.locator("#stage").is_visible()
        page.get_by_role("button", name="eta 1.000, seed 1, missing").click()
        assert "no picture at eta 1.000, seed 1" in page.locator("#wiper .missing").inner_text()
        page.locator(".command", has=page.locator("#command")).get_by_role("button").click()
        page.get_by_text("Copied.").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == page.locator("#command").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "width", "height"), [("desktop", 1200, 900), ("phone", 390, 844)])
def test_it_fits_a_desktop_and_a_phone(
    name: str, width: int, height: int, scheme: str, full: Path, tuned: Path, opened: Any
) -> None:
    for run in (full, tuned):
        written(run)
        with quiet_page(opened, viewport={"width": width, "height": height}, color_scheme=scheme) as page:
            page.goto((run / "report.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
                "rgb(251, 250, 248)" if scheme == "light" else "rgb(22, 24, 28)"
            )
            keep_shot(page, f"report-{'empty-' if run == tuned else ''}{name}-{scheme}")


def test_nothing_a_text_says_runs(full: Path, tmp_path: Path, opened: Any) -> None:
    run = Path(shutil.copytree(full, tmp_path / "run"))
    evil = '</script><img src=x onerror="window.hit=1"><script>window.hit=1</script>'
    for path in run.rglob("eta-*.png"):
        png.save(path, Image.open(path), "parameters", png.read_record(path) | {"prompt": evil, "negative": evil})
    written(run)
    with quiet_page(opened) as page:
        page.goto((run / "report.html").as_uri())
        page.get_by_label("Sampled").select_option(label="pretrained")
        assert page.evaluate("window.hit") is None and evil in page.locator("#command").text_content()
