/** Settings of the sandbox EHR, read once from the environment. */

import { readFileSync } from 'node:fs';

function required(name) {
  const value = process.env[name];
  if (!value) {
    console.error(`sandbox EHR: ${name} is not set`);
    process.exit(78);
  }
  return value;
}

const origin = required('EHR_ORIGIN').replace(/\/$/, '');
const appBase = required('APP_BASE_URL').replace(/\/$/, '');
const caFile = process.env.CA_FILE ?? '';

export const configuration = Object.freeze({
  port: Number(required('EHR_PORT')),
  host: process.env.EHR_HOST || '127.0.0.1',
  origin,
  fhirBase: `${origin}/fhir`,
  fhirUpstream: required('FHIR_UPSTREAM').replace(/\/$/, ''),
  fhirUpstreamToken: process.env.FHIR_UPSTREAM_TOKEN ?? '',
  appBase,
  // the name that the app gives this EHR in its registrations: its redirect URI is <app>/callback/<name>
  appRegistration: process.env.EHR_APP_REGISTRATION || 'sandbox',
  tlsCert: readFileSync(required('TLS_CERT')),
  tlsKey: readFileSync(required('TLS_KEY')),
  ca: caFile ? readFileSync(caFile) : undefined,
  dataDir: required('EHR_DATA_DIR'),
  controlToken: process.env.EHR_CONTROL_TOKEN ?? '',
  accessTokenSeconds: Number(process.env.EHR_ACCESS_TOKEN_SECONDS || 900),
});
