"""Every failure of the system, typed once.

An error is `Retryable` (the same call may go through later), `Permanent` (it will not, whatever is tried) or `Rejected`
(the sender's input is at fault and the sender is told). Each carries a code that appears in the ledger, the logs, the HTTP
answer and the documentation. Exceptions of libraries are wrapped at the boundary where they arise.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CODES", "ErrorCode", "ImagingError", "Permanent", "Rejected", "Retryable", "code"]


@dataclass(frozen=True)
class ErrorCode:
    """What one code means.

    Parameters
    ----------
    code : str
        Kebab-case name, stable for ever.
    status : int
        HTTP status of an answer that carries it (RFC 9110).
    en, fr : str
        One sentence for a person, in English and French.
    failure_reason : int
        DICOM failure reason (0008,1197) of a STOW-RS answer (PS3.18 I.2.2, PS3.4 Annex CC).
    """

    code: str
    status: int
    en: str
    fr: str
    failure_reason: int = 0x0110


_TABLE = [
    # requests
    ErrorCode("empty-body", 400, "The request has no content.", "La requête est vide.", 0xC000),
    ErrorCode(
        "bad-multipart",
        400,
        "The multipart body can't be read: check the boundary and that each part is complete.",
        "Le corps multipart est illisible : vérifiez la délimitation et que chaque partie est complète.",
        0xC000,
    ),
    ErrorCode(
        "unsupported-media-type",
        415,
        "This media type is not taken here.",
        "Ce type de média n'est pas accepté ici.",
        0xC000,
    ),
    ErrorCode("not-acceptable", 406, "No offered answer format is accepted.", "Aucun format de réponse accepté."),
    ErrorCode(
        "body-too-large",
        413,
        "The request is larger than the limit.",
        "La requête dépasse la limite.",
        0xA700,
    ),
    ErrorCode("too-many-parts", 413, "The request has too many parts.", "La requête a trop de parties.", 0xA700),
    ErrorCode("missing-field", 400, "A required field is missing.", "Un champ obligatoire manque."),
    ErrorCode("bad-field", 400, "A field has a value that can't be used.", "Un champ a une valeur inutilisable."),
    ErrorCode(
        "bad-uid",
        400,
        "An identifier is not a valid DICOM UID.",
        "Un identifiant n'est pas un UID DICOM.",
        0xC000,
    ),
    ErrorCode("unauthenticated", 401, "A valid access token is needed.", "Un jeton d'accès valide est requis."),
    ErrorCode("forbidden", 403, "The caller has no right to do this.", "L'appelant n'en a pas le droit.", 0x0124),
    ErrorCode("not-found", 404, "There is nothing under this address.", "Il n'y a rien à cette adresse."),
    ErrorCode("rate-limited", 429, "Too many requests: try again later.", "Trop de requêtes : réessayez plus tard."),
    # instances
    ErrorCode(
        "not-dicom",
        400,
        "The file is not a DICOM instance.",
        "Le fichier n'est pas une instance DICOM.",
        0xC000,
    ),
    ErrorCode("truncated", 400, "The file ends before its data does.", "Le fichier est tronqué.", 0xC000),
    ErrorCode(
        "trailing-bytes",
        400,
        "The file goes on after its data set.",
        "Le fichier se prolonge après ses données.",
        0xC000,
    ),
    ErrorCode(
        "missing-uid",
        400,
        "A UID that every instance needs is missing.",
        "Un UID indispensable manque.",
        0xC000,
    ),
    ErrorCode(
        "uid-mismatch",
        400,
        "The UIDs of the file's header and data set, or of the address, contradict each other.",
        "Les UID de l'en-tête, des données ou de l'adresse se contredisent.",
        0xC000,
    ),
    ErrorCode(
        "sop-class-mismatch",
        400,
        "The SOP classes of the file's header and data set differ.",
        "Les classes SOP de l'en-tête et des données diffèrent.",
        0xA900,
    ),
    ErrorCode(
        "sop-class-not-supported",
        400,
        "This SOP class is not taken.",
        "Cette classe SOP n'est pas prise.",
        0x0122,
    ),
    ErrorCode(
        "transfer-syntax-not-supported",
        400,
        "This transfer syntax is not supported.",
        "Cette syntaxe de transfert n'est pas prise en charge.",
        0xC122,
    ),
    ErrorCode("bad-rescale", 400, "The rescale slope is zero.", "La pente de rééchelonnement est nulle.", 0xC000),
    ErrorCode(
        "instance-too-large",
        413,
        "The instance is larger than the limit.",
        "L'instance dépasse la limite.",
        0xA700,
    ),
    ErrorCode(
        "too-many-elements",
        400,
        "The instance has too many data elements.",
        "L'instance a trop d'éléments.",
        0xA700,
    ),
    ErrorCode(
        "nested-too-deep",
        400,
        "The instance's sequences are nested too deep.",
        "Séquences trop imbriquées.",
        0xA700,
    ),
    ErrorCode(
        "inflated-too-large",
        400,
        "The inflated data set is too large.",
        "Les données décompressées sont trop grandes.",
        0xA700,
    ),
    ErrorCode("too-many-pixels", 400, "The image has too many pixels.", "L'image a trop de pixels.", 0xA700),
    ErrorCode(
        "decode-timeout",
        422,
        "Reading the instance took too long.",
        "La lecture de l'instance a pris trop de temps.",
        0xA700,
    ),
    ErrorCode(
        "decode-memory",
        422,
        "Reading the instance took too much memory.",
        "La lecture demande trop de mémoire.",
        0xA700,
    ),
    ErrorCode("decode-crashed", 422, "Reading the instance made the decoder fail.", "Le décodeur a échoué.", 0xC000),
    ErrorCode(
        "pixels-unreadable",
        422,
        "The pixel data can't be decoded.",
        "Les pixels ne peuvent être décodés.",
        0xC000,
    ),
    ErrorCode(
        "codestream-mismatch",
        422,
        "A compressed frame contradicts the data set that holds it.",
        "Une image compressée contredit les données qui la contiennent.",
        0xC000,
    ),
    ErrorCode(
        "may-identify",
        422,
        "The pixels or the content may name the patient: name the regions to blank, or leave the file out.",
        "Les pixels ou le contenu peuvent nommer le patient : indiquez les zones à masquer, ou écartez le fichier.",
    ),
    ErrorCode(
        "not-deidentifiable",
        422,
        "This instance can't be de-identified without losing what it is for.",
        "Cette instance ne peut être dé-identifiée sans perdre son objet.",
    ),
    ErrorCode(
        "rendition-differs",
        500,
        "The compressed copy does not hold the same values; it was thrown away.",
        "La copie compressée ne contient pas les mêmes valeurs ; elle a été jetée.",
    ),
    ErrorCode("no-pixels", 422, "The instance has no pixel data.", "L'instance n'a pas de pixels.", 0xC000),
    ErrorCode(
        "conflicting-content",
        409,
        "This UID is already stored with other content.",
        "Cet UID est déjà stocké avec un autre contenu.",
        0x0110,
    ),
    ErrorCode("not-an-image", 415, "The file is neither PNG nor JPEG.", "Le fichier n'est ni PNG ni JPEG."),
    ErrorCode("several-frames", 415, "The picture has several frames.", "L'image comporte plusieurs vues."),
    ErrorCode("colour-not-supported", 415, "This colour model is not taken.", "Ce modèle de couleur n'est pas pris."),
    ErrorCode(
        "directory",
        400,
        "A DICOMDIR is an index and not an image; the files that it names are taken one by one.",
        "Un DICOMDIR est un index et non une image ; les fichiers qu'il nomme sont pris un par un.",
        0x0122,
    ),
    ErrorCode(
        "file-type-not-taken",
        415,
        "This kind of file is not taken: send DICOM, PNG, JPEG or a zip of them.",
        "Ce type de fichier n'est pas pris : envoyez DICOM, PNG, JPEG ou un zip de ceux-ci.",
        0xC000,
    ),
    # archives
    ErrorCode(
        "archive-unreadable",
        400,
        "The archive, or this file in it, can't be unpacked.",
        "L'archive, ou ce fichier qu'elle contient, ne peut être décompressé.",
        0xC000,
    ),
    ErrorCode(
        "archive-encrypted",
        415,
        "The file is encrypted in its archive.",
        "Le fichier est chiffré dans son archive.",
        0xC000,
    ),
    ErrorCode(
        "archive-nested",
        415,
        "An archive inside an archive is not unpacked.",
        "Une archive dans une archive n'est pas décompressée.",
        0xC000,
    ),
    ErrorCode(
        "archive-too-large",
        413,
        "The archive holds more than the limit.",
        "L'archive contient plus que la limite.",
        0xA700,
    ),
    # identity
    ErrorCode("patient-id-empty", 409, "The instance names no patient.", "L'instance ne nomme aucun patient."),
    ErrorCode(
        "unknown-assigner",
        409,
        "The issuer of the patient id is unknown.",
        "L'émetteur de l'identifiant est inconnu.",
    ),
    ErrorCode(
        "assigner-not-allowed",
        409,
        "The sender may not use this issuer.",
        "L'expéditeur ne peut utiliser cet émetteur.",
    ),
    ErrorCode("patient-not-found", 409, "No patient has this identifier.", "Aucun patient n'a cet identifiant."),
    ErrorCode(
        "patient-ambiguous",
        409,
        "Several patients have this identifier.",
        "Plusieurs patients ont cet identifiant.",
    ),
    ErrorCode(
        "patient-mismatch",
        409,
        "The patient of this number has other details.",
        "Le patient de ce numéro a d'autres données.",
    ),
    ErrorCode(
        "no-second-identifier",
        409,
        "No second detail confirms the patient.",
        "Aucune seconde donnée ne confirme le patient.",
    ),
    ErrorCode("patient-conflict", 409, "One study names two patients.", "Un même examen nomme deux patients."),
    # services
    ErrorCode(
        "service-unavailable",
        503,
        "A part of the system is away: try again later.",
        "Une partie du système est absente : réessayez plus tard.",
        0xA700,
    ),
    ErrorCode("fhir-unavailable", 503, "The FHIR service is away.", "Le service FHIR est absent.", 0xA700),
    ErrorCode(
        "fhir-refused",
        502,
        "The FHIR service refused the resource.",
        "Le service FHIR a refusé la ressource.",
    ),
    ErrorCode(
        "precondition-failed",
        412,
        "Somebody else has changed this in the meantime.",
        "Quelqu'un d'autre l'a modifié entre-temps.",
    ),
    ErrorCode("storage-unavailable", 503, "The image store is away.", "Le stockage des images est absent.", 0xA700),
    ErrorCode("blob-missing", 404, "The stored object is missing.", "L'objet stocké est introuvable."),
    ErrorCode("ledger-unavailable", 503, "The ledger is away.", "Le registre est absent.", 0xA700),
    ErrorCode("ai-unavailable", 503, "The AI container is away.", "Le conteneur d'IA est absent."),
    ErrorCode(
        "queue-full",
        429,
        "Too many analyses wait: try again later.",
        "Trop d'analyses en attente : réessayez plus tard.",
    ),
    ErrorCode(
        "analysis-timeout",
        503,
        "The analysis took too long.",
        "L'analyse a pris trop de temps.",
    ),
    ErrorCode(
        "model-hash-mismatch",
        500,
        "A model's file is not the one that its manifest names; the model is not loaded.",
        "Un fichier du modèle n'est pas celui que son manifeste nomme ; le modèle n'est pas chargé.",
    ),
    ErrorCode(
        "model-unusable",
        500,
        "A model can't be used as it is described.",
        "Un modèle est inutilisable tel qu'il est décrit.",
    ),
    ErrorCode("ai-refused", 502, "The AI container refused the study.", "Le conteneur d'IA a refusé l'examen."),
    ErrorCode(
        "study-not-registered",
        409,
        "The study is not registered yet.",
        "L'examen n'est pas encore enregistré.",
    ),
    ErrorCode(
        "audit-unavailable",
        503,
        "The audit trail can't be written, so the act is refused.",
        "La trace d'audit ne peut être écrite, l'acte est refusé.",
    ),
    ErrorCode("bad-setting", 500, "A setting is missing or wrong.", "Un réglage manque ou est faux."),
    ErrorCode(
        "internal",
        500,
        "An unexpected failure; the reference finds it in the logs.",
        "Panne imprévue ; la référence la retrouve dans les journaux.",
    ),
]

CODES: dict[str, ErrorCode] = {entry.code: entry for entry in _TABLE}


def code(name: str) -> ErrorCode:
    """Return the entry of a code; an unknown one reads as `internal`."""
    return CODES.get(name, CODES["internal"])


class ImagingError(Exception):
    """Base of every error that the system raises on purpose.

    Parameters
    ----------
    code : str
        A key of `CODES`.
    detail : str
        What happened and what to do, without PHI (no name, number, birth date, accession).
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail or CODES.get(code, CODES["internal"]).en

    def __reduce__(self) -> tuple[type[ImagingError], tuple[str, str]]:
        """Survive the way back from a decode child."""
        return (type(self), (self.code, self.detail))


class Retryable(ImagingError):
    """The same call may succeed later.

    Parameters
    ----------
    retry_after : float
        Seconds that the other side asked to wait; 0 where it did not say.
    """

    def __init__(self, code: str, detail: str = "", retry_after: float = 0.0) -> None:
        super().__init__(code, detail)
        self.retry_after = retry_after


class Permanent(ImagingError):
    """The same call can't succeed, however often it is tried."""


class Rejected(Permanent):
    """The sender's input is at fault; the code goes back to the sender and into the ledger."""
