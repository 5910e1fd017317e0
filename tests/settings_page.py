"""Write `docs/settings.md` from the settings themselves (``python -m tests.settings_page``)."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from imaging_core.settings import Settings
from infra.local.configuration import StackSettings

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"


def page() -> str:
    """Return the page."""
    lines = [
        "# Settings",
        "",
        "Environment variables, or keys of `imaging.toml` in the working folder (lower case).",
        "Made by `make requirements`; a test fails where this page is out of date.",
        "",
    ]
    for title, kind in (("All parts", Settings), ("The local stack alone", StackSettings)):
        lines += [f"## {title}", "", "| setting | default | meaning |", "|---|---|---|"]
        lines += [_row(name, field) for name, field in _fields(kind)]
        lines.append("")
    return "\n".join(lines)


def _fields(kind: type[BaseSettings]) -> list[tuple[str, FieldInfo]]:
    return list(kind.model_fields.items())


def _row(name: str, field: FieldInfo) -> str:
    default = field.default
    shown = "" if default in ("", ()) or isinstance(default, SecretStr) else f"`{default}`"
    return f"| `{name.upper()}` | {shown} | {field.description} |"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(f"{PAGE}\n")
