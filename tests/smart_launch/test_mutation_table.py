"""The table of defences that `python -m tests.smart_launch.mutations` switches off, against code, tests and page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.smart_launch.mutation_table import MUTATIONS, Mutation
from tests.smart_launch.mutations import PAGE

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "smart_launch"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[item.defence for item in MUTATIONS])
def test_each_row_can_be_switched_off_and_has_its_test(mutation: Mutation) -> None:
    changed = mutation.applied((PACKAGE / f"{mutation.module}.py").read_text("utf-8"))
    compile(changed, mutation.module, "exec")
    file, _, name = mutation.test.partition("::")
    assert f"def {name}(" in (HERE / file).read_text("utf-8")


def test_the_page_is_of_this_table_and_every_defence_is_noticed() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ") and "`" in line]
    assert len(MUTATIONS) >= 25
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [item.defence for item in MUTATIONS]
    assert all(row.endswith("| fails |") for row in rows)
