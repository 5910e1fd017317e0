/** The EHR's authorization server: the certified OpenID engine, made as strict as SMART App Launch 2.2 asks. */

import Provider, { errors, interactionPolicy } from 'oidc-provider';
import { configuration } from './configuration.mjs';
import { mayIntrospect, registeredFor } from './clients.mjs';
import { control } from './control.mjs';
import { ROUTES, TOKEN_ENDPOINT } from './discovery.mjs';
import { contextOfGrant, findLaunch, keepForGrant, useLaunch } from './launch_contexts.mjs';
import { localFetch } from './local_fetch.mjs';
import { practitioner } from './practitioners.mjs';
import { IDENTITY_SCOPES, isWellFormed, parseScope, registeredScopes, words } from './smart_scopes.mjs';
import { Storage } from './storage.mjs';
import { tokenResponse } from './token_response.mjs';
import { signedIn } from './users.mjs';

const { Check, Prompt, base: basePolicy } = interactionPolicy;
const STRICT_ASSERTION_SECONDS = 300;
const CLOCK_SECONDS = 15;

// Node 20 before 20.19 has no URL.parse, which the engine calls at run time.
URL.parse ??= (input, against) => (URL.canParse(input, against) ? new URL(input, against) : null);

function scopesInPlay(ctx) {
  const { params, entities } = ctx.oidc;
  const source = entities.AuthorizationCode ?? entities.RefreshToken ?? entities.RotatedRefreshToken;
  return words([params?.scope, source?.scope].filter(Boolean).join(' '));
}

/** The scopes of resources to grant: those that the app is registered for, unless a test wants others. */
function grantable(ctx, client) {
  const { grantScope } = control();
  const asked = grantScope === null ? scopesInPlay(ctx) : words(grantScope);
  return registeredScopes(asked.join(' '), registeredFor(client.clientId)).join(' ');
}

function checkState(ctx) {
  if (!ctx.oidc.params.state || ctx.oidc.params.state.length < 16) throw new errors.InvalidRequest('state is missing or guessable');
}

function checkAudience(ctx, aud) {
  checkState(ctx);
  if (aud !== configuration.fhirBase) throw new errors.InvalidRequest(`aud must be ${configuration.fhirBase}`);
}

function checkScopes(ctx) {
  for (const word of words(ctx.oidc.params.scope)) {
    if (!isWellFormed(word)) throw new errors.InvalidScope('malformed scope', word);
  }
}

function checkLaunch(ctx, launch) {
  checkScopes(ctx);
  const asksForLaunch = words(ctx.oidc.params.scope).includes('launch');
  if (launch === undefined && asksForLaunch) throw new errors.InvalidRequest('launch is missing, though scope launch is asked for');
  if (launch !== undefined && !asksForLaunch) throw new errors.InvalidScope('launch without scope launch', 'launch');
  if (launch !== undefined && findLaunch(launch) === undefined) throw new errors.InvalidRequest('launch is unknown, used or too old');
}

/** SMART "client-confidential-asymmetric", beyond what the engine checks itself. */
function checkAssertion(ctx, claims, header, client) {
  const now = Math.floor(Date.now() / 1000);
  const refuse = (why) => { throw new errors.InvalidClientAuth(why); };
  if (claims.sub !== client.clientId) refuse('sub must be the client_id');
  const here = `${configuration.origin}${ctx.path}`;
  if (claims.aud !== TOKEN_ENDPOINT && claims.aud !== here) refuse('aud must be exactly the URL that is posted to');
  if (typeof claims.jti !== 'string' || claims.jti.length > 151) refuse('jti must be a string of at most 151 characters');
  if (claims.exp > now + STRICT_ASSERTION_SECONDS) refuse('exp is more than five minutes ahead');
  if (claims.iat !== undefined && claims.iat > now) refuse('iat is in the future');
  if (header.typ !== 'JWT') refuse('typ must be JWT');
  if (typeof header.kid !== 'string') refuse('kid is missing');
  if (!['RS384', 'ES384'].includes(header.alg)) refuse('alg must be RS384 or ES384');
  if (header.jku !== undefined && header.jku !== client.jwksUri) refuse('jku is not the registered one');
}

/** Whether a standalone launch needs a patient that nobody has chosen yet. */
function lacksPatient(ctx) {
  return words(ctx.oidc.params.scope).includes('launch/patient') && !ctx.oidc.result?.select_patient;
}

function policy() {
  const prompts = basePolicy();
  // The EHR knows who is signed in; when somebody else has taken over, the engine's own session is out of date.
  prompts.get('login').checks.add(new Check('other_user', 'the user of the EHR has changed', (ctx) => (
    ctx.oidc.session.accountId === signedIn(ctx.req)?.id ? Check.NO_NEED_TO_PROMPT : Check.REQUEST_PROMPT
  )));
  prompts.add(new Prompt(
    { name: 'select_patient', requestable: false },
    new Check('patient_missing', 'a patient must be chosen', (ctx) => (
      lacksPatient(ctx) ? Check.REQUEST_PROMPT : Check.NO_NEED_TO_PROMPT
    )),
  ), 1);
  return prompts;
}

/** Consent is implied: the hospital has registered the app. Each authorization gets a grant, and its context, of its own. */
async function newGrant(ctx) {
  const { client, params, session, provider } = ctx.oidc;
  const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
  const { grantScope } = control();
  const asked = grantScope === null ? words(params.scope) : words(grantScope);
  grant.addOIDCScope(asked.filter((word) => IDENTITY_SCOPES.includes(word)).join(' '));
  grant.addResourceScope(configuration.fhirBase, asked.filter(parseScope).join(' '));
  if (grantScope !== null) {
    // what was asked for and is not granted counts as refused, else the engine would ask for consent again
    const refused = words(params.scope).filter((word) => !asked.includes(word));
    grant.rejectOIDCScope(refused.filter((word) => IDENTITY_SCOPES.includes(word)).join(' '));
    grant.rejectResourceScope(configuration.fhirBase, refused.filter(parseScope).join(' '));
  }
  await grant.save();
  const chosen = ctx.oidc.result?.select_patient?.patient;
  const context = params.launch ? findLaunch(params.launch) : chosen ? { patient: chosen } : {};
  keepForGrant(grant.jti, { ...context, ...control().context });
  return grant;
}

/** What introspection says of a token beside the engine's own members (SMART 2.2 "Token Introspection"). */
function contextOfToken(ctx, token) {
  if (!token.grantId) return undefined;
  const { patient, encounter, fhirContext } = contextOfGrant(token.grantId);
  const knowsUser = ctx?.oidc?.entities.Grant?.getOIDCScope().split(' ').includes('fhirUser');
  const fhirUser = knowsUser ? `${configuration.fhirBase}/Practitioner/${token.accountId}` : undefined;
  return Object.fromEntries(Object.entries({ patient, encounter, fhirContext, fhirUser }).filter(([, value]) => value !== undefined));
}

async function findAccount(ctx, id) {
  const person = practitioner(id);
  if (!person) return undefined;
  return {
    accountId: id,
    async claims() {
      return { sub: id, name: person.name, fhirUser: `${configuration.fhirBase}/Practitioner/${id}` };
    },
  };
}

export function createAuthorizationServer(keys, renderError) {
  const provider = new Provider(configuration.origin, {
    adapter: Storage,
    jwks: { keys: keys.jwks },
    cookies: {
      keys: keys.cookieKeys,
      long: { sameSite: 'none', secure: true, httpOnly: true },
      short: { sameSite: 'none', secure: true, httpOnly: true },
    },
    routes: ROUTES,
    scopes: IDENTITY_SCOPES,
    claims: { openid: ['sub'], fhirUser: ['fhirUser'], profile: ['name'] },
    conformIdTokenClaims: false,
    clientAuthMethods: ['private_key_jwt', 'client_secret_basic', 'client_secret_post', 'none'],
    enabledJWA: {
      clientAuthSigningAlgValues: ['RS384', 'ES384'],
      idTokenSigningAlgValues: ['RS256', 'ES256'],
    },
    clockTolerance: CLOCK_SECONDS,
    assertJwtClientAuthClaimsAndHeader: checkAssertion,
    allowOmittingSingleRegisteredRedirectUri: false,
    enableHttpPostMethods: true,
    extraParams: { launch: checkLaunch, aud: checkAudience },
    pkce: { required: () => true },
    responseTypes: ['code'],
    features: {
      devInteractions: { enabled: false },
      userinfo: { enabled: false },
      dPoP: { enabled: false },
      pushedAuthorizationRequests: { enabled: false },
      clientCredentials: { enabled: true },
      revocation: { enabled: true },
      introspection: {
        enabled: true,
        // a token is nobody's business but its client's and that of the resource servers that it may be shown to
        allowedPolicy: (ctx, client, token) => client.clientId === token.clientId || mayIntrospect(client.clientId),
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => configuration.fhirBase,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, resource, client) => {
          if (resource !== configuration.fhirBase) throw new errors.InvalidTarget();
          return {
            scope: grantable(ctx, client),
            accessTokenFormat: 'opaque',
            accessTokenTTL: configuration.accessTokenSeconds,
          };
        },
      },
    },
    ttl: {
      AccessToken: configuration.accessTokenSeconds,
      ClientCredentials: STRICT_ASSERTION_SECONDS,
      AuthorizationCode: 60,
      IdToken: 300,
      Interaction: 600,
      RefreshToken: 12 * 3600,
      Session: 12 * 3600,
      Grant: 14 * 24 * 3600,
    },
    issueRefreshToken: (ctx, client, source) => (
      client.grantTypeAllowed('refresh_token') && (source.scopes.has('online_access') || source.scopes.has('offline_access'))
    ),
    rotateRefreshToken: true,
    expiresWithSession: () => false,
    loadExistingGrant: newGrant,
    findAccount,
    extraTokenClaims: contextOfToken,
    interactions: { policy: policy(), url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    fetch: localFetch,
    renderError,
  });
  provider.on('authorization.success', (ctx) => {
    if (ctx.oidc.params.launch) useLaunch(ctx.oidc.params.launch);
  });
  provider.on('server_error', (ctx, error) => console.error(`sandbox EHR: ${error.stack}`));
  provider.use(tokenResponse(keys, contextOfGrant));
  return provider;
}
