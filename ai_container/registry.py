"""The models at hand, and which of them an image is for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ai_container.bundle import Bundle, load_bundle
from ai_container.header_facts import ImageFacts
from imaging_core.errors import Permanent
from imaging_core.settings import Settings

__all__ = ["Registry", "version_key"]

_PACKAGED = Path(__file__).parent / "bundles"


def version_key(version: str) -> tuple[int, ...]:
    """Return what versions are ordered by."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


class Registry:
    """Bundles by name and version; of each task the newest version that is not for research is active.

    Parameters
    ----------
    bundles : iterable of Bundle
        Two with the same name and version are refused.
    """

    def __init__(self, bundles: Iterable[Bundle]) -> None:
        self._bundles: dict[str, Bundle] = {}
        for bundle in bundles:
            if bundle.reference in self._bundles:
                raise Permanent("bad-setting", f"two model bundles are called {bundle.reference}")
            self._bundles[bundle.reference] = bundle
        self._active: dict[str, Bundle] = {}
        for bundle in sorted(self._bundles.values(), key=lambda item: version_key(item.version)):
            if not bundle.research:
                self._active[bundle.task] = bundle

    @classmethod
    def from_settings(cls, settings: Settings) -> Registry:
        """Load the bundles of the package and of the folder MODEL_DIR (``<name>/<version>/model.yaml``)."""
        folders = [_PACKAGED]
        if settings.model_dir:
            folders.append(Path(settings.model_dir))
        return cls(load_bundle(path.parent) for folder in folders for path in sorted(folder.glob("*/*/model.yaml")))

    def all(self) -> list[Bundle]:
        """Return every bundle, by name and version."""
        return sorted(self._bundles.values(), key=lambda item: (item.name, version_key(item.version)))

    def active(self) -> list[Bundle]:
        """Return the active bundle of each task."""
        return [self._active[task] for task in sorted(self._active)]

    def is_active(self, bundle: Bundle) -> bool:
        """Return whether `bundle` is the one that answers for its task."""
        return self._active.get(bundle.task) is bundle

    def get(self, reference: str) -> Bundle:
        """Return the bundle called ``name:version``.

        Raises
        ------
        Permanent
            ``not-found``.
        """
        if reference not in self._bundles:
            raise Permanent("not-found", f"no model is called {reference[:80]}; GET /v1/models lists them")
        return self._bundles[reference]

    def pick(self, facts: ImageFacts) -> Bundle | None:
        """Return the active model for an image by modality, body part, view and age, or None.

        What the header leaves open excludes no model: the gate decides. Of several models the one whose age range
        holds the patient goes first, so that the reason why an image was refused is the nearest one.
        """
        fitting = [bundle for bundle in self.active() if _may_fit(bundle, facts)]
        fitting.sort(key=lambda bundle: (not _age_fits(bundle, facts), not _view_fits(bundle, facts)))
        return fitting[0] if fitting else None


def _may_fit(bundle: Bundle, facts: ImageFacts) -> bool:
    scope = bundle.scope
    return (
        facts.image_class
        and facts.modality in scope.modalities
        and (facts.body_part is None or facts.body_part in scope.body_parts)
    )


def _age_fits(bundle: Bundle, facts: ImageFacts) -> bool:
    return facts.age_years is not None and bundle.scope.least_age <= facts.age_years < bundle.scope.most_age


def _view_fits(bundle: Bundle, facts: ImageFacts) -> bool:
    return facts.view is None or facts.view in bundle.scope.views
