"""axe-core on every page of the app, as served: light and dark, English and French, wide and narrow; no violation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Response
from playwright.sync_api import Browser, Page, expect, sync_playwright

from fhir_adapter.client import FhirClient
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool
from imaging_core.errors import Retryable
from imaging_core.settings import Settings
from infra.local.node import find_node, install_packages
from smart_launch.errors import LaunchError
from smart_launch.pages import authorize_form, fault_page
from tests.clinician_app.browsing import CHROMIUM, Pages, serving
from tests.clinician_app.conftest import (
    MARIES_BRAIN,
    MARIES_REPORT,
    READER_SCOPES,
    SIGNERS,
    Clinic,
    know,
    registration,
    replaced,
)
from tests.clinician_app.made_up_chart import CHEST, MadeUpFinding, MadeUpReport, MadeUpStudy, human_report, patient
from tests.clinician_app.signable import Signable, signable

PACKAGE = Path(__file__).parents[1] / "accessibility"
LANGUAGES = {"en": "en", "fr": "fr-FR"}
WIDTHS = (1440, 768)
SCHEMES = ("light", "dark")

pytestmark = pytest.mark.requirement("S87")

Check = Callable[[Page, str, str], None]


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core, installed by its lock file."""
    folder = install_packages(PACKAGE, find_node())
    return (folder / "node_modules/axe-core/axe.min.js").read_text("utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def check(axe: str) -> Check:
    """Return what runs all of axe's rules on a page, in both colour schemes and both widths."""

    def run(page: Page, name: str, language: str) -> None:
        assert (page.get_attribute("html", "lang") or "").startswith(language), name
        page.evaluate(axe)
        found = []
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]  # of SCHEMES
                assert page.evaluate(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
                answer = page.evaluate("async () => await axe.run(document, {resultTypes: ['violations']})")
                assert answer["passes"], "axe looked at nothing"
                found += [
                    (name, language, scheme, width, item["id"], node["html"][:160], node["failureSummary"])
                    for item in answer["violations"]
                    for node in item["nodes"]
                ]
        assert found == [], "\n".join(map(str, found))

    return run


@pytest.fixture
def clinic(make_clinic: Callable[..., Clinic], settings: Settings, charts: None) -> Clinic:
    """An app that two EHRs launch; in the first, radiologists may sign."""
    return make_clinic(
        registration(settings.fhir_base_url, signers=SIGNERS),
        registration("https://other.example/fhir", name="other", title="Another hospital"),
    )


@pytest.fixture
def pages(browser: Browser, clinic: Clinic) -> Iterator[Pages]:
    with serving(browser, clinic) as opened:
        yield opened
        # what answers 404 and the like on purpose is told of on the console
        opened.trouble[:] = [line for line in opened.trouble if "Failed to load resource" not in line]


@pytest.fixture
def case(fhir_client: FhirClient, pool: Pool, blob_store: BlobStore, charts: None) -> Signable:
    return signable(fhir_client, pool, blob_store)


@pytest.fixture
def launch(clinic: Clinic, case: Signable) -> str:
    return clinic.launch(case.patient, scopes=READER_SCOPES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_reading(
    pages: Pages,
    clinic: Clinic,
    check: Check,
    language: str,
    fhir_client: FhirClient,
    pool: Pool,
    blob_store: BlobStore,
    owner_pool: Pool,
) -> None:
    """Timeline with every kind of entry, its notices, and the examinations behind it."""
    locale = LANGUAGES[language]
    name = f"accessible-{language}"
    made = [
        MadeUpStudy(number, name, f"2026-0{number - 800}-20T08:00:00+01:00", "Chest AP", "DX", (CHEST,), "Chest", "A-7")
        for number in range(801, 807)
    ]
    made = [replaced(item, number=item.number + (50 if language == "fr" else 0)) for item in made]
    fhir_client.update(patient(name, "Lisible", ["Ada"], "1961-02-03", "female", name))
    know(pool, *made)
    found = [
        MadeUpReport(made[0], (MadeUpFinding("Lung opacity", "present", 0.87), MadeUpFinding("Nodule", "absent", 0.1))),
        MadeUpReport(made[1], (MadeUpFinding("Lung opacity", "indeterminate", 0.5),)),
        MadeUpReport(made[2], (MadeUpFinding("Lung opacity", "absent", 0.04),), conclusion="Nothing."),
    ]
    for study in made:
        fhir_client.update(study.resource)
        study.put_images(blob_store)
    for report in found:
        for resource in report.resources():
            fhir_client.update(resource)
        report.put_result(blob_store)
    withdrawn, rejected, signed = (
        {**human_report(f"{name}-{number}", name, None, "Nothing to be said."), "status": status}
        for number, status in enumerate(("entered-in-error", "cancelled", "final"))
    )
    for resource in (withdrawn, rejected, signed):
        fhir_client.update(resource)
    launch = clinic.launch(name)
    for path, what in (
        ("/", "timeline"),
        *((f"/reports/{report.id}", f"report {report.findings[0].state}") for report in found),
        *((f"/reports/{item['id']}", f"report {item['status']}") for item in (withdrawn, rejected, signed)),
        (f"/studies/{made[3].uid}", "images without a report"),
    ):
        page = pages.open(launch, path, locale=locale)
        if page.locator("canvas").count():
            expect(page.locator("[data-readout]")).not_to_be_empty(timeout=30_000)
        check(page, what, language)
        page.context.close()
    bare = clinic.launch(name, scopes="launch openid fhirUser patient/ImagingStudy.rs", need_patient_banner=False)
    page = pages.open(bare, "/", locale=locale)
    expect(page.get_by_role("status").first).to_be_visible()
    check(page, "timeline with less than was asked for", language)
    page.context.close()
    with owner_pool.connection() as connection:
        connection.execute("UPDATE cache.reading SET read_at = read_at - interval '1 day' WHERE patient = %s", (name,))
    clinic.services.outages.no_answer(clinic.ehr.fhir_url)
    page = pages.open(launch, "/", locale=locale)
    expect(page.locator(".notice-stale")).to_be_visible()
    check(page, "stale timeline", language)
    page.context.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_signing(pages: Pages, clinic: Clinic, case: Signable, launch: str, check: Check, language: str) -> None:
    """Form, preview, conflict, what is signed, what it was before, who may not, and what can't be had."""
    locale = LANGUAGES[language]

    def opened(path: str, *, who: str = launch) -> Page:
        return pages.open(who, path, locale=locale)

    for path, what in (
        (case.page, "report to be signed"),
        (f"{case.page}/review", "review"),
        (f"{case.page}/review?act=reject", "reject"),
        (f"{case.page}/original", "original before anybody acted"),
    ):
        page = opened(path)
        check(page, what, language)
        page.context.close()
    second = clinic.launch(case.patient, scopes=READER_SCOPES, subject="dr-curie", fhir_user="Practitioner/curie")
    slow = opened(f"{case.page}/review", who=second)
    late = opened(f"{case.page}/review", who=second)
    late.locator("button.primary").click()
    expect(late.locator("form[action$='/sign']")).to_be_visible()
    page = opened(f"{case.page}/review")
    page.locator("input[value=absent]").check(force=True)
    page.locator("button.primary").click()
    expect(page.locator("form[action$='/sign']")).to_be_visible()
    check(page, "preview", language)
    page.locator("form[action$='/sign'] button.primary").click()
    expect(page.locator(".verdict-reviewed")).to_be_visible()
    check(page, "signed report", language)
    slow.locator("button.primary").click()
    expect(slow.get_by_role("alert").first).to_be_visible()
    check(slow, "conflict", language)
    late.locator("form[action$='/sign'] button.primary").click()
    expect(late.get_by_role("alert").first).to_be_visible()
    check(late, "conflict at the signature", language)
    for path, what in (
        (f"{case.page}/review?act=amend", "amend"),
        (f"{case.page}/original", "original"),
        ("/reports/nothing-here", "not found"),
        (f"/reports/{MARIES_REPORT.id}", "another patient's report"),
        (f"/studies/{MARIES_BRAIN.uid}", "another patient's study"),
    ):
        page = opened(path)
        check(page, what, language)
        page.context.close()
    weber = clinic.launch(case.patient, scopes=READER_SCOPES, subject="dr-weber", fhir_user="Practitioner/weber")
    for path, what in ((case.page, "report without the right"), (f"{case.page}/review", "refused")):
        page = opened(path, who=weber)
        check(page, what, language)
        page.context.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_faults_and_forms_that_were_left_empty(
    pages: Pages, clinic: Clinic, case: Signable, launch: str, check: Check, language: str
) -> None:
    page = pages.open(launch, f"{case.page}/review?act=reject", locale=LANGUAGES[language])
    page.evaluate("document.querySelectorAll('[required]').forEach((item) => item.removeAttribute('required'))")
    page.locator("button.primary").click()
    expect(page.get_by_role("alert").first).to_be_visible()
    check(page, "form with a fault", language)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(clinic.services.desk), "carry_out", _away)
        again = pages.open(launch, f"{case.page}/review", locale=LANGUAGES[language])
        again.locator("button.primary").click()
        again.locator("form[action$='/sign'] button.primary").click()
        expect(again.locator(".message")).to_be_visible()
        check(again, "nothing was signed", language)


def _away(*_: object) -> None:
    raise Retryable("fhir-unavailable", "away")


@pytest.mark.parametrize("language", LANGUAGES)
def test_launching(pages: Pages, clinic: Clinic, launch: str, check: Check, language: str) -> None:
    """The pages before and after a launch: choice of the EHR, faults, the way out."""
    page = pages.open(launch, "/", locale=LANGUAGES[language])
    for path, what in (
        ("/login", "choice of the EHR"),
        ("/login?ehr=nobody", "unknown EHR"),
        ("/launch?iss=https://nobody.example&launch=x", "unknown EHR that launches"),
        ("/callback/ehr?state=x&code=y", "unknown launch"),
        ("/l/unknown/", "no launch of this browser"),
        ("/no-such-page", "no such page"),
    ):
        page.goto(pages.origin + path)
        check(page, what, language)

    def shown(make: Callable[[], Response], what: str) -> None:
        """Show a page that no address leads to by itself."""
        headers = {"Accept-Language": LANGUAGES[language]}
        with clinic.app.test_request_context("/launch", base_url="https://localhost", headers=headers):
            # the form that sends itself, as who comes without a script meets it
            body = make().get_data(as_text=True).replace('document.getElementById("authorize").submit();', "")
        address = f"{pages.origin}/made"
        page.route(address, lambda route: route.fulfill(body=body, content_type="text/html; charset=utf-8"))
        page.goto(address)
        check(page, what, language)
        page.unroute(address)

    shown(lambda: fault_page(LaunchError("no-cookie"), restart_ticket="ticket"), "no cookie in the EHR's frame")
    signed_out = LaunchError("signed-out")
    shown(lambda: fault_page(signed_out, further="https://ehr.example/end"), "signed out, of the EHR as well")
    shown(lambda: authorize_form(f"{pages.origin}/healthz", {"state": "x"}), "on the way to the EHR")
    page.goto(pages.origin + launch + "/")
    page.locator("form[action$='/logout'] button").click()
    page.wait_for_url("**/logout")
    check(page, "signed out", language)
