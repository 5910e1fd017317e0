"""Signing in a real browser: by mouse, by keyboard alone, against a colleague, and without the right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from fhir_adapter.client import FhirClient
from fhir_adapter.severity import severity_of
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool
from imaging_core.settings import Settings
from tests.clinician_app.browsing import CHROMIUM, Pages, serving
from tests.clinician_app.conftest import READER_SCOPES, SIGNERS, Clinic, registration
from tests.clinician_app.signable import Signable, signable


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def clinic(make_clinic: Callable[..., Clinic], settings: Settings, charts: None) -> Clinic:
    return make_clinic(registration(settings.fhir_base_url, signers=SIGNERS))


@pytest.fixture
def pages(browser: Browser, clinic: Clinic) -> Iterator[Pages]:
    with serving(browser, clinic) as opened:
        yield opened


@pytest.fixture
def case(fhir_client: FhirClient, pool: Pool, blob_store: BlobStore, charts: None) -> Signable:
    return signable(fhir_client, pool, blob_store)


@pytest.fixture
def launch(clinic: Clinic, case: Signable) -> str:
    return clinic.launch(case.patient, scopes=READER_SCOPES)


@pytest.mark.requirement("R6")
def test_sign(pages: Pages, case: Signable, launch: str) -> None:
    page = pages.open(launch, case.page)
    page.get_by_role("button", name="Accept…").click()
    expect(page.get_by_text("This is what goes on record: Final")).to_be_visible()
    expect(page.locator("canvas")).to_be_visible()  # the image stays in sight until the end
    page.get_by_role("button", name="Sign as final").dblclick()
    expect(page.get_by_text("Final", exact=True)).to_be_visible()
    expect(page.get_by_text("Dr. Lefevre", exact=False).first).to_be_visible()
    assert case.report["status"] == "final"
    assert case.version == "2"
    page.go_back()  # to the preview, which must not offer it again
    expect(page.get_by_role("button", name="Sign as final")).to_have_count(0)


@pytest.mark.requirement("R6")
def test_two_doctors(pages: Pages, case: Signable, launch: str, clinic: Clinic) -> None:
    second = clinic.launch(case.patient, scopes=READER_SCOPES, subject="dr-curie", fhir_user="Practitioner/curie")
    slow = pages.open(second, f"{case.page}/review")
    slow.get_by_label("Conclusion").fill("What the second doctor typed.")
    slow.locator("input[value=indeterminate]").check()
    fast = pages.open(launch, case.page)
    fast.get_by_role("button", name="Accept…").click()
    fast.get_by_role("button", name="Sign as final").click()
    expect(fast.get_by_role("link", name="Amend…")).to_be_visible()
    slow.get_by_role("button", name="Show what becomes final…").click()
    expect(slow.get_by_role("alert")).to_contain_text("Dr. Lefevre has signed or changed it: Final")
    expect(slow.get_by_label("Conclusion")).to_have_value("What the second doctor typed.")
    expect(slow.locator("input[type=radio][value=indeterminate]")).to_be_checked()
    # the language can be changed in the middle of it, and nothing is lost by that either
    slow.get_by_role("link", name="FR", exact=True).click()
    expect(slow.get_by_label("Conclusion")).to_have_value("What the second doctor typed.")
    slow.get_by_role("link", name="EN", exact=True).click()
    slow.get_by_label("Reason").fill("Seen otherwise")
    slow.get_by_role("button", name="Show what becomes final…").click()
    expect(slow.get_by_text("This is what goes on record: Amended")).to_be_visible()
    slow.get_by_role("button", name="Sign the change").click()
    expect(slow.get_by_role("link", name="What the model said, and what was changed")).to_be_visible()
    assert case.report["status"] == "amended"
    assert case.report["conclusion"] == "What the second doctor typed."
    slow.get_by_role("link", name="What the model said, and what was changed").click()
    expect(slow.get_by_text("Seen otherwise")).to_be_visible()
    expect(slow.get_by_text("Automated analysis, as it was before anybody reviewed it")).to_be_visible()


def _tab_to(page: Page, what: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "() => { const e = document.activeElement;"
            " return [e.name || '', e.innerText || '', e.getAttribute('aria-label') || ''].join('|') }"
        )
        if what in found:
            return
    pytest.fail(f"{what} is not reached by Tab")


@pytest.mark.requirement("R6", "S87")
@pytest.mark.parametrize("scripts", [True, False])
def test_by_keyboard_alone_and_without_a_script(pages: Pages, case: Signable, launch: str, scripts: bool) -> None:
    page = pages.open(launch, case.page, java_script_enabled=True)
    if not scripts:
        page = pages.open(launch, case.page, java_script_enabled=False)
        page.get_by_role("link", name="Change…").press("Enter")
        page.locator("input[value=absent]").press("Space")
        page.get_by_role("button", name="Show what becomes final…").press("Enter")
        page.get_by_role("button", name="Sign as final").press("Enter")
        expect(page.get_by_role("link", name="Amend…")).to_be_visible()
        assert case.observation["valueCodeableConcept"]["coding"][0]["code"] == "2667000"
        return
    _tab_to(page, "Change…")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Review and sign")).to_be_visible()
    _tab_to(page, f"state.{case.observation['id']}")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    _tab_to(page, "severity.")
    page.keyboard.type("sev")
    _tab_to(page, "conclusion")
    page.keyboard.type("By keyboard.")
    _tab_to(page, "Show what becomes final…")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Present, severe").first).to_be_visible()
    _tab_to(page, "Sign as final")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Amend…")).to_be_visible()
    assert case.report["conclusion"] == "By keyboard."
    assert severity_of(case.observation) == "severe"


@pytest.mark.requirement("R6")
def test_without_the_right(pages: Pages, case: Signable, clinic: Clinic) -> None:
    weber = clinic.launch(case.patient, scopes=READER_SCOPES, subject="dr-weber", fhir_user="Practitioner/weber")
    page = pages.open(weber, case.page)
    expect(page.get_by_text("Signing it needs a role that your EHR does not give you")).to_be_visible()
    for name in ("Accept…", "Change…", "Reject…", "Amend…"):
        assert page.get_by_text(name).count() == 0


@pytest.mark.requirement("R6")
def test_reject(pages: Pages, case: Signable, launch: str) -> None:
    page = pages.open(launch, case.page)
    page.get_by_role("link", name="Reject…").click()
    page.get_by_role("button", name="Show what becomes final…").click()
    expect(page.get_by_text("Why is it rejected?")).to_be_visible()  # the browser asks for the choice
    page.get_by_text("Poor image quality").click()
    page.get_by_role("button", name="Show what becomes final…").click()
    page.get_by_role("button", name="Reject the analysis").click()
    expect(page.get_by_text("A clinician rejected this analysis")).to_be_visible()
    assert case.report["status"] == "cancelled"


@pytest.mark.parametrize("width", [320, 768, 1440])
def test_no_page_is_wider_than_its_window_and_everything_has_a_name(
    pages: Pages, case: Signable, launch: str, width: int
) -> None:
    for path in (case.page, f"{case.page}/review", f"{case.page}/review?act=reject", f"{case.page}/original"):
        page = pages.open(launch, path, viewport={"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('button, a[href], input, select, textarea, summary, fieldset')]
              .filter((item) => item.type !== 'hidden' && !(item.getAttribute('aria-label')
                || item.textContent.trim() || item.labels?.length || item.querySelector("img[alt]")))
              .map((item) => item.outerHTML)"""
        )
        assert nameless == [], path
        page.context.close()
