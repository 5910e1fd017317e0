"""`imaging intake check`: everything accounted for, and each thing that is not is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from click.testing import CliRunner
from pydicom.uid import generate_uid

from fhir_adapter.diagnostic_report import report_id
from fhir_adapter.identity import resource_id
from imaging_core.database import unit_of_work
from ingestion_functions import check, commands, journal
from ingestion_functions.analyse import analyse
from ingestion_functions.check import Account
from ingestion_functions.register import register
from tests.conftest import open_folder
from tests.dicom_samples import instance, part10
from tests.ingestion_functions.conftest import Ai
from tests.ingestion_functions.own_stores import OwnStores, own_stores
from tests.ingestion_functions.test_rebuild import Scene, answers, remove

pytestmark = pytest.mark.requirement("D14", "D15")


@pytest.fixture(scope="module")
def own() -> Iterator[OwnStores]:
    with own_stores(open_folder()) as started:
        yield started


@pytest.fixture
def scene(own: OwnStores, ai: Ai) -> Iterator[Scene]:
    """Deliveries of every outcome, each at its end."""
    with own.services(ai.url) as parts:
        made = Scene(own, parts, ai)
        answers(made)
        plain = made.study("plain")
        made.steps("plain")
        made.send("again", part10(plain))
        made.send("rejected", b"no DICOM at all")
        plain.PatientName = "Other^Content"
        made.send("conflict", part10(plain))
        made.study("analysed", Modality="DX")
        made.steps("analysed")
        made.study("held", PatientID="")
        register(parts, made.studies["held"])
        journal.ship(parts.pool, parts.blobs)
        yield made


def account(scene: Scene, *, deep: bool = False) -> Account:
    parts = scene.parts
    return check.check(parts.pool, parts.blobs, parts.fhir, deep=parts.decoder if deep else None)


def blob_of(scene: Scene, name: str) -> str:
    with unit_of_work(scene.parts.pool) as connection:
        row = connection.execute(
            "SELECT blob FROM ledger.instance WHERE study_uid = %s AND NOT own", (scene.studies[name],)
        ).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_ledger_has_no_difference(scene: Scene, deep: bool) -> None:
    found = account(scene, deep=deep)
    assert found.differences == []
    assert found.good
    numbers = found.numbers
    outcomes = ("accepted", "duplicate", "rejected", "quarantined", "held")
    assert numbers["deliveries"] == sum(numbers[name] for name in outcomes)
    assert min(numbers[name] for name in (*outcomes, "images", "studies", "reports", "journal blobs")) > 0


def lose_image(scene: Scene) -> Callable[[], None]:
    blob = blob_of(scene, "plain")
    data = scene.parts.blobs.get("images", blob)
    scene.parts.blobs.delete("images", blob)
    return lambda: scene.parts.blobs.put("images", blob, data)


def spoil_image(scene: Scene) -> Callable[[], None]:
    blob = blob_of(scene, "plain")
    data = scene.parts.blobs.get("images", blob)
    scene.parts.blobs.put("images", blob, data[:-1] + b"x")
    return lambda: scene.parts.blobs.put("images", blob, data)


def cut_image(scene: Scene) -> Callable[[], None]:
    blob = blob_of(scene, "analysed")
    data = scene.parts.blobs.get("images", blob)
    scene.parts.blobs.put("images", blob, data[:-2])
    return lambda: scene.parts.blobs.put("images", blob, data)


def stray_image(scene: Scene) -> Callable[[], None]:
    name = f"{generate_uid()}/{generate_uid()}/{generate_uid()}.dcm"
    scene.parts.blobs.put("images", name, b"stray")
    return lambda: scene.parts.blobs.delete("images", name)


def stray_rendition(scene: Scene) -> Callable[[], None]:
    name = f"{generate_uid()}/{generate_uid()}/{generate_uid()}.jls.dcm"
    scene.parts.blobs.put("images", name, b"stray")
    return lambda: scene.parts.blobs.delete("images", name)


def lose_quarantined(scene: Scene) -> Callable[[], None]:
    name = next(iter(scene.parts.blobs.list("quarantine"))).name
    data = scene.parts.blobs.get("quarantine", name)
    scene.parts.blobs.delete("quarantine", name)
    return lambda: scene.parts.blobs.put("quarantine", name, data)


def lose_history(scene: Scene) -> Callable[[], None]:
    name = next(journal.blobs_of(scene.parts.blobs))
    data = scene.parts.blobs.get("journal", name)
    scene.parts.blobs.delete("journal", name)
    return lambda: scene.parts.blobs.put("journal", name, data)


def forget_study(scene: Scene) -> Callable[[], None]:
    reference = f"ImagingStudy/{resource_id(scene.studies['plain'], 'imaging-study')}"
    stored = scene.parts.fhir.read(*reference.split("/"))
    assert stored is not None
    remove(scene, reference)
    return lambda: _put_back(scene, stored)


def forget_report(scene: Scene) -> Callable[[], None]:
    reference = f"DiagnosticReport/{report_id(scene.studies['analysed'], 'chest', 0)}"
    stored = scene.parts.fhir.read(*reference.split("/"))
    assert stored is not None
    remove(scene, reference)
    return lambda: _put_back(scene, stored)


def move_study(scene: Scene) -> Callable[[], None]:
    stored = scene.parts.fhir.read("ImagingStudy", resource_id(scene.studies["plain"], "imaging-study"))
    assert stored is not None
    scene.parts.fhir.update({**stored, "subject": {"reference": "Patient/somebody-else"}})
    return lambda: _put_back(scene, stored)


def _put_back(scene: Scene, stored: dict[str, object]) -> None:
    scene.parts.fhir.update(stored)


def fail_study(scene: Scene) -> Callable[[], None]:
    sent = scene.study("failing")
    register(scene.parts, str(sent.StudyInstanceUID))
    scene.ai.status = 400
    analyse(scene.parts, str(sent.StudyInstanceUID))
    scene.ai.status = 200

    def mend() -> None:
        with unit_of_work(scene.parts.pool) as connection:
            commands.ledger.redrive(connection, scene.studies["failing"])
        scene.steps("failing")

    return mend


def leave_study(scene: Scene) -> Callable[[], None]:
    scene.study("waiting")
    return lambda: scene.steps("waiting")


def leave_drop(scene: Scene) -> Callable[[], None]:
    scene.parts.blobs.put("incoming", "somebody/left-this", b"x")
    return lambda: scene.parts.blobs.delete("incoming", "somebody/left-this")


@pytest.mark.parametrize(
    ("damage", "code", "deep"),
    [
        (lose_image, "missing-blob", False),
        (spoil_image, "wrong-content", True),
        (cut_image, "wrong-size", False),
        (stray_image, "orphan-blob", False),
        (stray_rendition, "orphan-blob", False),
        (lose_quarantined, "missing-blob", False),
        (lose_history, "missing-blob", False),
        (forget_study, "not-registered", False),
        (forget_report, "report-missing", False),
        (move_study, "other-subject", False),
        (fail_study, "failed", False),
        (leave_study, "pending", False),
        (leave_drop, "not-taken-in", False),
    ],
)
def test_what_is_amiss_is_named(
    scene: Scene,
    damage: Callable[[Scene], Callable[[], None]],
    code: str,
    deep: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # what was just written counts as on its way; here it counts at once
    monkeypatch.setattr(check, "_GRACE", timedelta(0))
    monkeypatch.setattr(check, "_LEFT_OVER", timedelta(0))
    mend = damage(scene)
    found = account(scene, deep=deep)
    assert set(found.by_code) == {code}, found.differences
    assert not found.good
    mend()
    assert account(scene, deep=deep).differences == []


def test_a_blob_without_row_is_on_its_way_for_a_while(scene: Scene) -> None:
    mend = stray_image(scene)
    assert account(scene).good
    mend()


def test_the_command_prints_a_table_names_differences_and_exits_1(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGING_DATA_DIR", str(scene.own.folder))
    runner = CliRunner()
    good = runner.invoke(commands.intake, ["check"])
    assert good.exit_code == 0, good.output
    assert "deliveries" in good.output
    mend = lose_image(scene)
    bad = runner.invoke(commands.intake, ["check", "--json"])
    assert bad.exit_code == 1
    said = json.loads(bad.stdout)
    assert said["good"] is False
    assert [item["code"] for item in said["differences"]] == ["missing-blob"]
    assert runner.invoke(commands.intake, ["check"]).exit_code == 1
    mend()
    deep = runner.invoke(commands.intake, ["check", "--deep"])
    assert deep.exit_code == 0, deep.output


def test_quarantine_is_listed_and_decided_by_command(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGING_DATA_DIR", str(scene.own.folder))
    runner = CliRunner()
    listed = json.loads(runner.invoke(commands.intake, ["quarantine", "list", "--json"]).stdout)
    chosen = listed[-1]["intake_id"]
    decided = ["quarantine", "decide", chosen, "--discard", "--reason", "a copy", "--who", "admin"]
    assert runner.invoke(commands.intake, decided).exit_code == 0
    assert runner.invoke(commands.intake, decided).exit_code == 1
    left = json.loads(runner.invoke(commands.intake, ["quarantine", "list", "--json"]).stdout)
    assert len(left) == len(listed) - 1
    assert account(scene).good


def test_counting_needs_no_more_memory_for_more_images(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_CHUNK", 2)
    many = [instance() for _ in range(7)]
    for sent in many:
        sent.StudyInstanceUID = many[0].StudyInstanceUID
        sent.PatientID = many[0].PatientID
    assert scene.send("many", *(part10(sent) for sent in many)) == 200
    scene.studies["many"] = str(many[0].StudyInstanceUID)
    scene.steps("many")
    assert account(scene, deep=True).differences == []
