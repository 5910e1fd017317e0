/** Which resources are one patient's (FHIR R4 Patient compartment, as far as an imaging app meets it). */

/** Members whose reference to a Patient puts a resource into that patient's compartment. */
const MEMBERS = {
  AllergyIntolerance: ['patient'], AuditEvent: [], CarePlan: ['subject'], Condition: ['subject'], Consent: ['patient'],
  DiagnosticReport: ['subject'], DocumentReference: ['subject'], Encounter: ['subject'], EpisodeOfCare: ['patient'],
  Flag: ['subject'], ImagingStudy: ['subject'], Immunization: ['patient'], Media: ['subject'], MedicationRequest: ['subject'],
  MedicationStatement: ['subject'], Observation: ['subject'], Procedure: ['subject'], RelatedPerson: ['patient'],
  ServiceRequest: ['subject'], Specimen: ['subject'], Task: ['for'], Communication: ['subject'], Coverage: ['beneficiary'],
};

/** Types whose link to a patient goes over what they are about; their own members can't show it. */
const BY_TARGET = { Provenance: 'target' };

/** Types that belong to no patient and may be read with a right at patient level. */
const SHARED = new Set([
  'Practitioner', 'PractitionerRole', 'Organization', 'Location', 'Endpoint', 'Device', 'Medication', 'HealthcareService', 'ValueSet',
  'CodeSystem', 'StructureDefinition',
]);

export function isShared(type) {
  return SHARED.has(type);
}

export function isCompartmentType(type) {
  return type === 'Patient' || type in MEMBERS || type in BY_TARGET;
}

function isThisPatient(reference, patient, bases) {
  if (typeof reference !== 'string') return false;
  const plain = reference.split('/_history/')[0];
  return plain === `Patient/${patient}` || bases.some((base) => plain === `${base}/Patient/${patient}`);
}

/**
 * Whether a resource may be seen by who may see one patient.
 *
 * @param resource  the resource
 * @param patient   id of the patient
 * @param bases     base URLs of this server
 * @param readTarget  reads `Type/id`, for resources that are about others
 */
export async function belongsTo(resource, patient, bases, readTarget) {
  const type = resource?.resourceType;
  if (type === 'Patient') return resource.id === patient;
  if (isShared(type)) return !resource.patient || isThisPatient(resource.patient.reference, patient, bases);
  if (type in BY_TARGET) {
    const targets = [resource[BY_TARGET[type]]].flat().map((target) => target?.reference).filter(Boolean);
    const found = await Promise.all(targets.map(async (reference) => {
      const plain = bases.reduce((text, base) => text.replace(`${base}/`, ''), reference).split('/_history/')[0];
      const target = await readTarget(plain);
      return target !== undefined && !(target.resourceType in BY_TARGET) && belongsTo(target, patient, bases, readTarget);
    }));
    return found.length > 0 && found.every(Boolean);
  }
  return (MEMBERS[type] ?? []).some((member) => (
    [resource[member]].flat().some((target) => isThisPatient(target?.reference, patient, bases))
  ));
}
