"""Everything that can go wrong between an EHR and the app, typed once, with what the user is told.

A page shows the sentence of the code, never the detail: details are for the log, and hold no token, code, state or
launch.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAULTS", "Fault", "FhirAccessError", "LaunchError", "SmartConfigurationError", "fault"]


@dataclass(frozen=True)
class Fault:
    """What one code means to the person in front of the page.

    Parameters
    ----------
    code : str
        Kebab-case name, stable for ever.
    status : int
        HTTP status of the page (RFC 9110).
    en, fr : tuple of str
        What happened, and what to do now; in English and French.
    """

    code: str
    status: int
    en: tuple[str, str]
    fr: tuple[str, str]


_RELAUNCH = (
    "Close this page and launch the app again from the patient's chart.",
    "Fermez cette page et relancez l'application depuis le dossier du patient.",
)
_TELL_IT = (
    "Launch again; if it happens again, give the reference below to your IT support.",
    "Relancez l'application ; si cela se reproduit, donnez la référence ci-dessous à votre support informatique.",
)
_LATER = (
    "Wait a minute and launch the app again. If it goes on, give the reference below to your IT support.",
    "Attendez une minute et relancez l'application. Si cela persiste, donnez la référence ci-dessous au support.",
)


def _fault(code: str, status: int, en: str, fr: str, then: tuple[str, str] = _TELL_IT) -> Fault:
    return Fault(code, status, (en, then[0]), (fr, then[1]))


_TABLE = [
    # the launch request
    _fault(
        "launch-incomplete",
        400,
        "The app was opened without the details that an EHR sends with a launch.",
        "L'application a été ouverte sans les informations qu'un dossier médical envoie au lancement.",
        _RELAUNCH,
    ),
    _fault(
        "unknown-ehr",
        403,
        "The app was launched by a system that it is not registered with.",
        "L'application a été lancée par un système auprès duquel elle n'est pas enregistrée.",
        (
            "Launch the app from your hospital's EHR. If you did, give the reference below to your IT support.",
            "Lancez l'application depuis le dossier médical de l'hôpital. Sinon, donnez la référence au support.",
        ),
    ),
    _fault(
        "too-many-launches",
        429,
        "Too many launches came from your address within one minute.",
        "Trop de lancements sont venus de votre adresse en une minute.",
        _LATER,
    ),
    # discovery and the endpoints
    _fault(
        "ehr-unreachable",
        502,
        "Your EHR's sign-in service can't be reached.",
        "Le service de connexion de votre dossier médical est injoignable.",
        _LATER,
    ),
    _fault(
        "ehr-misconfigured",
        502,
        "Your EHR describes its sign-in service in a way that the app can't safely use.",
        "Votre dossier médical décrit son service de connexion d'une façon inutilisable sans risque.",
    ),
    _fault(
        "ehr-unsupported",
        502,
        "Your EHR does not offer the kind of launch that the app needs.",
        "Votre dossier médical n'offre pas le type de lancement dont l'application a besoin.",
    ),
    # the callback
    _fault(
        "launch-unknown",
        400,
        "This sign-in does not belong to a launch that was started in this window.",
        "Cette connexion ne correspond à aucun lancement commencé dans cette fenêtre.",
        _RELAUNCH,
    ),
    _fault(
        "launch-used",
        400,
        "This sign-in has already been used; reloading it does nothing.",
        "Cette connexion a déjà été utilisée ; la recharger n'a aucun effet.",
        _RELAUNCH,
    ),
    _fault(
        "launch-expired",
        400,
        "The sign-in took too long.",
        "La connexion a pris trop de temps.",
        _RELAUNCH,
    ),
    _fault(
        "no-cookie",
        400,
        "Your browser did not return the cookie that the app needs to recognise you.",
        "Votre navigateur n'a pas renvoyé le cookie dont l'application a besoin pour vous reconnaître.",
        (
            "Open the app in a window of its own. If that fails too, cookies must be allowed for this site.",
            "Ouvrez l'application dans sa propre fenêtre. Si cela échoue, autorisez les cookies pour ce site.",
        ),
    ),
    _fault(
        "wrong-issuer",
        400,
        "The answer did not come from the sign-in service that the app had asked.",
        "La réponse ne vient pas du service de connexion que l'application avait interrogé.",
    ),
    _fault(
        "access-denied",
        403,
        "Your EHR did not allow the app to be opened.",
        "Votre dossier médical n'a pas autorisé l'ouverture de l'application.",
        (
            "If you declined by mistake, launch again. Otherwise ask your IT support for access to this app.",
            "Si vous avez refusé par erreur, relancez. Sinon demandez l'accès à cette application à votre support.",
        ),
    ),
    _fault(
        "scope-refused",
        403,
        "Your EHR refused the rights that the app asked for.",
        "Votre dossier médical a refusé les droits demandés par l'application.",
        (
            "Give the reference below to your IT support: the app's registration in the EHR must be adapted.",
            "Donnez la référence ci-dessous au support : l'enregistrement de l'application doit être adapté.",
        ),
    ),
    _fault(
        "ehr-busy",
        503,
        "Your EHR is too busy or under maintenance.",
        "Votre dossier médical est surchargé ou en maintenance.",
        _LATER,
    ),
    _fault(
        "ehr-error",
        502,
        "Your EHR reported an error during sign-in.",
        "Votre dossier médical a signalé une erreur pendant la connexion.",
    ),
    # the token response
    _fault(
        "code-refused",
        502,
        "Your EHR did not accept the sign-in any more.",
        "Votre dossier médical n'a plus accepté la connexion.",
        _RELAUNCH,
    ),
    _fault(
        "client-refused",
        502,
        "Your EHR did not recognise the app.",
        "Votre dossier médical n'a pas reconnu l'application.",
        (
            "Give the reference below to your IT support: the app's key or secret must be checked.",
            "Donnez la référence ci-dessous au support : la clé ou le secret de l'application est à vérifier.",
        ),
    ),
    _fault(
        "token-unusable",
        502,
        "Your EHR answered the sign-in in a form that the app can't use.",
        "Votre dossier médical a répondu à la connexion sous une forme inutilisable.",
    ),
    _fault(
        "no-patient",
        403,
        "Your EHR did not say which patient this is about, so nothing is shown.",
        "Votre dossier médical n'a pas indiqué le patient concerné ; rien n'est donc affiché.",
        (
            "Open a patient's chart first, then launch the app from there.",
            "Ouvrez d'abord le dossier d'un patient, puis lancez l'application depuis celui-ci.",
        ),
    ),
    _fault(
        "identity-unproven",
        502,
        "Your EHR's statement of who you are could not be verified.",
        "La déclaration d'identité de votre dossier médical n'a pas pu être vérifiée.",
    ),
    _fault(
        "not-a-clinician",
        403,
        "This app is for clinicians; your account in the EHR is of another kind.",
        "Cette application est réservée aux soignants ; votre compte est d'un autre type.",
        (
            "Sign in to the EHR with your clinician account and launch again.",
            "Connectez-vous au dossier médical avec votre compte soignant et relancez.",
        ),
    ),
    # the running launch
    _fault(
        "launch-ended",
        401,
        "Your session in this app has ended.",
        "Votre session dans cette application est terminée.",
        _RELAUNCH,
    ),
    _fault(
        "signed-out",
        200,
        "You are signed out of this app.",
        "Vous êtes déconnecté de cette application.",
        (
            "You can close this page. To come back, launch the app from the patient's chart.",
            "Vous pouvez fermer cette page. Pour revenir, lancez l'application depuis le dossier du patient.",
        ),
    ),
    _fault(
        "patient-changed",
        401,
        "Your EHR has switched to another patient, so this session was ended.",
        "Votre dossier médical est passé à un autre patient ; cette session a été fermée.",
        _RELAUNCH,
    ),
    _fault(
        "request-forged",
        403,
        "The request did not come from a page of this app.",
        "La requête ne vient pas d'une page de cette application.",
        (
            "Go back, reload the page and try again.",
            "Revenez en arrière, rechargez la page et réessayez.",
        ),
    ),
    # FHIR access
    _fault(
        "fhir-denied",
        403,
        "Your EHR does not let you see this.",
        "Votre dossier médical ne vous autorise pas à voir ceci.",
        (
            "Ask your IT support for the right, quoting the reference below.",
            "Demandez ce droit à votre support, en citant la référence ci-dessous.",
        ),
    ),
    _fault(
        "fhir-missing",
        404,
        "Your EHR has no such record any more.",
        "Votre dossier médical n'a plus cet enregistrement.",
        ("Go back and reload the list.", "Revenez en arrière et rechargez la liste."),
    ),
    _fault(
        "fhir-unreachable",
        502,
        "Your EHR's records can't be read at the moment.",
        "Les données de votre dossier médical sont illisibles pour le moment.",
        _LATER,
    ),
    _fault(
        "sessions-unavailable",
        503,
        "The app can't check your session at the moment.",
        "L'application ne peut pas vérifier votre session pour le moment.",
        _LATER,
    ),
    _fault(
        "wrong-method",
        405,
        "This address does not take such a request.",
        "Cette adresse n'accepte pas une telle requête.",
        _RELAUNCH,
    ),
]

FAULTS: dict[str, Fault] = {entry.code: entry for entry in _TABLE}


def fault(code: str) -> Fault:
    """Return the entry of a code; an unknown one reads as `ehr-error`."""
    return FAULTS.get(code, FAULTS["ehr-error"])


class SmartConfigurationError(ValueError):
    """A registration or a key that the app was started with is wrong."""


class LaunchError(Exception):
    """A launch, or a request within one, can't go on.

    Parameters
    ----------
    code : str
        A key of `FAULTS`.
    detail : str
        For the log; without tokens, codes, states, launch values or anything about a patient.
    retry_after : int
        Seconds after which the same may succeed; 0 where that is not known.
    """

    def __init__(self, code: str, detail: str = "", retry_after: int = 0) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


class FhirAccessError(LaunchError):
    """The EHR's FHIR service answered a request with an error.

    Parameters
    ----------
    code : str
        A key of `FAULTS`.
    status : int
        HTTP status of the FHIR service; 0 where there was no answer.
    detail : str
        For the log.
    retry_after : int
        Seconds that the service asked to wait; 0 where it did not say.
    """

    def __init__(self, code: str, status: int, detail: str = "", retry_after: int = 0) -> None:
        super().__init__(code, detail, retry_after)
        self.status = status
