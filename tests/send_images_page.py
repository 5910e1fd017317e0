"""Write the tables of `docs/send_images.md` from error codes and settings (``python -m tests.send_images_page``)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from imaging_core.errors import CODES
from imaging_core.settings import Settings

__all__ = ["PAGES", "blocks", "page"]

_DOCS = Path(__file__).parents[1] / "docs"
PAGES = {"en": _DOCS / "send_images.md", "fr": _DOCS / "fr" / "send_images.md"}
_TABLES = {"en": ("reason", "number", "HTTP", "meaning"), "fr": ("motif", "numéro", "HTTP", "signification")}
# what a sender never meets
_NOT_FOR_SENDERS = frozenset(
    {
        "ai-refused",
        "ai-unavailable",
        "audit-unavailable",
        "bad-setting",
        "blob-missing",
        "fhir-refused",
        "precondition-failed",
        "study-not-registered",
    }
)
_LIMITS = {
    "max_request_bytes": "une requête STOW ou image",
    "max_drop_bytes": "un fichier déposé",
    "max_instance_bytes": "une instance",
    "max_parts": "parties d'une requête",
    "max_elements": "éléments d'une instance, séquences comprises",
    "max_nesting": "imbrication des séquences",
    "max_inflated_bytes": "octets d'une instance après décompression",
    "max_samples": "lignes x colonnes x échantillons x images",
    "max_image_pixels": "pixels d'un PNG ou JPEG",
    "max_archive_entries": "fichiers d'un zip",
    "max_archive_bytes": "octets d'un zip après décompression",
    "max_archive_ratio": "taille décompressée d'un zip sur sa propre taille",
    "decode_seconds": "secondes pour lire une instance",
    "listen_max_associations": "associations DICOM à la fois",
    "listen_max_pdu": "octets d'une PDU DICOM",
    "upload_url_minutes": "minutes de vie d'une adresse de dépôt",
    "rate_limit_per_address": "essais refusés par minute depuis une adresse",
}
_MIB = 1024 * 1024


def page(language: str) -> str:
    """Return the page with its tables made anew; the text between them is written by hand."""
    text = PAGES[language].read_text("utf-8")
    for name, table in (("reasons", _reasons(language)), ("limits", _limits(language))):
        made = f"<!-- made: {name} -->\n{table}\n<!-- end -->"
        text = re.sub(rf"<!-- made: {name} -->.*?<!-- end -->", lambda _, made=made: made, text, flags=re.DOTALL)
    return text


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the page's code blocks: language and text."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGES[language].read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def _reasons(language: str) -> str:
    lines = [f"| {' | '.join(_TABLES[language])} |", "|---|---|---|---|"]
    for entry in CODES.values():
        if entry.code not in _NOT_FOR_SENDERS:
            meaning = entry.en if language == "en" else entry.fr
            lines.append(f"| `{entry.code}` | {entry.failure_reason:04X} | {entry.status} | {meaning} |")
    return "\n".join(lines)


def _limits(language: str) -> str:
    head = "| setting | default | of what |" if language == "en" else "| réglage | valeur | de quoi |"
    lines = [head, "|---|---|---|"]
    for name, french in _LIMITS.items():
        field = Settings.model_fields[name]
        of_what = field.description if language == "en" else french
        lines.append(f"| `{name.upper()}` | {_shown(name, field.default)} | {of_what} |")
    return "\n".join(lines)


def _shown(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return f"{int(value) // _MIB:,} MiB"
    return f"{value:,g}" if value < 1_000_000 else f"{int(value):,}"


if __name__ == "__main__":
    for code, path in PAGES.items():
        path.write_text(page(code), "utf-8")
        sys.stdout.write(f"{path}\n")
