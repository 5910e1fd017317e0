"""Every code that the system writes, as data: system, code, display and where that is laid down.

Code systems are named by their FHIR URI. DICOM's coding scheme designators (PS3.16 Table 8-1) are mapped to
those URIs and never copied as a ``system``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imaging_core.errors import Permanent

__all__ = [
    "AIAST",
    "ASSEMBLER",
    "CATEGORY_IMAGING",
    "CATEGORY_RADIOLOGY_LOINC",
    "CATEGORY_RADIOLOGY_V2",
    "DCM",
    "FINDING_STATES",
    "INTERPRETATIONS",
    "LATERALITY",
    "LOINC",
    "OWN",
    "OWN_DESIGNATOR",
    "PROCEDURES",
    "RADLEX",
    "SCHEMES",
    "SCT",
    "Code",
    "all_codes",
    "procedure",
    "scheme_designator",
    "scheme_uri",
]

SCT = "http://snomed.info/sct"
LOINC = "http://loinc.org"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
RADLEX = "http://radlex.org"
UCUM = "http://unitsofmeasure.org"
V2_0074 = "http://terminology.hl7.org/CodeSystem/v2-0074"
V2_0203 = "http://terminology.hl7.org/CodeSystem/v2-0203"
V3_OBSERVATION_VALUE = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue"
OWN = "urn:imaging:codes"
"""Codes of this system, where no published one says the same."""
OWN_DESIGNATOR = "99IMAGING"
"""The same codes in DICOM objects (PS3.16 8.2: private designators begin with 99)."""


@dataclass(frozen=True)
class Code:
    """One coded concept.

    Parameters
    ----------
    system : str
        URI of the code system.
    code, display : str
        As the code system has them.
    source : str
        Where system, code and display were taken from.
    """

    system: str
    code: str
    display: str
    source: str = ""

    def coding(self) -> dict[str, Any]:
        """Return the FHIR Coding."""
        return {"system": self.system, "code": self.code, "display": self.display}

    def concept(self, text: str | None = None) -> dict[str, Any]:
        """Return a CodeableConcept with this coding."""
        return {"coding": [self.coding()], **({"text": text} if text else {})}


# DICOM coding scheme designators, PS3.16 Table 8-1 and the URIs that HL7 Terminology gives the same systems.
SCHEMES: dict[str, str] = {
    "SCT": SCT,
    "SRT": "http://snomed.info/srt",
    "SNM3": "http://snomed.info/srt",
    "99SDM": "http://snomed.info/srt",
    "LN": LOINC,
    "DCM": DCM,
    "RADLEX": RADLEX,
    "FMA": "http://purl.org/sig/fma",
    "UCUM": UCUM,
    "I10": "http://hl7.org/fhir/sid/icd-10",
    "ICD10": "http://hl7.org/fhir/sid/icd-10",
    "I10C": "http://hl7.org/fhir/sid/icd-10-cm",
    "I9C": "http://hl7.org/fhir/sid/icd-9-cm",
    "C4": "http://www.ama-assn.org/go/cpt",
    "CPT4": "http://www.ama-assn.org/go/cpt",
    "UMLS": "http://terminology.hl7.org/CodeSystem/umls",
    "NCIt": "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl",
    "RFC3066": "urn:ietf:bcp:47",
    "NDC": "http://hl7.org/fhir/sid/ndc",
    "ISO3166_1": "urn:iso:std:iso:3166",
}

_R2 = "requirements R2; SNOMED CT qualifier values"
FINDING_STATES: dict[str, Code] = {
    "present": Code(SCT, "52101004", "Present", _R2),
    "absent": Code(SCT, "2667000", "Absent", _R2),
    "indeterminate": Code(SCT, "82334004", "Indeterminate", _R2),
}

_INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
_R4_INTERPRETATION = "FHIR R4 ValueSet observation-interpretation"
INTERPRETATIONS: dict[str, Code] = {
    "present": Code(_INTERPRETATION, "POS", "Positive", _R4_INTERPRETATION),
    "absent": Code(_INTERPRETATION, "NEG", "Negative", _R4_INTERPRETATION),
    "indeterminate": Code(_INTERPRETATION, "IND", "Indeterminate", _R4_INTERPRETATION),
}

CATEGORY_RADIOLOGY_V2 = Code(V2_0074, "RAD", "Radiology", "FHIR R4 ValueSet diagnostic-service-sections")
CATEGORY_RADIOLOGY_LOINC = Code(LOINC, "LP29684-5", "Radiology", "US Core 6.1.0 us-core-diagnosticreport-category")
CATEGORY_IMAGING = Code(
    "http://terminology.hl7.org/CodeSystem/observation-category",
    "imaging",
    "Imaging",
    "FHIR R4 ValueSet observation-category",
)
AIAST = Code(
    V3_OBSERVATION_VALUE,
    "AIAST",
    "Artificial Intelligence asserted",
    "HL7 v3 ObservationValue; AI Transparency on FHIR",
)
ASSEMBLER = Code(
    "http://terminology.hl7.org/CodeSystem/provenance-participant-type",
    "assembler",
    "Assembler",
    "FHIR R4 ValueSet provenance-agent-type",
)
AUTHOR = Code(
    "http://terminology.hl7.org/CodeSystem/provenance-participant-type",
    "author",
    "Author",
    "FHIR R4 ValueSet provenance-agent-type",
)
VERIFIER = Code(
    "http://terminology.hl7.org/CodeSystem/provenance-participant-type",
    "verifier",
    "Verifier",
    "FHIR R4 ValueSet provenance-agent-type",
)
_DATA_OPERATION = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
CREATE = Code(_DATA_OPERATION, "CREATE", "create", "HL7 v3 DataOperation")
UPDATE = Code(_DATA_OPERATION, "UPDATE", "revise", "HL7 v3 DataOperation")
MEDICAL_RECORD = Code(V2_0203, "MR", "Medical record number", "FHIR R4 ValueSet identifier-type")
ACCESSION = Code(V2_0203, "ACSN", "Accession ID", "FHIR R4 ValueSet identifier-type")
VISIT = Code(V2_0203, "VN", "Visit number", "HL7 v2 table 0203")
WADO_RS = Code(
    "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
    "dicom-wado-rs",
    "DICOM WADO-RS",
    "FHIR R4 ValueSet endpoint-connection-type",
)
NOT_PERFORMED = Code(
    "http://terminology.hl7.org/CodeSystem/data-absent-reason",
    "not-performed",
    "Not Performed",
    "FHIR R4 ValueSet data-absent-reason",
)
IMAGE_MEDIA = Code("http://terminology.hl7.org/CodeSystem/media-type", "image", "Image", "FHIR R4 ValueSet media-type")
ARTIFICIAL_INTELLIGENCE = Code(DCM, "123110", "Artificial Intelligence", "DICOM PS3.16 CID 7162")
PROBABILITY = Code(OWN, "probability", "Calibrated probability of the finding", "this system")
THRESHOLD = Code(OWN, "threshold", "Decision threshold", "this system")
BAND_LOW = Code(OWN, "band-low", "Indeterminate from this probability", "this system")
BAND_HIGH = Code(OWN, "band-high", "Indeterminate up to this probability", "this system")
IMAGE_PROBABILITY = Code(OWN, "image-probability", "Calibrated probability in one image", "this system")
MEDICAL_IMAGE_ANALYSIS = Code(
    "http://hl7.org/fhir/uv/aitransparency/CodeSystem/AIdeviceTypeCS",
    "Medical-Image-Analysis",
    "Medical Image Analysis",
    "AI Transparency on FHIR, AIdeviceTypeCS",
)
AI_MODEL_CARD = Code(
    "http://hl7.org/fhir/uv/aitransparency/CodeSystem/AImodelCardCS",
    "AIModelCard",
    "AI Model Card",
    "AI Transparency on FHIR, AImodelCardCS",
)
MADE_BY_INTAKE = Code("urn:imaging:tags", "made-by-intake", "Made by image intake", "this system")

_LATERALITY = "DICOM PS3.16 CID 244"
LATERALITY: dict[str, Code] = {
    "L": Code(SCT, "7771000", "Left", _LATERALITY),
    "R": Code(SCT, "24028007", "Right", _LATERALITY),
    "B": Code(SCT, "51440002", "Right and left", _LATERALITY),
}

_LOINC = "LOINC, RSNA radiology playbook"
DIAGNOSTIC_IMAGING = Code(LOINC, "18748-4", "Diagnostic imaging study", "FHIR R4 ValueSet report-codes")
PROCEDURES: dict[str, Code] = {
    "chest-1-view": Code(LOINC, "36554-4", "XR Chest Single view", _LOINC),
    "chest-2-views": Code(LOINC, "36643-5", "XR Chest 2 Views", _LOINC),
    "chest-portable": Code(LOINC, "30746-2", "Portable XR Chest Views", "US Core DiagnosticReport Note example"),
    "chest-ct": Code(LOINC, "24627-2", "CT Chest", "LOINC; DICOM PS3.16 CID 7000"),
    "other": DIAGNOSTIC_IMAGING,
}

_RADIOGRAPHY = frozenset({"CR", "DX", "DR", "RG"})


def procedure(modalities: frozenset[str], body_part: str, images: int, portable: bool) -> Code:
    """Return the LOINC code of an examination.

    Parameters
    ----------
    modalities : frozenset of str
        DICOM modalities of the study's images.
    body_part : str
        Body Part Examined (0018,0015), upper case; empty where unknown.
    images : int
        Radiographs in the study (each is a view).
    portable : bool
        Taken at the bedside.
    """
    chest = body_part in ("CHEST", "THORAX", "LUNG")
    if chest and modalities and modalities <= _RADIOGRAPHY:
        if portable:
            return PROCEDURES["chest-portable"]
        return PROCEDURES.get({1: "chest-1-view", 2: "chest-2-views"}.get(images, ""), DIAGNOSTIC_IMAGING)
    if chest and modalities == {"CT"}:
        return PROCEDURES["chest-ct"]
    return DIAGNOSTIC_IMAGING


def scheme_uri(designator: str, uid: str = "") -> str | None:
    """Return the URI of a DICOM coding scheme, None where the designator says nothing to the outside.

    Parameters
    ----------
    designator : str
        Coding Scheme Designator (0008,0102).
    uid : str
        Coding Scheme UID (0008,010C), used for schemes that are not in `SCHEMES`.
    """
    if known := SCHEMES.get(designator):
        return known
    return f"urn:oid:{uid}" if uid else None


def scheme_designator(system: str) -> str:
    """Return the DICOM coding scheme designator of a code system, the private ``99IMAGING`` for this system's own.

    Raises
    ------
    Permanent
        ``bad-setting``: DICOM has no designator for it.
    """
    if system == OWN:
        return OWN_DESIGNATOR
    for designator, uri in SCHEMES.items():
        if uri == system:
            return designator
    raise Permanent("bad-setting", f"DICOM has no coding scheme designator for {system}")


def all_codes() -> list[Code]:
    """Return every code of this module, for the test that checks them against their sources."""
    found: list[Code] = []
    for value in globals().values():
        if isinstance(value, Code):
            found.append(value)
        elif isinstance(value, dict):
            found.extend(item for item in value.values() if isinstance(item, Code))
    return list(dict.fromkeys(found))
