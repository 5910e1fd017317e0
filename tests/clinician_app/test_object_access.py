"""Every route, tried for another patient's things and without the launch's session (from the URL map)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from imaging_core.settings import Settings
from tests.clinician_app.conftest import (
    MARIE,
    MARIES_CHEST,
    MARIES_REPORT,
    OTHER,
    OTHERS_CHEST,
    OTHERS_REPORT,
    SIGNERS,
    WRITER_SCOPES,
    Clinic,
    registration,
)
from tests.clinician_app.token_issuer import issuing

# What each route's arguments are for an object of the other patient's; a new route is added here, or to OPEN.
_OTHERS_IMAGE = {
    "study_uid": OTHERS_CHEST.uid,
    "series_uid": OTHERS_CHEST.series_uid,
    "sop_uid": OTHERS_CHEST.sop_uid(),
}
OTHERS = {
    "pages.start": {},
    "pages.timeline_page": {},
    "pages.study_page": {"study_uid": OTHERS_CHEST.uid},
    "pages.report_page": {"report_id": OTHERS_REPORT.id},
    "images.rendered": _OTHERS_IMAGE,
    "images.pixels": _OTHERS_IMAGE,
    "images.heatmap": {"report_id": OTHERS_REPORT.id},
    "signoff.review": {"report_id": OTHERS_REPORT.id},
    "signoff.submit": {"report_id": OTHERS_REPORT.id},
    "signoff.preview": {"report_id": OTHERS_REPORT.id},
    "signoff.confirm": {"report_id": OTHERS_REPORT.id},
    "signoff.original": {"report_id": OTHERS_REPORT.id},
    "results.launch_results": {},
    "results.results": {},
    "smart_launch.logout": {},
}
_STUDY = {"study_uid": OTHERS_CHEST.uid}
_SERIES = {**_STUDY, "series_uid": OTHERS_CHEST.series_uid}
DICOMWEB = {
    "search_studies": {},
    "search_all_series": {},
    "search_series": _STUDY,
    "search_all_instances": {},
    "search_study_instances": _STUDY,
    "search_instances": _SERIES,
    "retrieve_study": _STUDY,
    "retrieve_series": _SERIES,
    "retrieve_instance": _OTHERS_IMAGE,
    "study_metadata": _STUDY,
    "series_metadata": _SERIES,
    "instance_metadata": _OTHERS_IMAGE,
    "retrieve_bulk_data": {**_OTHERS_IMAGE, "where": "7FE00010"},
    "retrieve_frames": {**_OTHERS_IMAGE, "numbers": "1"},
    "retrieve_rendered": _OTHERS_IMAGE,
    "retrieve_rendered_frame": {**_OTHERS_IMAGE, "numbers": "1"},
}
OTHERS |= {f"launch_dicomweb.{name}": arguments for name, arguments in DICOMWEB.items()}
# For whoever shows a token: what there is without one, and with one for another patient.
BEARER = {f"dicomweb.{name}": arguments for name, arguments in DICOMWEB.items()}
POSTED = {"smart_launch.logout", "signoff.submit", "signoff.confirm"}
OPEN = {
    "static",
    "health.alive",
    "health.ready",
    "results.openapi",
    "smart_launch.launch",
    "smart_launch.login",
    "smart_launch.callback",
    "smart_launch.restart",
    "smart_launch.jwks",
}
OTHERS_WORDS = ("Otherson", "Olaf", "4712", OTHERS_CHEST.uid, "A-2002", OTHERS_REPORT.id, OTHERS_REPORT.conclusion)


def test_every_route_has_a_rule(clinic: Clinic) -> None:
    assert {rule.endpoint for rule in clinic.app.url_map.iter_rules()} == set(OTHERS) | set(BEARER) | OPEN


def _addresses(clinic: Clinic, launch: str) -> Iterator[tuple[str, str, str]]:
    with clinic.app.test_request_context():
        adapter = clinic.app.create_url_adapter(None) or clinic.app.url_map.bind("localhost")
        for endpoint, arguments in OTHERS.items():
            launch_id = launch.removeprefix("/l/")
            values = dict(arguments)
            values["launch" if endpoint == "results.results" else "launch_id"] = launch_id
            method = "POST" if endpoint in POSTED else "GET"
            yield endpoint, method, adapter.build(endpoint, values, method=method)


@pytest.fixture
def clinic(make_clinic: Callable[..., Clinic], settings: Settings, charts: None) -> Clinic:
    """An app whose reader may do everything that there is to be done, with their own patient."""
    return make_clinic(registration(settings.fhir_base_url, signers=SIGNERS))


@pytest.mark.requirement("S70", "XH11", "XE8")
def test_nothing_of_another_patient_is_shown(clinic: Clinic) -> None:
    launch = clinic.launch(scopes=WRITER_SCOPES)
    for endpoint, method, address in _addresses(clinic, launch):
        if endpoint == "smart_launch.logout":
            continue
        answer = clinic.post(address, {"form": "x"}) if method == "POST" else clinic.get(address)
        if ".search_" in endpoint and OTHERS[endpoint]:
            assert answer.status_code == 204, endpoint
        elif OTHERS[endpoint]:
            assert answer.status_code == 404, endpoint
        else:
            assert answer.status_code == 200, endpoint
        for words in OTHERS_WORDS:
            assert words not in answer.text, (endpoint, words)


@pytest.mark.requirement("XH11", "XB8")
def test_nothing_is_shown_without_the_launch_s_own_cookie(clinic: Clinic) -> None:
    others = clinic.launch(OTHER, subject="dr-other")
    clinic.client = clinic.app.test_client()
    clinic.launch()  # this browser has a launch, but not that one
    for endpoint, method, address in _addresses(clinic, others):
        answer = clinic.client.open(address, method=method, base_url="https://localhost")
        assert answer.status_code in (401, 403), endpoint
        for words in OTHERS_WORDS:
            assert words not in answer.text, (endpoint, words)


@pytest.mark.requirement("XB11")
def test_two_launches_in_one_browser_stay_apart(clinic: Clinic) -> None:
    maries, others = clinic.launch(), clinic.launch(OTHER)
    assert "Otherson" in clinic.get(f"{others}/").text
    assert "Otherson" not in clinic.get(f"{maries}/").text
    assert clinic.get(f"{others}/reports/{OTHERS_REPORT.id}").status_code == 200
    assert clinic.get(f"{maries}/reports/{OTHERS_REPORT.id}").status_code == 404
    assert clinic.get(f"{others}/reports/{MARIES_REPORT.id}").status_code == 404


@pytest.mark.requirement("S70")
@pytest.mark.parametrize(
    ("study", "series", "sop"),
    [
        (MARIES_CHEST.uid, MARIES_CHEST.series_uid, OTHERS_CHEST.sop_uid()),
        (MARIES_CHEST.uid, OTHERS_CHEST.series_uid, OTHERS_CHEST.sop_uid()),
        (MARIES_CHEST.uid, "..", MARIES_CHEST.sop_uid()),
        ("..", MARIES_CHEST.series_uid, MARIES_CHEST.sop_uid()),
        (MARIES_CHEST.uid, MARIES_CHEST.series_uid, f"..%2f{OTHERS_CHEST.sop_uid()}"),
    ],
)
def test_an_image_must_be_where_fhir_says(clinic: Clinic, study: str, series: str, sop: str) -> None:
    launch = clinic.launch()
    for what in ("rendered", "pixels"):
        assert clinic.get(f"{launch}/studies/{study}/series/{series}/instances/{sop}/{what}").status_code in (404, 308)


@pytest.mark.requirement("XA9", "S51")
def test_a_launch_without_a_patient_shows_nothing(clinic: Clinic) -> None:
    launch = clinic.launch(None)
    answer = clinic.get(f"{launch}/")
    assert answer.status_code == 403
    assert "Dupont" not in answer.text


@pytest.mark.requirement("S70", "XH11", "XE8")
def test_a_token_reaches_its_own_patient_only(
    make_clinic: Callable[..., Clinic], settings: Settings, charts: None
) -> None:
    with issuing() as issuer:
        clinic = make_clinic(registration(issuer.base), fhir_aliases=(issuer.base,))
        clinic.launch(OTHER)  # a cookie in the same browser opens nothing where a token is asked for
        mine = {"Authorization": f"Bearer {issuer.token(MARIE)}"}
        with clinic.app.test_request_context():
            adapter = clinic.app.url_map.bind("localhost")
            addresses = {name: adapter.build(name, arguments) for name, arguments in BEARER.items()}
        for endpoint, address in {**addresses, "results": f"/api/results?patient={OTHER}"}.items():
            assert clinic.get(address).status_code == 401, endpoint
            answer = clinic.get(address, headers=mine)
            expected = (200,) if BEARER.get(endpoint, {"x": ""}) == {} else (204,) if ".search_" in endpoint else (404,)
            assert answer.status_code in expected, endpoint
            for words in OTHERS_WORDS:
                assert words not in answer.text, (endpoint, words)
