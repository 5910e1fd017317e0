"""What a person sets of the local stack: its folder and its ports; and where things lie in that folder."""

from __future__ import annotations

import socket
from dataclasses import dataclass, fields, replace
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from imaging_core.errors import Permanent

__all__ = ["Layout", "Ports", "StackSettings", "load_stack_settings"]


class StackSettings(BaseSettings):
    """Settings of the local stack alone: environment variables or `imaging.toml`. A port of 0 means any free one."""

    model_config = SettingsConfigDict(toml_file="imaging.toml", extra="ignore", frozen=True)

    imaging_data_dir: Path = Field(Path(".imaging"), description="Folder of the local stack")
    postgres_port: int = Field(15432, ge=0, le=65535, description="PostgreSQL")
    blob_port: int = Field(10000, ge=0, le=65535, description="Azurite, blobs")
    queue_port: int = Field(10001, ge=0, le=65535, description="Azurite, queues")
    fhir_port: int = Field(8080, ge=0, le=65535, description="FHIR service")
    ingestion_port: int = Field(7071, ge=0, le=65535, description="Functions host")
    ai_port: int = Field(8501, ge=0, le=65535, description="AI container")
    app_port: int = Field(5443, ge=0, le=65535, description="Clinician app")
    ehr_port: int = Field(9443, ge=0, le=65535, description="Sandbox EHR")
    app_workers: int = Field(1, ge=1, le=32, description="Processes of the clinician app")

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


@dataclass(frozen=True)
class Ports:
    """The port of each listener; the setting of one is its name here with ``_PORT`` behind it, in upper case."""

    postgres: int
    blob: int
    queue: int
    fhir: int
    ingestion: int
    ai: int
    app: int
    ehr: int

    @classmethod
    def from_settings(cls, settings: StackSettings) -> Ports:
        """Take the ports over, with a free one for each 0."""
        ports = cls(*(getattr(settings, f"{field.name}_port") for field in fields(cls)))
        open_ones = [field.name for field in fields(cls) if getattr(ports, field.name) == 0]
        return replace(ports, **dict(zip(open_ones, _free_ports(len(open_ones)), strict=True)))


def _free_ports(count: int) -> list[int]:
    # all are held open at once, so that no port is given twice
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listening in sockets:
            listening.bind(("127.0.0.1", 0))
        return [listening.getsockname()[1] for listening in sockets]
    finally:
        for listening in sockets:
            listening.close()


@dataclass(frozen=True)
class Layout:
    """Where things lie in the data folder.

    Parameters
    ----------
    root : Path
        The data folder, absolute.
    """

    root: Path

    @classmethod
    def at(cls, folder: Path) -> Layout:
        """Make the data folder where it is missing.

        Others may pass through it but not list it: as root, PostgreSQL runs as a user of its own inside.
        """
        root = folder.expanduser().resolve()
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o711)
        layout = cls(root)
        for private in (layout.keys, layout.logs):
            private.mkdir(mode=0o700, exist_ok=True)
        return layout

    @property
    def state(self) -> Path:
        """Which processes run: ``stack.json``."""
        return self.root / "stack.json"

    @property
    def lock(self) -> Path:
        """Held by the one supervisor of this folder."""
        return self.root / "stack.lock"

    @property
    def credentials(self) -> Path:
        """Passwords and tokens made at first start."""
        return self.root / "credentials.json"

    @property
    def keys(self) -> Path:
        """The local CA, the TLS key and the app's client key."""
        return self.root / "keys"

    @property
    def ca_file(self) -> Path:
        """Certificate of the local CA, to be trusted by browsers and clients."""
        return self.keys / "ca.pem"

    @property
    def logs(self) -> Path:
        """One file per part."""
        return self.root / "logs"

    @property
    def registrations(self) -> Path:
        """SMART_REGISTRATIONS of the sandbox EHR."""
        return self.root / "smart_registrations.toml"

    def log(self, part: str) -> Path:
        """Return a part's log file."""
        return self.logs / f"{part}.log"


def load_stack_settings(data_dir: Path | None = None) -> StackSettings:
    """Read the settings; `data_dir`, where given, wins.

    Raises
    ------
    Permanent
        With code ``bad-setting``, naming each setting that is wrong.
    """
    try:
        settings = StackSettings()
        return settings if data_dir is None else settings.model_copy(update={"imaging_data_dir": data_dir})
    except ValidationError as error:
        faults = "; ".join(f"{fault['loc'][0]}: {fault['msg']}".upper() for fault in error.errors() if fault["loc"])
        raise Permanent("bad-setting", faults) from error
