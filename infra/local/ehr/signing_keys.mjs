/** Keys of the EHR, kept in its data folder: so that a restart neither breaks a session nor a token in use. */

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { calculateJwkThumbprint } from 'jose';
import { configuration } from './configuration.mjs';

async function privateJwk(type, options, alg) {
  const { privateKey } = generateKeyPairSync(type, options);
  const jwk = privateKey.export({ format: 'jwk' });
  return { ...jwk, kid: await calculateJwkThumbprint(jwk), use: 'sig', alg };
}

/** Keys that came after those in the file, by the kind of key that they follow: made when a test lets the EHR rotate. */
const successors = new Map();

export async function successorOf(jwk) {
  if (!successors.has(jwk.kid)) {
    const options = jwk.kty === 'RSA' ? { modulusLength: 2048 } : { namedCurve: jwk.crv };
    successors.set(jwk.kid, privateJwk(jwk.kty === 'RSA' ? 'rsa' : 'ec', options, jwk.alg));
  }
  return successors.get(jwk.kid);
}

function publicHalf({ kty, kid, use, alg, n, e, crv, x, y }) {
  return kty === 'RSA' ? { kty, kid, use, alg, n, e } : { kty, kid, use, alg, crv, x, y };
}

/** The key set as it is while keys are rotated: own (before), both (while either may sign), next (after). */
export async function publishedKeys(keys, which) {
  const next = await Promise.all(keys.jwks.map(successorOf));
  const shown = { own: keys.jwks, both: [...keys.jwks, ...next], next }[which];
  return { keys: shown.map(publicHalf) };
}

async function make() {
  return {
    jwks: [
      await privateJwk('rsa', { modulusLength: 2048 }, 'RS256'),
      await privateJwk('ec', { namedCurve: 'P-256' }, 'ES256'),
    ],
    cookieKeys: [randomBytes(32).toString('base64url')],
  };
}

export async function loadKeys() {
  const path = join(configuration.dataDir, 'keys.json');
  if (existsSync(path)) return JSON.parse(readFileSync(path, 'utf8'));
  const keys = await make();
  mkdirSync(configuration.dataDir, { recursive: true, mode: 0o700 });
  writeFileSync(`${path}.new`, JSON.stringify(keys), { mode: 0o600 });
  renameSync(`${path}.new`, path);
  return keys;
}
