/** Texts of the pages, English and French. */

const TEXTS = {
  en: {
    hospital: 'Sandbox Hospital', product: 'Patient records', patients: 'Patients', search: 'Name or number', find: 'Search',
    name: 'Name', number: 'Number', birthDate: 'Date of birth', sex: 'Sex', studies: 'Examinations', reports: 'Reports',
    none: 'No patient matches.', nobody: 'No patient is registered yet. Send an image to the ingestion endpoint, and the patient appears here.',
    open: 'Open chart', back: 'All patients', launch: 'Launch imaging app', close: 'Close app', app: 'Imaging app',
    signedIn: 'Signed in as', switchUser: 'Change user', signInAs: 'Sign in', choosePatient: 'Choose a patient',
    choosePatientText: 'The app asks for a patient to work with.', choose: 'Choose', allergies: 'Chart', date: 'Date', what: 'What',
    away: 'The records can\'t be read at the moment.', awayText: 'The FHIR service behind this EHR does not answer. Reload in a moment.',
    gone: 'There is no such page.', refused: 'The app can\'t be authorised.', again: 'Go back to the chart and launch it again.',
    male: 'male', female: 'female', other: 'other', unknown: 'unknown', demo: 'Sandbox EHR: made-up patients only, not a real hospital.',
    noStudies: 'None yet.', status: 'Status', signIn: 'Sign in to the EHR', of: 'of',
  },
  fr: {
    hospital: 'Hôpital d\'essai', product: 'Dossiers des patients', patients: 'Patients', search: 'Nom ou numéro', find: 'Chercher',
    name: 'Nom', number: 'Numéro', birthDate: 'Date de naissance', sex: 'Sexe', studies: 'Examens', reports: 'Comptes rendus',
    none: 'Aucun patient trouvé.', nobody: 'Aucun patient n\'est encore enregistré. Envoyez une image, et le patient apparaît ici.',
    open: 'Ouvrir le dossier', back: 'Tous les patients', launch: 'Lancer l\'imagerie', close: 'Fermer l\'application', app: 'Application d\'imagerie',
    signedIn: 'Connecté :', switchUser: 'Changer d\'utilisateur', signInAs: 'Se connecter', choosePatient: 'Choisissez un patient',
    choosePatientText: 'L\'application demande un patient.', choose: 'Choisir', allergies: 'Dossier', date: 'Date', what: 'Quoi',
    away: 'Les dossiers sont illisibles pour le moment.', awayText: 'Le service FHIR de ce dossier ne répond pas. Rechargez dans un instant.',
    gone: 'Cette page n\'existe pas.', refused: 'L\'application ne peut être autorisée.', again: 'Revenez au dossier et relancez-la.',
    male: 'masculin', female: 'féminin', other: 'autre', unknown: 'inconnu', demo: 'Dossier d\'essai : patients fictifs, pas un vrai hôpital.',
    noStudies: 'Aucun pour l\'instant.', status: 'État', signIn: 'Connexion au dossier', of: 'sur',
  },
};

/** The texts of the language that a browser prefers. */
export function textsFor(request) {
  const wanted = (request.headers['accept-language'] ?? '').split(',')
    .map((part) => {
      const [tag, ...options] = part.trim().split(';');
      const q = options.map((item) => /^\s*q=([\d.]+)$/.exec(item)).find(Boolean);
      return { language: tag.slice(0, 2).toLowerCase(), q: q ? Number(q[1]) : 1 };
    })
    .filter(({ language }) => language in TEXTS)
    .sort((a, b) => b.q - a.q);
  const language = wanted[0]?.language ?? 'en';
  return { language, ...TEXTS[language] };
}
