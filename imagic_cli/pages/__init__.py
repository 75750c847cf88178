"""Pages of HTML that work from a file and without a network: everything they need is inside, or lies beside them."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(name: str, images: str, data: dict[str, Any], **content: Any) -> str:
    """The page of a template.

    Whatever stands in `data` and `content` is shown as text, and nothing in it can act: it is escaped, and the page's
    own policy lets only its own script run and nothing be fetched but `images`.

    Args:
        name: the template's; its script has the same name.
        images: where pictures may come from, as a Content-Security-Policy source list.
        data: what the script works on, ready for JSON.
        content: what the template shows.
    """
    script = _source(f"{name}.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    inner = {"style": Markup(_source("page.css")), "script": Markup(script), "policy": policy}
    return _environment().get_template(f"{name}.html").render(**inner, data=_embedded(data), **content)


def still(name: str, images: str, **content: Any) -> str:
    """The page of a template without a script, as safe as `render`'s."""
    policy = f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'"
    return _environment().get_template(f"{name}.html").render(policy=policy, **content)


def _embedded(data: dict[str, Any]) -> Markup:
    # Inside a script element only "<" can end it; ASCII also keeps texts that are no valid UTF-8.
    return Markup(json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def _source(name: str) -> str:
    return (resources.files(__name__) / "templates" / name).read_text("utf-8").strip() + "\n"


@cache
def _environment() -> Environment:
    loader = PackageLoader(__name__, "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
