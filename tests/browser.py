"""A real Chromium without a window, for pages opened from a file; tests that need it skip where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_FLAGS += ["--disable-component-update", "--disable-sync"]


@contextmanager
def browser() -> Iterator[Any]:
    """Playwright's Browser, with a profile of its own."""
    program = os.environ.get("IMAGIC_CHROMIUM") or next(
        (found for name in _NAMES if (found := shutil.which(name))), None
    )
    if program is None:
        pytest.skip("no Chromium is installed (name one with IMAGIC_CHROMIUM)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install .[dev]")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=_FLAGS, timeout=180_000)
        yield opened
        opened.close()


@contextmanager
def quiet_page(opened: Any, **options: Any) -> Iterator[Any]:
    """A page of a fresh context, in which nothing may be logged, fail, or be asked of a network."""
    context = opened.new_context(**options)
    context.set_default_timeout(60_000)
    page = context.new_page()
    told: list[str] = []
    page.on("console", lambda message: told.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: told.append(f"error: {error}"))
    page.on("requestfailed", lambda request: told.append(f"failed: {request.url[:200]}"))
    page.on("request", lambda request: told.append(request.url[:200]) if _is_remote(request.url) else None)
    yield page
    assert told == []
    context.close()


def keep_shot(page: Any, name: str) -> None:
    """Save a picture of the whole page into the folder IMAGIC_SHOTS, for people to look at, if it is named."""
    if folder := os.environ.get("IMAGIC_SHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def _is_remote(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:"))
