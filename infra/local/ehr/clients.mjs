/** Apps that are registered with this EHR. Tests may register more over the control API. */

import { configuration } from './configuration.mjs';
import { store } from './storage.mjs';

const ALL = [
  'patient/*.cruds', 'user/*.cruds', 'system/*.rs',
].join(' ');

/** Scopes of resources that a client is registered for; the engine's own client model knows none of them. */
const registered = new Map();

/** Resource servers: clients that may ask what somebody else's token is good for (SMART "Token Introspection"). */
const resourceServers = new Set();

export function registeredFor(clientId) {
  return registered.get(clientId) ?? '';
}

export function mayIntrospect(clientId) {
  return resourceServers.has(clientId);
}

export function registerClient({ scopes, introspects = false, ...metadata }) {
  registered.set(metadata.client_id, scopes ?? ALL);
  if (introspects) resourceServers.add(metadata.client_id);
  else resourceServers.delete(metadata.client_id);
  store.set(`Client:${metadata.client_id}`, {
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    ...metadata,
  });
}

export function registerImagingApp() {
  registerClient({
    client_id: 'imaging-app',
    client_name: 'Imaging app',
    redirect_uris: [`${configuration.appBase}/callback/${configuration.appRegistration}`],
    token_endpoint_auth_method: 'private_key_jwt',
    jwks_uri: `${configuration.appBase}/.well-known/jwks.json`,
    scopes: [
      'patient/Patient.rs', 'patient/ImagingStudy.rs', 'patient/DiagnosticReport.cruds',
      'patient/Observation.cruds', 'patient/Media.rs', 'patient/Provenance.crus', 'patient/Encounter.rs',
      'patient/ServiceRequest.rs', 'patient/Condition.rs', 'patient/Device.rs', 'patient/Endpoint.rs',
      'patient/Organization.rs', 'patient/Practitioner.rs', 'patient/PractitionerRole.rs', 'user/Practitioner.rs',
      'user/PractitionerRole.rs', 'user/Patient.rs', 'user/ImagingStudy.rs', 'user/DiagnosticReport.cruds',
      'user/Observation.cruds',
    ].join(' '),
  });
}

/** The app without a user: it asks here what a token is good for that a program shows to it. */
export function registerImagingBackend() {
  registerClient({
    client_id: 'imaging-backend',
    client_name: 'Imaging app, without a user',
    grant_types: ['client_credentials'],
    response_types: [],
    redirect_uris: [],
    token_endpoint_auth_method: 'private_key_jwt',
    jwks_uri: `${configuration.appBase}/.well-known/jwks.json`,
    scopes: 'system/ImagingStudy.rs',
    introspects: true,
  });
}
