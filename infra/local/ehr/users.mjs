/** Who is signed in to the EHR in a browser. */

import { randomBytes } from 'node:crypto';
import { cookie } from './http_answers.mjs';
import { practitioner } from './practitioners.mjs';
import { store } from './storage.mjs';

const COOKIE = '__Host-ehr-session';
const SECONDS = 12 * 3600;

export function signedIn(request) {
  const id = cookie(request, COOKIE);
  return id ? practitioner(store.get(`EhrSession:${id}`)) : undefined;
}

/** Begin a session; returns the header that sets its cookie. It must come back inside of the app's frame too: SameSite=None. */
export function signIn(userId) {
  const id = randomBytes(32).toString('base64url');
  store.set(`EhrSession:${id}`, userId, SECONDS);
  return { 'set-cookie': `${COOKIE}=${id}; Path=/; Secure; HttpOnly; SameSite=None` };
}
