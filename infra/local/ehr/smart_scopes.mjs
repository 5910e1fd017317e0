/** SMART scopes: grammar, versions 1 and 2, and what a granted one allows. */

const V2 = /^(patient|user|system)\/([A-Z][A-Za-z]*|\*)\.(?=[cruds])(c?r?u?d?s?)(\?\S+)?$/;
const V1 = /^(patient|user|system)\/([A-Z][A-Za-z]*|\*)\.(read|write|\*)$/;
const LAUNCH = /^launch(\/[a-z]+(\?role=[^\s&?]+)?)?$/;
const V1_MEANS = { read: 'rs', write: 'cud', '*': 'cruds' };

/** Scopes that are about the user or the launch, not about FHIR resources. */
export const IDENTITY_SCOPES = [
  'openid', 'fhirUser', 'profile', 'launch', 'launch/patient', 'launch/encounter', 'online_access', 'offline_access',
];

export function words(text) {
  return [...new Set((text ?? '').split(' ').filter(Boolean))];
}

export function parseScope(word) {
  let match = V2.exec(word);
  if (match) return { level: match[1], type: match[2], interactions: match[3], query: match[4]?.slice(1) ?? '' };
  match = V1.exec(word);
  if (match) return { level: match[1], type: match[2], interactions: V1_MEANS[match[3]], query: '' };
  return undefined;
}

export function isWellFormed(word) {
  return IDENTITY_SCOPES.includes(word) || LAUNCH.test(word) || parseScope(word) !== undefined;
}

/** Those of the asked scopes that a client is registered for; `*` and more interactions in a registration cover less. */
export function registeredScopes(asked, registered) {
  const rights = words(registered).map(parseScope).filter(Boolean);
  return words(asked).filter((word) => {
    const scope = parseScope(word);
    return scope && rights.some((right) => right.level === scope.level
      && (right.type === '*' || right.type === scope.type)
      && [...scope.interactions].every((letter) => right.interactions.includes(letter)));
  });
}

/** The levels at which a grant allows an interaction on a type; a query in the scope comes with its level. */
export function allowedLevels(granted, type, interaction) {
  return words(granted)
    .map(parseScope)
    .filter((scope) => scope && (scope.type === '*' || scope.type === type) && scope.interactions.includes(interaction))
    .map(({ level, query }) => ({ level, query }));
}
