"""The models at hand, and which of them an image is for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ai_container.activation import Activation
from ai_container.bundle import Bundle, load_bundle
from ai_container.gate import refuse_by_header
from ai_container.header_facts import ImageFacts
from imaging_core.errors import Permanent
from imaging_core.settings import Settings

__all__ = ["Registry", "Route", "packaged_bundles", "version_key"]

_PACKAGED = Path(__file__).parent / "bundles"


def version_key(version: str) -> tuple[int, ...]:
    """Return what versions are ordered by."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


def packaged_bundles(settings: Settings) -> list[Bundle]:
    """Load the bundles of the package and of the folder MODEL_DIR (``<name>/<version>/model.yaml``).

    Raises
    ------
    Permanent
        ``bad-setting``, ``model-hash-mismatch``.
    """
    folders = [_PACKAGED]
    if settings.model_dir:
        folders.append(Path(settings.model_dir))
    return [load_bundle(path.parent) for folder in folders for path in sorted(folder.glob("*/*/model.yaml"))]


@dataclass(frozen=True)
class Route:
    """Who looks at an image.

    Parameters
    ----------
    bundles : tuple of Bundle
        Active models that its header lets it pass to, one per task.
    nearest : Bundle or None
        Where there are none: the model that it comes closest to, which answers with `reason`.
    reason : str
        Why no model looks; ``no-model`` where none was made for such an examination.
    """

    bundles: tuple[Bundle, ...]
    nearest: Bundle | None = None
    reason: str = ""


class Registry:
    """Bundles by name and version, and which of them answer.

    What is activated answers; a task that nobody has decided on is answered by the newest version that is not for
    research.

    Parameters
    ----------
    bundles : iterable of Bundle
        Two with the same name and version are refused.
    activation : Activation, optional
        What people have decided.
    fetched : iterable of Bundle
        From Blob Storage: these answer only where people have decided so, never by default.

    Raises
    ------
    Permanent
        ``model-unusable``: what is activated is not among the bundles, or is of another task.
    """

    def __init__(
        self, bundles: Iterable[Bundle], activation: Activation | None = None, fetched: Iterable[Bundle] = ()
    ) -> None:
        self._bundles: dict[str, Bundle] = {}
        at_hand, further = list(bundles), list(fetched)
        for bundle in (*at_hand, *further):
            if bundle.reference in self._bundles:
                raise Permanent("bad-setting", f"two model bundles are called {bundle.reference}")
            self._bundles[bundle.reference] = bundle
        self._active: dict[str, Bundle] = {}
        self._shadows: dict[str, tuple[Bundle, ...]] = {}
        decided = (activation or Activation()).tasks
        for bundle in sorted(at_hand, key=lambda item: version_key(item.version)):
            if not bundle.research and bundle.task not in decided:
                self._active[bundle.task] = bundle
        for task, models in decided.items():
            if models.active is not None:
                self._active[task] = self._of_task(models.active.reference, task)
            self._shadows[task] = tuple(self._of_task(item.reference, task) for item in models.shadow)

    @classmethod
    def from_settings(cls, settings: Settings) -> Registry:
        """Load the bundles of the package and of MODEL_DIR, and let the defaults answer."""
        return cls(packaged_bundles(settings))

    def _of_task(self, reference: str, task: str) -> Bundle:
        bundle = self._bundles.get(reference)
        if bundle is None:
            raise Permanent("model-unusable", f"{reference} is activated and is not here")
        if bundle.task != task:
            raise Permanent("model-unusable", f"{reference} is for task {bundle.task}, not {task}")
        return bundle

    def all(self) -> list[Bundle]:
        """Return every bundle, by name and version."""
        return sorted(self._bundles.values(), key=lambda item: (item.name, version_key(item.version)))

    def active(self) -> list[Bundle]:
        """Return the active bundle of each task."""
        return [self._active[task] for task in sorted(self._active)]

    def shadows(self, task: str) -> tuple[Bundle, ...]:
        """Return the bundles that run beside the active one of a task."""
        return self._shadows.get(task, ())

    def is_active(self, bundle: Bundle) -> bool:
        """Return whether `bundle` is the one that answers for its task."""
        return self._active.get(bundle.task) is bundle

    def role(self, bundle: Bundle) -> str:
        """Return ``active``, ``shadow`` or ``loaded``."""
        if self.is_active(bundle):
            return "active"
        return "shadow" if bundle in self.shadows(bundle.task) else "loaded"

    def has(self, reference: str) -> bool:
        """Return whether ``name:version`` is at hand."""
        return reference in self._bundles

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

    def named(self, name: str) -> list[Bundle]:
        """Return the bundles with a name, the active one first, then the newest.

        Raises
        ------
        Permanent
            ``not-found``.
        """
        found = [bundle for bundle in self._bundles.values() if bundle.name == name]
        if not found:
            raise Permanent("not-found", f"no model is called {name[:80]}; GET /v1/models lists them")
        found.sort(key=lambda item: version_key(item.version), reverse=True)
        return sorted(found, key=lambda item: not self.is_active(item))

    def route(self, facts: ImageFacts, assume_adult: bool = False) -> Route:
        """Return who looks at an image, by modality, body part, view and age.

        What the header leaves open excludes no model: the pixel gate decides. So of the models for adults and for
        children, one takes an image whose age is known, and neither takes one whose age is not.
        """
        fitting = tuple(item for item in self.active() if not refuse_by_header(item.scope, facts, assume_adult))
        if fitting:
            return Route(fitting)
        nearest = self.pick(facts)
        if nearest is None:
            return Route((), None, "no-model")
        return Route((), nearest, refuse_by_header(nearest.scope, facts, assume_adult))

    def pick(self, facts: ImageFacts) -> Bundle | None:
        """Return the active model that an image comes closest to, or None.

        Of several models the one whose age range holds the patient goes first, so that the reason why an image was
        refused is the nearest one.
        """
        fitting = [bundle for bundle in self.active() if _may_fit(bundle, facts)]
        fitting.sort(
            key=lambda bundle: (not _age_fits(bundle, facts), _too_old(bundle, facts), not _view_fits(bundle, facts))
        )
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


def _too_old(bundle: Bundle, facts: ImageFacts) -> bool:
    return facts.age_years is not None and facts.age_years >= bundle.scope.most_age


def _view_fits(bundle: Bundle, facts: ImageFacts) -> bool:
    return facts.view is None or facts.view in bundle.scope.views
