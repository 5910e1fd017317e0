"""Pages that are made are current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import settings_page


def test_settings_page_is_current() -> None:
    assert settings_page.PAGE.read_text("utf-8") == settings_page.page(), "run `make requirements`"


def test_requirements_page_is_current() -> None:
    """In a process of its own, for collecting imports every test."""
    script = (
        "import sys; from tests.requirements import PAGE, collect, page;"
        "sys.exit(PAGE.read_text('utf-8') != page(collect()))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `make requirements`\n{done.stderr[-2000:]}"
