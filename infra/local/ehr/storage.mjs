/** Storage of the OpenID engine, in memory: sign-ins and tokens of a sandbox need not outlive it. */

const GRANTABLE = new Set(['AccessToken', 'AuthorizationCode', 'RefreshToken']);

/** Entries with an end of life, by kind and id. */
class Store {
  #entries = new Map();

  get(key) {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    if (entry.ends !== undefined && entry.ends < Date.now()) {
      this.#entries.delete(key);
      return undefined;
    }
    return entry.value;
  }

  set(key, value, seconds) {
    this.#entries.set(key, { value, ends: seconds ? Date.now() + seconds * 1000 : undefined });
  }

  delete(key) {
    this.#entries.delete(key);
  }

  purge() {
    for (const key of this.#entries.keys()) this.get(key);
  }

  /** Delete what a test looks for. */
  deleteWhere(matches) {
    for (const [key, { value }] of this.#entries) if (matches(key, value)) this.#entries.delete(key);
  }
}

export const store = new Store();
setInterval(() => store.purge(), 60_000).unref();

/** Adapter as oidc-provider wants one, for each of its models. */
export class Storage {
  constructor(model) {
    this.model = model;
  }

  #key(id) {
    return `${this.model}:${id}`;
  }

  async upsert(id, payload, seconds) {
    if (this.model === 'Session') store.set(`SessionUid:${payload.uid}`, id, seconds);
    store.set(this.#key(id), payload, seconds);
  }

  async find(id) {
    return store.get(this.#key(id));
  }

  async findByUid(uid) {
    return this.find(store.get(`SessionUid:${uid}`));
  }

  async findByUserCode() {
    return undefined;
  }

  async consume(id) {
    const payload = store.get(this.#key(id));
    if (payload) payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    store.delete(this.#key(id));
  }

  async revokeByGrantId(grantId) {
    store.deleteWhere((key, value) => GRANTABLE.has(key.split(':')[0]) && value?.grantId === grantId);
  }
}
