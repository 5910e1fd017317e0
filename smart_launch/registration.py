"""The EHRs that the app is registered with: a TOML file, and the only hosts that are ever contacted."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from smart_launch.errors import SmartConfigurationError
from smart_launch.guarded_http import AddressRefused, origin_of
from smart_launch.scopes import check_requested
from smart_launch.secret_source import SecretSource
from smart_launch.signing_keys import SigningKey, load_keys

__all__ = ["Registration", "find_by_iss", "load_registrations"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")
_CLIENT_AUTH = ("private_key_jwt", "client_secret_basic", "client_secret_post", "none")
_TEXTS = {
    "name", "iss", "client_id", "client_auth", "client_secret", "key", "scopes", "imaging_fhir",
    "signers", "issuer", "ca_file", "fhir_base", "aud", "title", "discovery",
    "system_client_id", "system_scopes", "system_key",
}  # fmt: skip
_LISTS = {"patient_identifier_systems", "frame_ancestors", "hosts"}
_SWITCHES = {"end_session", "require_identity"}
_TABLES = {"discovery_headers"}
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_OWN_HEADERS = {"authorization", "cookie", "host", "accept", "accept-encoding", "content-length", "transfer-encoding"}


@dataclass(frozen=True)
class Registration:
    """One EHR.

    Parameters
    ----------
    name : str
        Also the last segment of the redirect URI, `/callback/<name>`.
    iss : str
        FHIR base URL as the EHR sends it; `aud` is sent in exactly this spelling.
    client_id : str
        The app's id there.
    client_auth : str
        `private_key_jwt`, `client_secret_basic`, `client_secret_post` or `none`.
    scopes : str
        What is asked for.
    client_secret : str
        For the two secret methods.
    signing_keys : tuple
        For `private_key_jwt`: the first one signs, all are published.
    imaging_fhir : str
        `same`, or the URL of the FHIR service that holds the results.
    patient_identifier_systems : tuple of str
        Assigners whose numbers link the EHR's patient with the imaging service's.
    signers : str
        Who may sign; empty: nobody signs from this EHR.
    frame_ancestors : tuple of str
        Origins of the EHR's pages that may embed the app.
    issuer : str
        Issuer of id_tokens, only where it differs from discovery.
    ca_file : str
        Certificate authorities of this EHR, instead of the machine's.
    hosts : tuple of str
        Further hosts (`host` or `host:port`) that discovery may point to, such as a separate authorization server.
    fhir_base : str
        Only where FHIR is not read at `iss` (a gateway in front of a FHIR service).
    aud : str
        Only where the EHR wants another `aud` than `iss`.
    discovery : str
        Only where `.well-known/smart-configuration` is not below `iss`: the base that it is below.
    discovery_headers : tuple of (str, str)
        Header fields that the EHR wants at discovery, such as Epic's `Epic-Client-ID`.
    system_client_id, system_scopes : str
        The app's own access without a user (SMART Backend Services), where it has any: it is a client of its own.
    system_keys : tuple
        Keys of that client.
    title : str
        Name to show where a user chooses an EHR; empty: `name`.
    end_session : bool
        Whether logout also ends the user's session in the EHR.
    require_identity : bool
        Whether a launch without a verified id_token is refused even where the EHR does not offer any.
    """

    name: str
    iss: str
    client_id: str
    client_auth: str
    scopes: str
    client_secret: str = field(default="", repr=False)
    signing_keys: tuple[SigningKey, ...] = field(default=(), repr=False)
    imaging_fhir: str = "same"
    patient_identifier_systems: tuple[str, ...] = ()
    signers: str = ""
    frame_ancestors: tuple[str, ...] = ()
    issuer: str = ""
    ca_file: str = ""
    hosts: tuple[str, ...] = ()
    fhir_base: str = ""
    aud: str = ""
    title: str = ""
    end_session: bool = False
    require_identity: bool = False
    discovery: str = ""
    discovery_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    system_client_id: str = ""
    system_scopes: str = ""
    system_keys: tuple[SigningKey, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        self._check_names()
        self._check_client()
        self._check_scopes()

    def _check_names(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SmartConfigurationError(f"name {self.name!r}: lower-case letters, digits, - and _ only")
        addresses = {"iss": self.iss, "fhir_base": self.fhir_base, "issuer": self.issuer, "discovery": self.discovery}
        for label, url in addresses.items():
            if url:
                self._check_url(label, url)
        for host in self.hosts:
            self._check_url("hosts", f"https://{host}")
        for ancestor in self.frame_ancestors:
            self._check_url("frame_ancestors", ancestor)
            if urlsplit(ancestor).path not in ("", "/") or ";" in ancestor or "," in ancestor or "*" in ancestor:
                raise SmartConfigurationError(
                    f"{self.name}: frame_ancestors holds origins, such as https://ehr.example"
                )

        for name, value in self.discovery_headers:
            if (
                not _HEADER.fullmatch(name)
                or name.lower() in _OWN_HEADERS
                or not (value.isascii() and value.isprintable())
            ):
                raise SmartConfigurationError(f"{self.name}: discovery_headers: {name!r} can't be sent")

    def _check_scopes(self) -> None:
        check_requested(self.scopes)
        if any(word.startswith("system/") for word in self.scopes.split()):
            raise SmartConfigurationError(f"{self.name}: scopes of level system belong into system_scopes")
        if not (self.system_client_id or self.system_scopes or self.system_keys):
            return
        if not (self.system_client_id and self.system_scopes and self.system_keys):
            raise SmartConfigurationError(f"{self.name}: system_client_id, system_scopes and system_key go together")
        check_requested(self.system_scopes)
        if not all(word.startswith("system/") for word in self.system_scopes.split()):
            raise SmartConfigurationError(f"{self.name}: system_scopes are of level system")

    def _check_url(self, label: str, url: str) -> None:
        try:
            origin_of(url)
        except AddressRefused as error:
            raise SmartConfigurationError(f"{self.name}: {label}: {error}") from error
        if urlsplit(url).query or urlsplit(url).fragment:
            raise SmartConfigurationError(f"{self.name}: {label} has a query or a fragment")

    def _check_client(self) -> None:
        if not self.client_id:
            raise SmartConfigurationError(f"{self.name}: client_id is missing")
        if self.client_auth not in _CLIENT_AUTH:
            raise SmartConfigurationError(f"{self.name}: client_auth is one of {', '.join(_CLIENT_AUTH)}")
        if self.client_auth == "private_key_jwt" and not self.signing_keys:
            raise SmartConfigurationError(f"{self.name}: private_key_jwt needs key")
        if self.client_auth.startswith("client_secret") and not self.client_secret:
            raise SmartConfigurationError(f"{self.name}: {self.client_auth} needs client_secret")

    @property
    def fhir_url(self) -> str:
        """FHIR base that is read with the launch's token, without a trailing slash."""
        return (self.fhir_base or self.iss).rstrip("/")

    @property
    def audience(self) -> str:
        """Value of `aud` in the authorization request."""
        return self.aud or self.iss

    @property
    def discovery_base(self) -> str:
        """Base below which the SMART configuration is, without a trailing slash."""
        return (self.discovery or self.iss).rstrip("/")

    @property
    def published_keys(self) -> tuple[SigningKey, ...]:
        """Keys whose public halves the app publishes for this EHR."""
        return self.signing_keys + self.system_keys

    @property
    def origins(self) -> frozenset[str]:
        """Origins that may be contacted for this EHR."""
        urls = [self.iss, self.fhir_base, self.issuer, self.discovery, *(f"https://{host}" for host in self.hosts)]
        return frozenset(origin_of(url) for url in urls if url)


def normalised(iss: str) -> str:
    """Return an `iss` as registrations are compared: scheme and host in lower case, no trailing slash.

    Raises
    ------
    AddressRefused
        It is no URL that could be a registered EHR's.
    """
    origin = origin_of(iss)
    parts = urlsplit(iss)
    if parts.query or parts.fragment or "?" in iss or "#" in iss:
        raise AddressRefused("iss has a query or a fragment")
    return origin + parts.path.removesuffix("/")


def find_by_iss(registrations: Iterable[Registration], iss: str) -> Registration | None:
    """Return the EHR that an `iss` names, or None: then nothing is ever sent to it."""
    try:
        wanted = normalised(iss)
    except AddressRefused:
        return None
    return next((item for item in registrations if normalised(item.iss) == wanted), None)


def load_registrations(
    path: str | Path, *, key_vault_url: str = "", environment: Mapping[str, str] | None = None
) -> list[Registration]:
    """Read the file named by the setting SMART_REGISTRATIONS.

    Parameters
    ----------
    path : str or Path
        TOML file with `[[ehr]]` tables; relative `file:` references and `ca_file` refer to its folder.
    key_vault_url : str
        Azure Key Vault of `keyvault:` references.
    environment : mapping, optional
        Where `env:` references are looked up; the process's own by default.

    Raises
    ------
    SmartConfigurationError
        Not readable, a member that is not known, two EHRs of one name or one iss, a missing secret.
    """
    file = Path(path)
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SmartConfigurationError(f"{file}: {error}") from error
    tables = document.get("ehr")
    if not isinstance(tables, list) or not tables:
        raise SmartConfigurationError(f"{file}: no [[ehr]] table")
    source = SecretSource(file.parent, key_vault_url, environment)
    found = [_registration(table, source, file.parent) for table in tables]
    _check_distinct(found)
    return found


def _registration(table: Mapping[str, Any], source: SecretSource, folder: Path) -> Registration:
    name = str(table.get("name", "?"))
    unknown = set(table) - _TEXTS - _LISTS - _SWITCHES - _TABLES
    if unknown:
        raise SmartConfigurationError(f"{name}: unknown member {', '.join(sorted(unknown))}")
    missing = {"name", "iss", "client_id", "client_auth", "scopes"} - set(table)
    if missing:
        raise SmartConfigurationError(f"{name}: missing {', '.join(sorted(missing))}")
    values: dict[str, Any] = {}
    for member, value in table.items():
        values[member] = _checked(name, member, value)
    if values.get("client_secret"):
        values["client_secret"] = source.read(values["client_secret"]).decode().rstrip("\r\n")
    if values.get("key"):
        values["signing_keys"] = load_keys(source.read(values["key"]))
    if values.get("system_key"):
        values["system_keys"] = load_keys(source.read(values["system_key"]))
    for reference in ("key", "system_key"):
        values.pop(reference, None)
    if values.get("ca_file"):
        values["ca_file"] = str(folder / values["ca_file"])
    return Registration(**values)


def _checked(name: str, member: str, value: Any) -> Any:
    if member in _LISTS:
        if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
            return tuple(value)
        raise SmartConfigurationError(f"{name}: {member} is a list of strings")
    if member in _TABLES:
        if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
            return tuple(value.items())
        raise SmartConfigurationError(f"{name}: {member} is a table of strings")
    kind = bool if member in _SWITCHES else str
    if not isinstance(value, kind):
        raise SmartConfigurationError(f"{name}: {member} is a {'switch' if kind is bool else 'string'}")
    return value


def _check_distinct(found: Sequence[Registration]) -> None:
    for label, values in (
        ("name", [item.name for item in found]),
        ("iss", [normalised(item.iss) for item in found]),
    ):
        if len(set(values)) != len(values):
            raise SmartConfigurationError(f"two EHRs have the same {label}")
