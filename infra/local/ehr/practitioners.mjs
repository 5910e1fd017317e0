/** The sandbox's users, as Practitioner and PractitionerRole on the FHIR service. The first one is signed in at start. */

import { putResource, readResource } from './fhir_upstream.mjs';

const SNOMED = 'http://snomed.info/sct';

export const PRACTITIONERS = [
  {
    id: 'sandbox-radiologist',
    name: 'Dr. Claire Moreau',
    family: 'Moreau',
    given: 'Claire',
    role: { code: '66862007', display: 'Radiologist', fr: 'Radiologue' },
  },
  {
    id: 'sandbox-physician',
    name: 'Dr. Martin Weber',
    family: 'Weber',
    given: 'Martin',
    role: { code: '62247001', display: 'Family medicine specialist', fr: 'Médecin de famille' },
  },
];

export function practitioner(id) {
  return PRACTITIONERS.find((item) => item.id === id);
}

function resources(person) {
  return [
    {
      resourceType: 'Practitioner',
      id: person.id,
      active: true,
      identifier: [{ system: 'urn:imaging:sandbox-ehr:user', value: person.id }],
      name: [{ use: 'official', family: person.family, given: [person.given], prefix: ['Dr.'], text: person.name }],
    },
    {
      resourceType: 'PractitionerRole',
      id: `${person.id}-role`,
      active: true,
      practitioner: { reference: `Practitioner/${person.id}`, display: person.name },
      code: [{ coding: [{ system: SNOMED, code: person.role.code, display: person.role.display }] }],
    },
  ];
}

let seeded = false;

/** Write those that are not there; a second call does nothing, so that a restart makes no new versions. */
export async function seedPractitioners() {
  if (seeded) return;
  for (const person of PRACTITIONERS) {
    for (const resource of resources(person)) {
      if (!(await readResource(resource.resourceType, resource.id))) await putResource(resource);
    }
  }
  seeded = true;
}

export function isSeeded() {
  return seeded;
}
