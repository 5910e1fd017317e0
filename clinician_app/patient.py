"""The patient as the banner names them (S55, S72)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from clinician_app.fhir_values import Identifier, Moment, PersonName, Resource, identifiers, moment, person_name, text

__all__ = ["Age", "PatientIdentity", "age_on", "read_patient"]

_SEXES = ("male", "female", "other", "unknown")


@dataclass(frozen=True)
class Age:
    """An age in the unit that is used for it: days below a month, months below two years, then years."""

    count: int
    unit: Literal["day", "month", "year"]
    exact: bool = True


@dataclass(frozen=True)
class PatientIdentity:
    """What names a patient.

    Parameters
    ----------
    id : str
        Id of the Patient resource.
    name : PersonName
        Falsy where none was given.
    birth_date : Moment or None
        Of any precision.
    sex : str
        Administrative gender: male, female, other, unknown, or ''.
    identifier : Identifier or None
        The number that people use: of the registration's systems, else a medical record number, else the first.
    deceased : bool
        ``deceasedBoolean`` or any ``deceasedDateTime``.
    deceased_on : Moment or None
        When, where told.
    """

    id: str
    name: PersonName
    birth_date: Moment | None
    sex: str
    identifier: Identifier | None
    deceased: bool = False
    deceased_on: Moment | None = None

    def age(self, today: date) -> Age | None:
        """The age today, or at death; None where unknown."""
        end = self.deceased_on.date if self.deceased_on else today
        if self.deceased and not self.deceased_on:
            return None
        return age_on(self.birth_date, end)


def read_patient(resource: Resource, systems: Sequence[str] = ()) -> PatientIdentity:
    """Parse a Patient.

    Parameters
    ----------
    resource : Resource
        As the server sent it, known to be the launch's.
    systems : sequence of str
        Identifier systems that this EHR's registration prefers, best first.
    """
    sex = text(resource.get("gender"))
    deceased_on = moment(resource.get("deceasedDateTime"))
    return PatientIdentity(
        id=text(resource.get("id")),
        name=person_name(resource.get("name")),
        birth_date=moment(resource.get("birthDate")),
        sex=sex if sex in _SEXES else "",
        identifier=_chosen(identifiers(resource.get("identifier")), systems),
        deceased=resource.get("deceasedBoolean") is True or deceased_on is not None,
        deceased_on=deceased_on,
    )


def _chosen(found: Sequence[Identifier], systems: Sequence[str]) -> Identifier | None:
    for system in systems:
        for item in found:
            if item.system == system:
                return item
    return next((item for item in found if item.type_code == "MR"), found[0] if found else None)


def age_on(birth: Moment | None, day: date) -> Age | None:
    """Return the age on `day`; of a birth date without a day, what is sure of it, marked as not exact."""
    if birth is None or birth.date > day:
        return None
    born = birth.date
    if birth.precision in ("year", "month"):
        return Age(day.year - born.year, "year", exact=False)
    months = (day.year - born.year) * 12 + day.month - born.month - (day.day < born.day)
    if months < 1:
        return Age((day - born).days, "day")
    if months < 24:
        return Age(months, "month")
    return Age(months // 12, "year")
