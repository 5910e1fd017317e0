"""The report's words, in English and French (R9)."""

from __future__ import annotations

from fhir_adapter.findings import AnalysisResult, Finding

__all__ = ["conclusion", "decimal", "finding_line", "phrase", "reason_text"]

_PHRASES: dict[str, tuple[str, str]] = {
    "title": ("Automated image analysis", "Analyse d'image automatisée"),
    "banner": (
        "AUTOMATED ANALYSIS, NOT REVIEWED BY A PHYSICIAN",
        "ANALYSE AUTOMATISÉE, NON RELUE PAR UN MÉDECIN",
    ),
    "not-reviewed": ("Automated analysis, not reviewed.", "Analyse automatisée, non relue."),
    "model": ("Model: {title}, version {version}.", "Modèle : {title}, version {version}."),
    "present": ("present", "présence"),
    "absent": ("absent", "absence"),
    "indeterminate": ("indeterminate", "indéterminée"),
    "not-assessed": ("not analysed", "non analysée"),
    "line": (
        "{finding}: {state} (probability {probability}, threshold {threshold}).",
        "{finding} : {state} (probabilité {probability}, seuil {threshold}).",
    ),
    "bare-line": ("{finding}: {state}.", "{finding} : {state}."),
    "not-analysed": ("Not analysed: {reasons}.", "Non analysé : {reasons}."),
    "some-not-analysed": ("Images not analysed: {reasons}.", "Images non analysées : {reasons}."),
    "no-statement": (
        "Not assessed: {findings}.",
        "Non recherché : {findings}.",
    ),
    "patient": ("Patient", "Patient"),
    "born": ("Born", "Naissance"),
    "number": ("Patient number", "N° de patient"),
    "examination": ("Examination", "Examen"),
    "date": ("Date", "Date"),
    "accession": ("Accession number", "N° de demande"),
    "study": ("Study", "Examen (UID)"),
    "issued": ("Reported", "Compte rendu du"),
    "findings": ("Findings", "Constatations"),
    "finding": ("Finding", "Constatation"),
    "result": ("Result", "Résultat"),
    "probability": ("Probability", "Probabilité"),
    "threshold": ("Threshold", "Seuil"),
    "conclusion": ("Conclusion", "Conclusion"),
    "key-image": (
        "Key image with the regions that the model attended to",
        "Image clé et régions retenues par le modèle",
    ),
    "sr-series": ("AI report: {task}", "Compte rendu IA : {task}"),
    "sc-series": ("AI heatmap: {task}", "Carte IA : {task}"),
    "about-model": ("About the model", "À propos du modèle"),
    "signed": ("Reviewed and signed by {signer}, {time}", "Relu et signé par {signer}, {time}"),
    "rejected": ("Rejected by {signer}: {reason}", "Rejeté par {signer} : {reason}"),
    "made-with": ("Prepared by automated analysis.", "Préparé par une analyse automatisée."),
    "device-note": (
        "Not a certified medical device. A physician must review the images.",
        "Ce n'est pas un dispositif médical certifié. Un médecin doit relire les images.",
    ),
}
_REASONS: dict[str, tuple[str, str]] = {
    "no-model": ("no model for this examination", "aucun modèle pour cet examen"),
    "not-frontal": ("not a frontal view", "incidence non frontale"),
    "view-unknown": ("the view is not known", "incidence inconnue"),
    "age-unknown": ("the patient's age is not known", "âge du patient inconnu"),
    "child": ("the patient is a child", "le patient est un enfant"),
    "out-of-distribution": (
        "the image is unlike those that the model was made for",
        "l'image diffère de celles pour lesquelles le modèle est fait",
    ),
    "inverted": ("the image is inverted", "image en contraste inversé"),
    "rotated": ("the image is rotated", "image pivotée"),
    "pixels-unreadable": ("the image can't be read", "image illisible"),
    "no-pixels": ("there is no image", "pas d'image"),
    "poor-quality": ("the image quality is poor", "qualité d'image insuffisante"),
    "too-small": ("the image is too small", "image trop petite"),
}


def phrase(name: str, language: str, **values: str) -> str:
    """Return a phrase in a language (English for any other)."""
    english, french = _PHRASES[name]
    return (french if language == "fr" else english).format(**values)


def reason_text(reason: str, language: str) -> str:
    """Return why an image was not analysed, in words; a code that has none as it stands."""
    english, french = _REASONS.get(reason, (reason.replace("-", " "),) * 2)
    return french if language == "fr" else english


def decimal(value: float, language: str) -> str:
    """Return a probability with two decimals."""
    shown = f"{value:.2f}"
    return shown.replace(".", ",") if language == "fr" else shown


def finding_line(finding: Finding, language: str) -> str:
    """Return one finding as a sentence."""
    name = finding.text(language)
    state = phrase(finding.state, language)
    if finding.probability is None or finding.threshold is None:
        return phrase("bare-line", language, finding=name, state=state)
    return phrase(
        "line",
        language,
        finding=name,
        state=state,
        probability=decimal(finding.probability, language),
        threshold=decimal(finding.threshold, language),
    )


def conclusion(result: AnalysisResult) -> str:
    """Return the report's conclusion: what it is, what was found, and by which model (R9)."""
    language = result.language
    title = (result.model.title_fr if language == "fr" else result.model.title_en) or result.model.name
    reasons = ", ".join(reason_text(reason, language) for reason in result.reasons)
    lines = [phrase("not-reviewed", language)]
    if result.assessed:
        lines.extend(finding_line(finding, language) for finding in result.findings)
        if reasons:
            lines.append(phrase("some-not-analysed", language, reasons=reasons))
        names = [words[language == "fr"].lower() for words in result.not_assessed]
        if names:
            lines.append(phrase("no-statement", language, findings=", ".join(names)))
    else:
        lines.append(phrase("not-analysed", language, reasons=reasons or phrase("not-assessed", language)))
    lines.append(phrase("model", language, title=title, version=result.model.version))
    return "\n".join(lines)
