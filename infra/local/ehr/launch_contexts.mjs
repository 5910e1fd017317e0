/**
 * Launch contexts. One is made when a user launches the app on a patient's chart, under an opaque id that serves once; on
 * the authorization request it goes over to the grant, from where the token response and the FHIR proxy take it.
 */

import { randomBytes } from 'node:crypto';
import { store } from './storage.mjs';

const LAUNCH_SECONDS = 300;

export function newLaunch(context) {
  const id = randomBytes(32).toString('base64url');
  store.set(`Launch:${id}`, context, LAUNCH_SECONDS);
  return id;
}

export function findLaunch(id) {
  return store.get(`Launch:${id}`);
}

export function useLaunch(id) {
  store.delete(`Launch:${id}`);
}

export function keepForGrant(grantId, context) {
  store.set(`GrantContext:${grantId}`, context, 14 * 24 * 3600);
}

export function contextOfGrant(grantId) {
  return store.get(`GrantContext:${grantId}`) ?? {};
}
