"""Several sites: who sends for which, under which assigners, and what becomes of the rest (P1, P4)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pydicom import Dataset

from fhir_adapter.identity import resource_id
from imaging_core.bearer import Caller
from imaging_core.errors import Permanent
from imaging_core.settings import load_settings
from imaging_core.sites import Sites
from ingestion_functions import auth, http_api, stow
from ingestion_functions.register import register
from ingestion_functions.services import Services
from tests.dicom_samples import instance, multipart, part10
from tests.ingestion_functions.conftest import Door
from tests.ingestion_functions.test_steps import study_row

NORTH, SOUTH, SHARED, REGION = (
    "https://north.example/numbers",
    "https://south.example/numbers",
    "urn:oid:1.2.250.1.213.1.4.8",
    "https://region.example/numbers",
)
SITES = f"""
[[site]]
name = "North"
assigner_system = "{NORTH}"
time_zone = "Europe/Paris"
language = "fr"
clients = ["north-pacs", "north-portal"]
ae_titles = ["NORTHCT"]
assigners = {{ NORTH = "{NORTH}", INS = "{SHARED}" }}

[[site]]
name = "South"
assigner_system = "{SOUTH}"
clients = ["south-pacs"]
assigners = {{ SOUTH = "{SOUTH}", REGION = "{REGION}" }}
"""


def sites(folder: Path, text: str = SITES) -> Sites:
    path = folder / "sites.toml"
    path.write_text(text, "utf-8")
    return Sites.from_settings(load_settings(sites=str(path)))


@pytest.fixture
def several(parts: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    """Two sites, and clients that are known by their tokens."""
    made = replace(
        parts,
        sites=sites(tmp_path),
        settings=parts.settings.model_copy(update={"patient_match": "create", "ingest_token": SecretStr("x")}),
    )
    monkeypatch.setattr(http_api, "services", lambda: made)

    def caller(authorization: str, _settings: object, _role: str = auth.UPLOAD_ROLE) -> Caller:
        return Caller(authorization.removeprefix("Bearer "), frozenset({auth.UPLOAD_ROLE}))

    monkeypatch.setattr(http_api, "authenticate", caller)
    return made


def universal(identity: str, kind: str) -> list[Dataset]:
    item = Dataset()
    item.UniversalEntityID, item.UniversalEntityIDType = identity, kind
    return [item]


@pytest.mark.requirement("P1", "P4", "D17")
@pytest.mark.parametrize(
    ("client", "changes", "site", "outcome"),
    [
        ("north-pacs", {}, "North", NORTH),  # no issuer: the site's own numbers
        ("north-portal", {}, "North", NORTH),
        ("south-pacs", {}, "South", SOUTH),
        ("north-pacs", {"IssuerOfPatientID": "NORTH"}, "North", NORTH),
        ("north-pacs", {"IssuerOfPatientID": "INS"}, "North", SHARED),
        ("north-pacs", {"IssuerOfPatientID": "1.2.250.1.213.1.4.8"}, "North", SHARED),  # the OID that INS stands for
        ("south-pacs", {"IssuerOfPatientID": "REGION"}, "South", REGION),
        # another site's assigner, in whatever form it is named
        ("south-pacs", {"IssuerOfPatientID": "NORTH"}, "South", "assigner-not-allowed"),
        ("south-pacs", {"IssuerOfPatientID": NORTH}, "South", "assigner-not-allowed"),
        ("north-pacs", {"IssuerOfPatientID": "REGION"}, "North", "assigner-not-allowed"),
        (
            "south-pacs",
            {"IssuerOfPatientIDQualifiersSequence": universal("1.2.250.1.213.1.4.8", "ISO")},
            "South",
            "assigner-not-allowed",
        ),
        ("north-pacs", {"IssuerOfPatientID": "whoever"}, "North", "assigner-not-allowed"),
        ("north-pacs", {"PatientID": "", "IssuerOfPatientID": "NORTH"}, "North", "patient-id-empty"),
    ],
)
def test_a_client_uses_only_its_sites_assigners(
    door: Door, several: Services, client: str, changes: dict[str, Any], site: str, outcome: str
) -> None:
    sent = instance(**changes)
    assert door.with_token(client)(stow.store, *multipart(part10(sent))).status_code == 200
    register(several, str(sent.StudyInstanceUID))
    row = study_row(several, str(sent.StudyInstanceUID))
    assert row["site"] == site
    if ":" not in outcome:
        assert row["hold_reason"] == outcome  # stored, held, told to an admin; nothing is lost
        assert row["subject"] is None
        return
    assert row["hold_reason"] is None
    patient = several.fhir.read(*row["subject"].split("/"))
    assert patient is not None
    assert patient["identifier"][0]["system"] == outcome


@pytest.mark.requirement("P1", "D17")
def test_one_number_of_two_hospitals_is_two_patients(door: Door, several: Services) -> None:
    subjects = set()
    for client in ("north-pacs", "south-pacs"):
        sent = instance(PatientID="SAME-1")
        door.with_token(client)(stow.store, *multipart(part10(sent)))
        register(several, str(sent.StudyInstanceUID))
        subjects.add(study_row(several, str(sent.StudyInstanceUID))["subject"])
    assert len(subjects) == 2
    assert None not in subjects


@pytest.mark.requirement("P4")
def test_a_client_that_no_site_lists_is_refused(door: Door, several: Services) -> None:
    answer = door.with_token("stranger")(stow.store, *multipart(part10(instance())))
    assert answer.status_code == 403


@pytest.mark.requirement("D24")
def test_each_sites_time_zone_is_its_own(door: Door, several: Services) -> None:
    started = []
    for client in ("north-pacs", "south-pacs"):
        sent = instance()
        door.with_token(client)(stow.store, *multipart(part10(sent)))
        register(several, str(sent.StudyInstanceUID))
        stored = several.fhir.read("ImagingStudy", resource_id(str(sent.StudyInstanceUID), "imaging-study"))
        assert stored is not None
        started.append(stored["started"])
    assert started == ["2024-01-02T03:04:05+01:00", "2024-01-02"]  # South names no zone: the date alone


def test_ae_titles_belong_to_a_site(tmp_path: Path) -> None:
    found = sites(tmp_path)
    north = found.of_ae_title("NORTHCT")
    assert north is not None
    assert (north.name, north.language) == ("North", "fr")
    assert found.of_ae_title("SOUTHCT") is None
    assert found.of_client("south-pacs") == found.named("South")
    with pytest.raises(Permanent, match="no site named"):
        found.named("West")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SITES.replace('"south-pacs"', '"north-pacs"'), "client north-pacs"),
        (SITES + '[[site]]\nname = "North"\nassigner_system = "urn:x:y"\n', "name North"),
        (SITES.replace('clients = ["south-pacs"]', 'ae_titles = ["NORTHCT"]'), "AE title NORTHCT"),
        (SITES.replace("Europe/Paris", "Europe/Nowhere"), "time_zone"),
        (SITES.replace('language = "fr"', 'language = "de"'), "language"),
        (SITES.replace(f'assigner_system = "{SOUTH}"', 'assigner_system = "no uri"'), "assigner_system"),
        (SITES.replace(f'"{REGION}"', '"no uri"'), "assigners"),
        (SITES.replace('"NORTHCT"', '"A TITLE THAT IS TOO LONG"'), "ae_titles"),
        (SITES + "what = 1\n", "what"),
        ("", "site"),
        ("site = []", "site"),
        ("[[site]", "SITES"),
    ],
)
def test_a_sites_file_that_says_two_things_stops_the_start(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(Permanent, match="SITES") as refusal:
        sites(tmp_path, text)
    assert told in str(refusal.value)
