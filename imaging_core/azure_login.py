"""The process's own identity on Azure: managed identity in the cloud, the developer's login elsewhere."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

__all__ = ["azure_credential"]


@functools.cache
def azure_credential() -> TokenCredential:
    """Return the credential of this process, which caches and renews its tokens by itself."""
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()
