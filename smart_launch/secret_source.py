"""Secrets named in a registration: ``env:NAME``, ``file:PATH`` or ``keyvault:NAME``.

A secret is never written into the registration itself, so that the file may be reviewed and kept in version control.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from smart_launch.errors import SmartConfigurationError

__all__ = ["SecretSource"]


class SecretSource:
    """Reads secrets by reference.

    Parameters
    ----------
    folder : Path
        Folder to which relative ``file:`` paths refer.
    key_vault_url : str
        Azure Key Vault of ``keyvault:`` references; asked with the process's Azure identity.
    environment : mapping
        Where ``env:`` names are looked up.
    """

    def __init__(self, folder: Path, key_vault_url: str = "", environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._key_vault_url = key_vault_url
        self._environment = os.environ if environment is None else environment

    def read(self, reference: str) -> bytes:
        """Return the secret that `reference` names.

        Raises
        ------
        SmartConfigurationError
            Unknown kind of reference, or nothing there; the message never repeats a secret.
        """
        kind, _, name = reference.partition(":")
        if kind == "env" and name:
            return self._from_environment(name)
        if kind == "file" and name:
            return self._from_file(name)
        if kind == "keyvault" and name:
            return self._from_key_vault(name)
        raise SmartConfigurationError("a secret is named as env:NAME, file:PATH or keyvault:NAME")

    def _from_environment(self, name: str) -> bytes:
        value = self._environment.get(name, "")
        if not value:
            raise SmartConfigurationError(f"environment variable {name} is not set")
        return value.encode()

    def _from_file(self, name: str) -> bytes:
        path = self._folder / name
        try:
            mode = path.stat().st_mode
            content = path.read_bytes()
        except OSError as error:
            raise SmartConfigurationError(f"secret file {path}: {error.strerror}") from error
        if mode & stat.S_IRWXO:
            raise SmartConfigurationError(f"secret file {path} is open to everyone: chmod o= it")
        return content

    def _from_key_vault(self, name: str) -> bytes:
        if not self._key_vault_url:
            raise SmartConfigurationError(f"keyvault:{name}: KEY_VAULT_URL is not set")
        # Imported here: without Key Vault references the Azure SDK need not be there.
        from azure.core.exceptions import AzureError
        from azure.identity import DefaultAzureCredential
        from azure.keyvault.secrets import SecretClient

        try:
            with SecretClient(self._key_vault_url, DefaultAzureCredential()) as client:
                value = client.get_secret(name).value
        except AzureError as error:
            raise SmartConfigurationError(f"keyvault:{name}: {type(error).__name__}") from error
        if not value:
            raise SmartConfigurationError(f"keyvault:{name} is empty")
        return value.encode()
