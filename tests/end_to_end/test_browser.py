"""A doctor's way in a real browser: sandbox EHR, patient, launch in the iframe, report with image and heatmap."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.end_to_end.conftest import Stack, sample
from tests.end_to_end.test_images_to_reports import ADULT, one_report, renewed, stow, study_id

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; it blocks third-party cookies as it comes."""
    program = shutil.which("chromium")
    assert program, "chromium is missing: make test installs it"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(ignore_https_errors=True, locale="en-GB", viewport={"width": 1440, "height": 960})
    opened.set_default_timeout(20_000)
    yield opened
    opened.close()


def chest_patient(stack: Stack) -> str:
    """Send a chest radiograph of a new patient; return the patient's family name once the report is there."""
    family = f"Browser{uuid.uuid4().hex[:8]}"
    data, study_uid, _ = renewed(
        sample("RG1_UNCI.dcm"), PatientID=f"B{uuid.uuid4().hex[:8]}", PatientName=f"{family}^Ada", **ADULT
    )
    with stack.client("ingestion") as ingestion, stack.client("fhir") as fhir:
        stow(ingestion, data)
        one_report(fhir, study_uid)
    return family


def launch(page: Page, stack: Stack, family: str) -> None:
    """Open the patient's chart in the EHR and launch the app there."""
    page.goto(f"{stack.url('ehr')}/?q={family}")
    if page.locator(".people").count():
        page.locator(".people button").first.click()
        page.goto(f"{stack.url('ehr')}/?q={family}")
    page.get_by_role("link", name=family).first.click()
    page.get_by_role("button", name="Launch imaging app").click()


@pytest.mark.requirement("S5", "S55", "S84", "S85", "XB6", "XH5")
def test_launch_in_the_iframe_shows_report_image_and_heatmap(stack: Stack, context: BrowserContext) -> None:
    family = chest_patient(stack)
    page = context.new_page()
    complaints: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.location["url"].endswith("/favicon.ico"):
            complaints.append(message.text)

    page.on("console", hear)
    launch(page, stack, family)
    app = page.frame_locator("iframe#app")
    expect(app.get_by_text(family).first).to_be_visible()
    app.locator("a.row-link").first.click()
    expect(app.get_by_text("Automated analysis, not reviewed", exact=True)).to_be_visible()
    expect(app.locator("[data-canvas]")).to_be_visible()
    heatmap = app.locator("[data-heatmap]")
    assert heatmap.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    expect(app.get_by_text("chest-opacity").first).to_be_visible()
    expect(app.locator("#opacity")).to_be_visible()
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / "report_page.png")
    app.locator("#opacity").fill("90")
    expect(app.locator("[data-opacity-out]")).to_have_text("90%")
    assert complaints == []

    cookies = [cookie for cookie in context.cookies() if cookie["name"].startswith("__Host-")]
    assert cookies
    for cookie in cookies:
        if "app.localhost" in cookie["domain"]:
            assert cookie["httpOnly"]
            assert cookie["secure"]
            assert cookie["sameSite"] == "None"
    frame = next(item for item in page.frames if "app.localhost" in item.url)
    # Chromium denies a third party's frame its storage at all; where it does not, it is empty
    stored = "store => { try { return window[store].length } catch { return 0 } }"
    assert [frame.evaluate(stored, name) for name in ("localStorage", "sessionStorage")] == [0, 0]
    for secret in ("code=", "state=", "launch=", "token"):
        assert secret not in frame.url


@pytest.mark.requirement("S53")
def test_a_launch_whose_context_names_a_study_opens_that_study(stack: Stack, context: BrowserContext) -> None:
    """Of the patient's two studies the older one is named, which the app would not put first by itself."""
    family = f"Context{uuid.uuid4().hex[:8]}"
    person = {**ADULT, "PatientID": f"C{uuid.uuid4().hex[:8]}", "PatientName": f"{family}^Ada"}
    newer, _, _ = renewed(sample("RG1_UNCI.dcm"), **person)
    older, named, _ = renewed(sample("RG1_J2KR.dcm"), **{**person, "StudyDate": "20190304", "PatientAge": "059Y"})
    with stack.client("ingestion") as ingestion, stack.client("fhir") as fhir:
        stow(ingestion, newer, older)
        one_report(fhir, named)
    control = stack.sandbox().control
    control("PUT", "state", {"context": {"fhirContext": [{"reference": f"ImagingStudy/{study_id(named)}"}]}})
    try:
        page = context.new_page()
        launch(page, stack, family)
        app = page.frame_locator("iframe#app")
        expect(app.get_by_text("Automated analysis, not reviewed", exact=True)).to_be_visible()
        expect(app.get_by_text("4 Mar 2019").first).to_be_visible()
        frame = next(item for item in page.frames if "app.localhost" in item.url)
        assert frame.url.endswith(f"/studies/{named}")
        # what is somebody else's is not opened, and the page says so
        strangers = chest_patient(stack)
        control("PUT", "state", {"context": {"fhirContext": [{"reference": f"ImagingStudy/{study_id(named)}"}]}})
        launch(page, stack, strangers)
        expect(app.get_by_text("named an examination that does not belong to this patient")).to_be_visible()
        assert family not in next(item for item in page.frames if "app.localhost" in item.url).content()
    finally:
        control("DELETE", "state")


@pytest.mark.requirement("R6", "A1")
def test_the_sandbox_s_radiologist_signs_with_her_own_token(stack: Stack, context: BrowserContext) -> None:
    family = chest_patient(stack)
    page = context.new_page()
    launch(page, stack, family)
    app = page.frame_locator("iframe#app")
    app.locator("a.row-link").first.click()
    app.get_by_role("button", name="Accept…").click()
    expect(app.get_by_text("with your own rights in the EHR")).to_be_visible()
    app.get_by_role("button", name="Sign as final").click()
    expect(app.get_by_role("link", name="Amend…")).to_be_visible()
    with stack.client("fhir") as fhir:
        patient = fhir.get("/Patient", params={"family": family}).json()["entry"][0]["resource"]["id"]
        (entry,) = fhir.get("/DiagnosticReport", params={"patient": patient}).json()["entry"]
    report = entry["resource"]
    assert report["status"] == "final"
    assert report["resultsInterpreter"] == [
        {"reference": "Practitioner/sandbox-radiologist", "display": "Dr. Claire Moreau"}
    ]
    # the sandbox's other user reads it, and is told why he may not sign
    page.goto(f"{stack.url('ehr')}/sign-in")
    page.get_by_role("button", name="Dr. Martin Weber").click()
    launch(page, stack, family)
    app.locator("a.row-link").first.click()
    expect(app.get_by_text("Signing it needs a role that your EHR does not give you")).to_be_visible()
    assert app.get_by_text("Amend…").count() == 0


@pytest.mark.requirement("S83", "XH1")
def test_a_foreign_page_cannot_frame_the_app(stack: Stack, context: BrowserContext) -> None:
    page = context.new_page()
    page.route(
        "https://evil.localhost/**",
        lambda route: route.fulfill(content_type="text/html", body=f"<iframe src='{stack.url('app')}/login'></iframe>"),
    )
    page.goto("https://evil.localhost/")
    page.wait_for_function("window.frames.length === 1")
    framed = page.frames[1]
    framed.wait_for_load_state()
    assert framed.url.startswith("chrome-error://"), framed.content()


@pytest.mark.requirement("S10", "XB11")
def test_two_patients_in_two_tabs_never_mix(stack: Stack, context: BrowserContext) -> None:
    first, second = chest_patient(stack), chest_patient(stack)
    pages = []
    for family in (first, second):
        page = context.new_page()
        launch(page, stack, family)
        expect(page.frame_locator("iframe#app").get_by_text(family).first).to_be_visible()
        pages.append(page)
    for page, mine, other in ((pages[0], first, second), (pages[1], second, first)):
        frame = next(item for item in page.frames if "app.localhost" in item.url)
        frame.goto(frame.url)
        expect(page.frame_locator("iframe#app").get_by_text(mine).first).to_be_visible()
        assert other not in frame.content()
