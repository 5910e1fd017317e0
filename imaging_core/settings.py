"""Settings: environment variables or `imaging.toml`, read once at start into a typed object.

The name of an environment variable is the field's name in upper case. Nothing else in the project reads the
environment.
"""

from __future__ import annotations

import functools
import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from imaging_core.errors import Permanent

__all__ = ["LOCAL_SETTINGS", "Settings", "load_settings", "operator_settings"]

MIB = 1024 * 1024
LOCAL_SETTINGS = "settings.toml"
"""File that the local stack writes into its data folder for the commands of its operator."""


class Settings(BaseSettings):
    """All settings of all parts; a part reads those it needs, and `require` names the one that is missing."""

    model_config = SettingsConfigDict(toml_file="imaging.toml", extra="ignore", frozen=True, hide_input_in_errors=True)

    # the imaging FHIR service
    fhir_base_url: str = Field("", description="Base URL of the imaging FHIR service, without trailing slash")
    fhir_auth: Literal["entra", "bearer", "none"] = Field("entra", description="How to authenticate there")
    fhir_token: SecretStr = Field(SecretStr(""), description="Static bearer token (FHIR_AUTH=bearer)")
    fhir_audience: str = Field("", description="Entra audience; empty: the base URL")
    fhir_timeout_s: float = Field(30.0, gt=0, le=300, description="Time-out of one FHIR answer, in seconds")
    fhir_connections: int = Field(16, ge=1, le=256, description="Most FHIR calls of one process at the same time")
    fhir_resource_id: str = Field(
        "", description="Azure resource ID of the FHIR service (/subscriptions/...), for `imaging doctor`"
    )
    azure_management_url: str = Field(
        "https://management.azure.com", description="Azure Resource Manager, for `imaging doctor`"
    )
    fhir_aliases: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Other base URLs of the same FHIR service, such as an EHR in front of it (comma-separated)"
    )

    # blob and queue
    storage_account_url: str = Field("", description="Blob endpoint, reached by managed identity")
    storage_queue_url: str = Field("", description="Queue endpoint; empty: derived from STORAGE_ACCOUNT_URL")
    storage_connection_string: SecretStr = Field(SecretStr(""), description="Connection string (local stack)")
    storage_timeout_s: float = Field(15.0, gt=0, description="Longest wait for an answer of blob or queue, in seconds")

    # PostgreSQL
    database_url: SecretStr = Field(SecretStr(""), description="PostgreSQL URL of this process's role")
    database_worklist_url: SecretStr = Field(
        SecretStr(""), description="PostgreSQL URL of imaging_worklist (not read yet)"
    )
    database_owner_url: SecretStr = Field(
        SecretStr(""), description="PostgreSQL URL of imaging_owner, for `imaging rebuild`; empty: DATABASE_URL"
    )
    database_auth: Literal["password", "entra"] = Field("password", description="Password in the URL or Entra token")
    database_timeout_s: float = Field(
        15.0, ge=0, description="Longest wait of a service for an answer of PostgreSQL, in seconds; 0: no bound"
    )
    database_pool_size: int = Field(20, ge=1, le=200, description="Most connections of one process")

    # AI container
    ai_url: str = Field("", description="Address of the AI container")
    ai_auth: Literal["entra", "bearer"] = Field("bearer", description="How callers authenticate there")
    ai_token: SecretStr = Field(SecretStr(""), description="Static bearer token (AI_AUTH=bearer)")
    ai_audience: str = Field("", description="Entra audience of the AI container")
    ai_timeout_s: float = Field(120.0, gt=0, description="Time-out of one analysis, in seconds")
    ai_concurrency: int = Field(4, ge=1, le=64, description="Analyses that the AI container runs at once")
    ai_queue: int = Field(32, ge=0, le=1000, description="Analyses that wait there; more are told to come back (429)")
    ai_request_seconds: float = Field(
        110.0, gt=0, description="Time of one analysis in the AI container, the wait included; less than AI_TIMEOUT_S"
    )
    ai_bytes_in_work: int = Field(
        512 * MIB, gt=0, description="Bytes of instances that the AI container holds at once; a larger one is alone"
    )
    ai_interpreters: int = Field(2, ge=1, le=64, description="Runs of one network at once: as many as there are cores")
    ai_largest_batch: int = Field(1, ge=1, le=64, description="Waiting images that one run of a network takes together")
    model_poll_s: float = Field(15.0, gt=0, description="How often a running AI container looks for activated models")
    model_cache_dir: str = Field(
        "", description="Folder where models from Blob Storage are kept; empty: one in the system's temporary folder"
    )
    model_dir: str = Field("", description="Folder with further model bundles; empty: those in the package only")
    assume_adult: bool = Field(False, description="Analyse radiographs whose patient's age can't be had as adult")

    # the site
    site_name: str = Field("", description="Name of the site, as reports show it")
    site_assigner_system: str = Field("", description="URI of the site's own patient numbers")
    site_time_zone: str = Field("", description="IANA time zone of headers without an offset; empty: dates only")
    site_language: Literal["en", "fr"] = Field("en", description="Language of reports and pages")
    sites: str = Field("", description="TOML file with several sites")
    patient_match: Literal["create", "hold"] = Field("hold", description="What to do with a patient who is not on file")
    assigners: str = Field("", description="TOML file: issuer text (0010,0021) = URI")
    trusted_retrieve_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Hosts whose retrieve URLs in headers are taken over (comma-separated)"
    )
    report_without_model: bool = Field(False, description="Write a report even where no model is there")

    # ingestion
    ingest_auth: Literal["entra", "developer"] = Field(
        "entra", description="Entra tokens, or the local developer token"
    )
    ingest_token: SecretStr = Field(SecretStr(""), description="Developer token (INGEST_AUTH=developer)")
    ingest_admin_token: SecretStr = Field(
        SecretStr(""), description="Developer token of admins (INGEST_AUTH=developer): hold list and quarantine"
    )
    ingest_url: str = Field("http://127.0.0.1:7071/api", description="Ingestion address that clients and the app call")
    entra_tenant_id: str = Field("", description="Entra tenant whose tokens are accepted")
    entra_issuer: str = Field("", description="Issuer URL; empty: derived from the tenant")
    ingest_audience: str = Field("", description="Audience of upload tokens")
    upload_url_minutes: int = Field(30, ge=1, le=1440, description="Life of a direct-drop SAS, in minutes")
    public_blob_url: str = Field("", description="Blob endpoint as uploaders reach it; empty: as the service does")

    # limits of intake; each refusal names its setting
    max_request_bytes: int = Field(200 * MIB, gt=0, description="One STOW or image request")
    max_drop_bytes: int = Field(2048 * MIB, gt=0, description="One blob by direct drop")
    max_instance_bytes: int = Field(256 * MIB, gt=0, description="One instance")
    max_parts: int = Field(2000, gt=0, description="Parts in one request")
    max_elements: int = Field(50_000, gt=0, description="Data elements of an instance, sequences included")
    max_nesting: int = Field(16, gt=0, description="Sequence nesting of an instance")
    max_inflated_bytes: int = Field(512 * MIB, gt=0, description="Bytes after inflating a deflated data set")
    max_samples: int = Field(512 * 1_000_000, gt=0, description="Rows x columns x samples x frames, decoded")
    max_image_pixels: int = Field(100_000_000, gt=0, description="Pixels of a PNG or JPEG")
    decode_seconds: float = Field(30.0, gt=0, description="Time to read or decode one instance")
    decode_memory_bytes: int = Field(1536 * MIB, gt=0, description="Memory of a decode child above its own code")
    decode_workers: int = Field(2, ge=1, le=64, description="Decode children per process")

    # steps
    sweep_after_s: float = Field(60.0, gt=0, description="Age at which the sweep looks after an unfinished study")
    settle_most_s: float = Field(
        30.0, gt=0, le=600, description="Longest time between registrations, and between analyses, of a growing study"
    )
    journal_after_s: float = Field(
        60.0, ge=30, le=3600, description="Longest time that history waits for its copy in `journal`, seconds"
    )

    max_bytes_in_work: int = Field(
        64 * MIB, gt=0, description="Bytes of instances that drop and listener each hold at once; a larger one is alone"
    )

    archive_syntax: Literal["jpeg-ls", "htj2k", "none"] = Field(
        "jpeg-ls", description="Lossless copy that is kept beside each original, where it is smaller"
    )

    # archives that are dropped
    max_archive_entries: int = Field(10_000, gt=0, description="Entries of a dropped zip archive")
    max_archive_bytes: int = Field(8192 * MIB, gt=0, description="Bytes of a dropped zip archive after inflating")
    max_archive_ratio: int = Field(200, gt=1, description="Inflated size of a dropped zip archive over its own size")

    # the DICOM listener (`imaging listen`)
    listen_host: str = Field("127.0.0.1", description="Address that the DICOM listener binds")
    listen_port: int = Field(11112, ge=0, le=65535, description="Port of the DICOM listener; 0: any that is free")
    listen_ae_title: Annotated[str, Field(min_length=1, max_length=16)] = Field(
        "IMAGING", description="AE title of the DICOM listener, which callers must name"
    )
    listen_allowed_ae: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Calling AE titles that may send (comma-separated); empty: those of SITES"
    )
    listen_tls_cert: str = Field("", description="Certificate chain (PEM); with it the listener speaks TLS only")
    listen_tls_key: str = Field("", description="Private key of the certificate (PEM)")
    listen_tls_ca: str = Field("", description="Authorities (PEM); with it callers need a certificate of theirs")
    listen_allow_plain: bool = Field(False, description="Listen without TLS on an address that is not loopback")
    listen_max_associations: int = Field(16, ge=1, le=200, description="Associations at once")
    listen_max_pdu: int = Field(131_072, ge=4096, le=1_048_576, description="Largest PDU that callers may send, bytes")
    listen_associate_s: float = Field(15.0, gt=0, description="Time for TLS and association negotiation, in seconds")
    listen_idle_s: float = Field(60.0, gt=0, description="Time after which a silent association ends, in seconds")
    listen_grace_s: float = Field(30.0, ge=0, description="Time to finish running C-STOREs at the end, in seconds")

    # the app
    smart_registrations: str = Field("", description="TOML file with the registered EHRs")
    app_base_url: str = Field("https://app.localhost:5443", description="Public address of the clinician app")
    app_keys: SecretStr = Field(SecretStr(""), description="Keys for tokens at rest: id:base64url[,id:base64url...]")
    rate_limit_per_address: int = Field(120, ge=0, description="Launches and uploads a minute from one address; 0: off")
    key_vault_url: str = Field("", description="Key Vault of `keyvault:` secrets")

    # telemetry
    applicationinsights_connection_string: SecretStr = Field(
        SecretStr(""), description="Application Insights (not read yet)"
    )
    otel_exporter_otlp_endpoint: str = Field("", description="OTLP receiver (HTTP)")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level of log lines")

    @field_validator(
        "fhir_base_url", "ai_url", "app_base_url", "storage_account_url", "storage_queue_url", "ingest_url"
    )
    @classmethod
    def _without_trailing_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("trusted_retrieve_hosts", "listen_allowed_ae", "fhir_aliases", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("site_time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            return ZoneInfo(value).key if value else value
        except (KeyError, ValueError) as error:
            raise ValueError(f"no such IANA time zone: {value}") from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, then `imaging.toml`."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))

    def require(self, *names: str) -> None:
        """Stop with the names of the settings among `names` that are not set.

        Raises
        ------
        Permanent
            With code ``bad-setting``.
        """
        missing = [name.upper() for name in names if not _is_set(getattr(self, name))]
        if missing:
            raise Permanent("bad-setting", f"not set: {', '.join(missing)} (environment variable or imaging.toml)")

    @functools.cached_property
    def assigner_table(self) -> dict[str, str]:
        """The site's table ASSIGNERS: issuer text (0010,0021) to URI."""
        if not self.assigners:
            return {}
        try:
            table = tomllib.loads(Path(self.assigners).read_text("utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise Permanent("bad-setting", f"ASSIGNERS: {error}") from error
        return {str(text): str(uri) for text, uri in table.items()}


def _is_set(value: object) -> bool:
    return bool(value.get_secret_value()) if isinstance(value, SecretStr) else bool(value)


def load_settings(**overrides: object) -> Settings:
    """Read the settings.

    Raises
    ------
    Permanent
        With code ``bad-setting``, naming each setting that is wrong; values are never repeated, for some are secret.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']).upper()}: {fault['msg']}" for fault in error.errors()
        )
        raise Permanent("bad-setting", faults) from error


def operator_settings(data_dir: Path | None = None) -> Settings:
    """Read the settings of a command that a person calls: what is not set comes from the local stack, if there is one.

    Parameters
    ----------
    data_dir : Path or None
        Folder of the local stack; None: IMAGING_DATA_DIR, else ``.imaging``.
    """
    folder = data_dir or Path(os.environ.get("IMAGING_DATA_DIR", ".imaging"))
    settings = load_settings()
    try:
        local = tomllib.loads((folder / LOCAL_SETTINGS).read_text("utf-8"))
    except FileNotFoundError:
        return settings
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise Permanent("bad-setting", f"{folder / LOCAL_SETTINGS}: {error}") from error
    return load_settings(**{name: value for name, value in local.items() if name not in settings.model_fields_set})
