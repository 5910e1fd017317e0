/** `.well-known/smart-configuration` and the CapabilityStatement (SMART 2.2 "Conformance"). */

import { configuration } from './configuration.mjs';
import { control, overlay } from './control.mjs';
import { upstream } from './fhir_upstream.mjs';
import { IDENTITY_SCOPES } from './smart_scopes.mjs';

export const ROUTES = {
  authorization: '/oauth/authorize',
  token: '/oauth/token',
  jwks: '/oauth/jwks',
  revocation: '/oauth/revoke',
  introspection: '/oauth/introspect',
  end_session: '/oauth/logout',
};

function at(route) {
  return `${configuration.origin}${ROUTES[route]}`;
}

export const TOKEN_ENDPOINT = at('token');

export function smartConfiguration() {
  return overlay({
    issuer: configuration.origin,
    jwks_uri: at('jwks'),
    authorization_endpoint: at('authorization'),
    token_endpoint: at('token'),
    revocation_endpoint: at('revocation'),
    introspection_endpoint: at('introspection'),
    grant_types_supported: ['authorization_code', 'refresh_token', 'client_credentials'],
    response_types_supported: ['code'],
    code_challenge_methods_supported: ['S256'],
    token_endpoint_auth_methods_supported: ['private_key_jwt', 'client_secret_basic', 'client_secret_post'],
    token_endpoint_auth_signing_alg_values_supported: ['RS384', 'ES384'],
    id_token_signing_alg_values_supported: ['RS256', 'ES256'],
    authorization_response_iss_parameter_supported: true,
    scopes_supported: [...IDENTITY_SCOPES, 'patient/*.cruds', 'user/*.cruds', 'system/*.rs'],
    capabilities: [
      'launch-ehr', 'launch-standalone', 'authorize-post', 'client-public', 'client-confidential-symmetric',
      'client-confidential-asymmetric', 'sso-openid-connect', 'context-banner', 'context-ehr-patient', 'context-ehr-encounter',
      'context-standalone-patient', 'permission-online', 'permission-offline', 'permission-patient', 'permission-user',
      'permission-v1', 'permission-v2',
    ],
  }, control().discovery);
}

export async function capabilityStatement() {
  const answer = await upstream('/metadata');
  if (!answer.ok) return undefined;
  const statement = await answer.json();
  const rest = statement.rest?.[0] ?? { mode: 'server' };
  const uri = (url, route) => ({ url, valueUri: at(route) });
  const security = {
    service: [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/restful-security-service', code: 'SMART-on-FHIR' }] }],
    extension: [{
      url: 'http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris',
      extension: [uri('authorize', 'authorization'), uri('token', 'token'), uri('revoke', 'revocation'), uri('introspect', 'introspection')],
    }],
  };
  return {
    ...statement,
    url: `${configuration.fhirBase}/metadata`,
    implementation: { description: 'Sandbox EHR', url: configuration.fhirBase },
    rest: [{ ...rest, security }],
  };
}
