"""The sites that send images: the uploading client or AE title decides the site, and may use only its assigners."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from imaging_core.errors import Permanent
from imaging_core.settings import Settings

__all__ = ["Site", "Sites"]


@dataclass(frozen=True)
class Site:
    """One site.

    Parameters
    ----------
    name : str
        Its name, as reports show it and the ledger keeps it.
    assigner_system : str
        URI of its own patient numbers: the system where a header names no issuer.
    time_zone : str
        IANA name, or empty: times without an offset are then left out (D24).
    language : str
        ``en`` or ``fr``: of its reports.
    clients, ae_titles : tuple of str
        Who sends for this site.
    assigners : mapping
        Issuer text (0010,0021) to URI; with a SITES file, the only ones that its clients may use.
    exclusive : bool
        Whether a header may only name `assigners` or the site's own system.
    """

    name: str
    assigner_system: str = ""
    time_zone: str = ""
    language: str = "en"
    clients: tuple[str, ...] = ()
    ae_titles: tuple[str, ...] = ()
    assigners: Mapping[str, str] = field(default_factory=dict)
    exclusive: bool = False


_Uri = Annotated[str, Field(pattern=r"^(https?://|urn:[A-Za-z0-9][A-Za-z0-9-]{0,31}:)\S+$")]
_AeTitle = Annotated[str, Field(pattern=r"^[^\\\x00-\x1f]{1,16}$")]  # PS3.5 Table 6.2-1, VR AE
_Name = Annotated[str, Field(min_length=1)]


class _SiteTable(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: _Name
    assigner_system: _Uri
    time_zone: str = ""
    language: Literal["en", "fr"] = "en"
    clients: tuple[_Name, ...] = ()
    ae_titles: tuple[_AeTitle, ...] = ()
    assigners: dict[str, _Uri] = {}

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            return ZoneInfo(value).key if value else value
        except (KeyError, ValueError) as error:
            raise ValueError(f"no such IANA time zone: {value}") from error


class _SitesFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    site: Annotated[list[_SiteTable], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_once(self) -> _SitesFile:
        """Refuse a name, client or AE title that two sites claim: which one is meant nobody could tell."""
        named = {
            "name": [site.name for site in self.site],
            "client": [client for site in self.site for client in site.clients],
            "AE title": [title for site in self.site for title in site.ae_titles],
        }
        for what, values in named.items():
            twice = sorted(value for value, number in Counter(values).items() if number > 1)
            if twice:
                raise ValueError(f"{what} {twice[0]} stands there more than once")
        return self


class Sites:
    """All sites of an installation.

    Parameters
    ----------
    sites : sequence of Site
        One or more.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self._by_name = {site.name: site for site in sites}
        self._by_client = {client: site for site in sites for client in site.clients}
        self._by_ae_title = {title: site for site in sites for title in site.ae_titles}
        self._only = sites[0] if len(sites) == 1 and not sites[0].exclusive else None

    @classmethod
    def from_settings(cls, settings: Settings) -> Sites:
        """Read SITES, else make the one site of SITE_NAME, SITE_ASSIGNER_SYSTEM, SITE_TIME_ZONE and SITE_LANGUAGE.

        Raises
        ------
        Permanent
            With code ``bad-setting`` where the file can't be used.
        """
        if not settings.sites:
            return cls(
                [
                    Site(
                        settings.site_name or "site",
                        settings.site_assigner_system,
                        settings.site_time_zone,
                        settings.site_language,
                        assigners=settings.assigner_table,
                    )
                ]
            )
        try:
            table = _SitesFile.model_validate(tomllib.loads(Path(settings.sites).read_text("utf-8")))
        except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
            raise Permanent("bad-setting", f"SITES: {error}") from error
        return cls([Site(**entry.model_dump(), exclusive=True) for entry in table.site])

    def of_client(self, client: str) -> Site | None:
        """Return the site that a client sends for; None where it sends for none."""
        return self._by_client.get(client, self._only)

    def of_ae_title(self, title: str) -> Site | None:
        """Return the site of a calling AE title; None where it is not known."""
        return self._by_ae_title.get(title, self._only)

    def default_name(self) -> str:
        """Return the name of the only site; empty where there are several."""
        return next(iter(self._by_name)) if len(self._by_name) == 1 else ""

    def named(self, name: str) -> Site:
        """Return the site of a name that the ledger holds.

        Raises
        ------
        Permanent
            The site is no longer configured.
        """
        site = self._by_name.get(name, self._only)
        if site is None:
            raise Permanent("bad-setting", f"SITES has no site named {name!r}")
        return site
