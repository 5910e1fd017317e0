/**
 * Fetch over node:https for calls to the app: names below `localhost` are the own machine (RFC 6761; the C library does
 * not know them), and the stack's certificate authority is trusted beside the machine's.
 */

import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { lookup as systemLookup } from 'node:dns';
import { rootCertificates } from 'node:tls';
import { configuration } from './configuration.mjs';

const MAX_BYTES = 1024 * 1024;

function lookup(hostname, options, callback) {
  if (hostname === 'localhost' || hostname.endsWith('.localhost')) {
    if (options.all) callback(null, [{ address: '127.0.0.1', family: 4 }]);
    else callback(null, '127.0.0.1', 4);
    return;
  }
  systemLookup(hostname, options, callback);
}

const ca = configuration.ca ? [...rootCertificates, configuration.ca] : undefined;

export function localFetch(url, options = {}) {
  const target = new URL(url);
  const request = target.protocol === 'http:' ? httpRequest : httpsRequest;
  const headers = Object.fromEntries(new Headers(options.headers));
  return new Promise((resolve, reject) => {
    const outgoing = request(target, { method: options.method ?? 'GET', headers, lookup, ca, timeout: 5000 }, (answer) => {
      const chunks = [];
      let size = 0;
      answer.on('data', (chunk) => {
        size += chunk.length;
        if (size > MAX_BYTES) outgoing.destroy(new Error('answer is too large'));
        chunks.push(chunk);
      });
      answer.on('end', () => {
        const empty = answer.statusCode === 204 || answer.statusCode === 304;
        const fields = Object.entries(answer.headers).filter(([, value]) => typeof value === 'string');
        resolve(new Response(empty ? null : Buffer.concat(chunks), { status: answer.statusCode, headers: fields }));
      });
      answer.on('error', reject);
    });
    outgoing.on('timeout', () => outgoing.destroy(new Error('time-out')));
    outgoing.on('error', reject);
    options.signal?.addEventListener('abort', () => outgoing.destroy(new Error('aborted')));
    outgoing.end(options.body);
  });
}
