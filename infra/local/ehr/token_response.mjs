/** What SMART adds to the engine's token response: launch context, and the whole of the granted scopes. */

import { generateKeyPairSync } from 'node:crypto';
import { decodeJwt, decodeProtectedHeader, importJWK, SignJWT } from 'jose';
import { control, overlay, record } from './control.mjs';
import { ROUTES } from './discovery.mjs';
import { successorOf } from './signing_keys.mjs';

function grantedScope(ctx, body) {
  const source = ctx.oidc.entities.AuthorizationCode ?? ctx.oidc.entities.RefreshToken;
  if (control().grantScope !== null) return control().grantScope;
  return source?.scope ?? body.scope;
}

/** Sign an id_token anew with the claims, header or key that a test wants. */
async function mutated(token, keys) {
  const { idTokenClaims, idTokenHeader, idTokenKey } = control();
  if (!Object.keys(idTokenClaims).length && !Object.keys(idTokenHeader).length && idTokenKey === 'own') return token;
  const claims = overlay(decodeJwt(token), idTokenClaims);
  const header = overlay(decodeProtectedHeader(token), idTokenHeader);
  if (idTokenKey === 'none') {
    const encode = (part) => Buffer.from(JSON.stringify(part)).toString('base64url');
    return `${encode({ ...header, alg: 'none' })}.${encode(claims)}.`;
  }
  const own = keys.jwks.find(({ alg }) => alg === header.alg) ?? keys.jwks[0];
  const foreign = () => generateKeyPairSync(own.kty === 'RSA' ? 'rsa' : 'ec', own.kty === 'RSA' ? { modulusLength: 2048 } : { namedCurve: own.crv }).privateKey;
  if (idTokenKey === 'next') {
    const next = await successorOf(own);
    return new SignJWT(claims).setProtectedHeader({ ...header, kid: next.kid }).sign(await importJWK(next, header.alg));
  }
  const key = idTokenKey === 'foreign' ? foreign() : await importJWK(own, header.alg);
  return new SignJWT(claims).setProtectedHeader(header).sign(key);
}

/** Middleware around the engine's token endpoint. */
export function tokenResponse(keys, contextOfGrant) {
  return async (ctx, next) => {
    if (ctx.path !== ROUTES.token) return next();
    await next();
    record('token', ctx.req, { ...ctx.oidc?.params, ...ctx.oidc?.body });
    const { tokenFault } = control();
    if (tokenFault) {
      ctx.status = tokenFault.status ?? 200;
      if (tokenFault.location) ctx.set('location', tokenFault.location);
      if (tokenFault.contentType) ctx.type = tokenFault.contentType;
      ctx.body = tokenFault.body ?? '';
      return undefined;
    }
    if (ctx.status !== 200 || !ctx.body?.access_token) return undefined;
    const { body } = ctx;
    const { need_patient_banner: banner = true, ...context } = contextOfGrant(ctx.oidc.entities.Grant?.jti);
    const forUser = ctx.oidc.entities.Grant ? { need_patient_banner: banner, ...context } : {};
    const answer = overlay({ ...body, ...forUser, scope: grantedScope(ctx, body) }, control().tokenResponse);
    if (typeof answer.id_token === 'string' && body.id_token === answer.id_token) answer.id_token = await mutated(answer.id_token, keys);
    ctx.body = answer;
    ctx.set('cache-control', 'no-store');
    ctx.set('pragma', 'no-cache');
    return undefined;
  };
}
