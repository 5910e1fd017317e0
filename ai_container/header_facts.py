"""What an instance's header says of modality, body part, view and age: the first half of the input gate.

Headers are sparse and free: a radiograph may carry no body part at all, a view only in its series description, an age
only as birth and study date. Each question is answered by a table of words; a header that says nothing, or two
things, answers None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

__all__ = ["ImageFacts", "read_facts"]

BodyPart = Literal["chest", "other"]
View = Literal["frontal", "lateral"]

_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_IMAGE_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
        _FOR_PROCESSING,
        "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
        "1.2.840.10008.5.1.4.1.1.7.2",  # Multi-frame Grayscale Byte Secondary Capture
        "1.2.840.10008.5.1.4.1.1.7.3",  # Multi-frame Grayscale Word Secondary Capture
        "1.2.840.10008.5.1.4.1.1.7.4",  # Multi-frame True Color Secondary Capture
    }
)

# Other regions come first: "thoracic spine" and "ribs" hold words of the chest, and are other examinations.
_OTHER_WORDS = re.compile(
    r"\b(?:[ctls]{0,2}-?spine|sacrum|coccyx|ilium|spine|spinal|rachis|vertebr\w*|columna|colonne|wirbels\w*"
    r"|ribs?|c[oô]tes?|sternum|clavicle|clavicule|scapula"
    r"|abdomen|abdominal|abdo|asp|kub|pelvis|bassin|hips?|hanche|femur|f[ée]mur|knees?|genou\w*|leg|jambe|tibia|fibula|ankle|cheville"
    r"|foot|feet|pieds?|calcane\w*|toes?|orteils?|extremity|shoulders?|[ée]paules?|humerus|elbow|coude|forearm|arm|bras|wrist|poignet"
    r"|hands?|mains?|fingers?|doigts?|skull|cr[âa]ne|head|t[êe]te|face|facial|sinus\w*|jaw|mandible|orbits?|neck|cou|teeth|dental"
    r"|upper ?arm|lower ?arm|upper ?leg|lower ?leg|thigh|calf|heel|patella|radius|ulna|carpus|maxilla"
    r"|zygoma|mastoids?|tmj|[as]c ?joints?"
    r"|breast|sein|heart|stomach|bowel|colon|bladder|kidneys?|o?esophagus|whole ?body|chest ?abdomen|babygram)\b",
    re.IGNORECASE,
)
_CHEST_WORDS = re.compile(
    r"\b(?:chest|chst|cxr|thorax|torax|t[óo]rax|thoracic|thoracique|pulmon\w*|lungs?|poumons?|lunge)\b", re.IGNORECASE
)
_LATERAL_WORDS = re.compile(
    r"\b(?:lat|lateral|laterale|lateralis|ll|rl|llat|rlat|lld|rld|profil|seitlich|decubitus|lordotic|oblique|rao|lao|rpo|lpo|llo|rlo)\b",
    re.IGNORECASE,
)
_FRONTAL_WORDS = re.compile(
    r"\b(?:pa|ap|frontal|postero-?anterior|antero-?posterior|p\.a\.|a\.p\.|de face|portable|au lit)\b", re.IGNORECASE
)
# View Code Sequence (0054,0220), CID 4010
_FRONTAL_CODES = frozenset({"399348003", "272479007", "R-10206", "R-10214"})
_AGE = re.compile(r"(\d{1,3})\s*([DWMY]?)", re.IGNORECASE)
_YEARS_PER = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0, "": 1.0}
_OLDEST = 120


@dataclass(frozen=True)
class ImageFacts:
    """What the header says.

    Parameters
    ----------
    modality : str
        (0008,0060), upper case; empty where absent.
    body_part : {'chest', 'other'} or None
        None: the header does not say, or says both.
    view : {'frontal', 'lateral'} or None
        Oblique and decubitus count as lateral.
    age_years : float or None
        Of the patient when the image was made.
    turned : bool
        Patient Orientation (0020,0020) says that the image lies on its side or stands on its head.
    orientation_known : bool
        Patient Orientation says how the image lies.
    image_class : bool
        The SOP class is one for radiographs or converted pictures.
    for_processing : bool
        Raw detector values, not made to be looked at.
    frames : int
        Number of Frames (0028,0008), 1 where absent.
    acquired : str
        FHIR dateTime of the acquisition by date only, or empty.
    portable : bool
        AP view, or the descriptions say so.
    """

    modality: str = ""
    body_part: BodyPart | None = None
    view: View | None = None
    age_years: float | None = None
    turned: bool = False
    image_class: bool = True
    for_processing: bool = False
    frames: int = 1
    acquired: str = ""
    portable: bool = False
    orientation_known: bool = False


def read_facts(attributes: Mapping[str, Any]) -> ImageFacts:
    """Read the facts from a header in the DICOM JSON model (PS3.18 Annex F)."""
    sop_class = _text(attributes, "00080016")
    orientation = [value.upper() for value in _texts(attributes, "00200020")]
    descriptions = [_text(attributes, tag) for tag in ("00081030", "0008103E", "00181030", "00400254", "00321060")]
    frames = _text(attributes, "00280008")
    position = _text(attributes, "00185101").upper()
    return ImageFacts(
        modality=_text(attributes, "00080060").upper(),
        body_part=_body_part(_text(attributes, "00180015"), _code_meanings(attributes, "00082218"), descriptions),
        view=_view(attributes, position, orientation),
        age_years=_age(attributes),
        turned=_turned(orientation),
        image_class=sop_class in _IMAGE_CLASSES or not sop_class,
        for_processing=sop_class == _FOR_PROCESSING or _text(attributes, "00080068").upper() == "FOR PROCESSING",
        frames=int(frames) if frames.isdigit() else 1,
        acquired=_acquired(attributes),
        orientation_known=len(orientation) == 2 and all(orientation),
        portable=position == "AP" or any(re.search(r"portable|au lit", text, re.IGNORECASE) for text in descriptions),
    )


def _texts(attributes: Mapping[str, Any], tag: str) -> list[str]:
    element = attributes.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    if not isinstance(values, list):
        return []
    return [str(value).strip() for value in values if value is not None and not isinstance(value, Mapping)]


def _text(attributes: Mapping[str, Any], tag: str) -> str:
    return next(iter(_texts(attributes, tag)), "")


def _items(attributes: Mapping[str, Any], tag: str) -> list[Mapping[str, Any]]:
    element = attributes.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return [value for value in values if isinstance(value, Mapping)] if isinstance(values, list) else []


def _code_meanings(attributes: Mapping[str, Any], tag: str) -> list[str]:
    return [_text(item, "00080104") for item in _items(attributes, tag)]


def _words(pattern: re.Pattern[str], texts: Iterable[str]) -> bool:
    return any(pattern.search(text.replace("_", " ").replace("/", " ")) for text in texts)


def _body_part(examined: str, anatomic: list[str], descriptions: list[str]) -> BodyPart | None:
    """Ask the coded attributes first, then the descriptions."""
    for texts in ([examined, *anatomic], descriptions):
        if _words(_OTHER_WORDS, texts):
            return "other"
        if _words(_CHEST_WORDS, texts):
            return "chest"
    return None


def _view(attributes: Mapping[str, Any], position: str, orientation: list[str]) -> View | None:
    codes = [_text(item, "00080100") for item in _items(attributes, "00540220")]
    if codes:
        return "frontal" if codes[0] in _FRONTAL_CODES else "lateral"
    for texts in (
        [position],
        [_text(attributes, "0008103E"), _text(attributes, "00181030"), _text(attributes, "00181400")],
    ):
        frontal, lateral = _words(_FRONTAL_WORDS, texts), _words(_LATERAL_WORDS, texts)
        if frontal != lateral:
            return "frontal" if frontal else "lateral"
    letters = {value[0] for value in orientation if value}
    if letters & {"A", "P"}:
        return "lateral"
    if letters & {"L", "R"} and letters & {"H", "F"}:
        return "frontal"
    return None


def _turned(orientation: list[str]) -> bool:
    """Return whether rows run along the body, or columns run towards the head (PS3.3 C.7.6.1.1.1)."""
    if len(orientation) != 2 or not all(orientation):
        return False
    return orientation[0][0] in "HF" or orientation[1][0] == "H"


def _date(text: str) -> date | None:
    try:
        found = date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return None
    return found if found.year > 1880 else None


def _age(attributes: Mapping[str, Any]) -> float | None:
    """Return the smaller of Patient's Age (0010,1010) and the age by dates: a doubt makes a child, not an adult.

    An age without a unit (PS3.5 forbids it; whole public data sets have it) counts as years.
    """
    ages = []
    stated = _AGE.fullmatch(_text(attributes, "00101010"))
    if stated:
        ages.append(int(stated[1]) * _YEARS_PER[stated[2].upper()])
    born = _date(_text(attributes, "00100030"))
    made = next(filter(None, (_date(_text(attributes, tag)) for tag in ("00080022", "00080020", "00080021"))), None)
    if born and made:
        ages.append(made.year - born.year - ((made.month, made.day) < (born.month, born.day)))
    usable = [age for age in ages if 0 <= age <= _OLDEST]
    return float(min(usable)) if usable else None


def _acquired(attributes: Mapping[str, Any]) -> str:
    made = next(filter(None, (_date(_text(attributes, tag)) for tag in ("00080022", "00080020", "00080023"))), None)
    return made.isoformat() if made else ""
