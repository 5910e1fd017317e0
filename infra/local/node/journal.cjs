/**
 * Makes Azurite keep what it has answered for, even when it is killed.
 *
 * Azurite holds its metadata (containers, blobs, messages, extents) in memory and writes the whole of it to a file every five seconds; what
 * a client was told is stored in between is gone after a SIGKILL. Loaded with `node --require`, this script appends each change to a journal
 * beside the file before the answer goes out, and replays the journal when the file is read. Each full write begins a new journal.
 *
 * A change is a line of JSON: [collection, "put", document] or [collection, "delete", id]. Replaying lines that the file already covers
 * changes nothing, for they are applied by id and in order. Nothing is forced to disk: this is for killed processes, not for power cuts.
 */
'use strict';

const fs = require('node:fs');
const Loki = require('lokijs');

const journals = new WeakMap();

class Journal {
  constructor(path) {
    this.path = path;
    this.previous = `${path}.previous`;
    this.descriptor = null;
  }

  append(collection, operation, value) {
    if (this.descriptor === null) this.descriptor = fs.openSync(this.path, 'a', 0o600);
    fs.writeSync(this.descriptor, `${JSON.stringify([collection, operation, value])}\n`);
  }

  /** Begin a new journal; the one so far is kept until the full write is done. */
  rotate() {
    if (this.descriptor !== null) fs.closeSync(this.descriptor);
    this.descriptor = null;
    if (!fs.existsSync(this.path)) return;
    // a write that failed left the previous journal behind: it is still needed
    if (fs.existsSync(this.previous)) {
      fs.appendFileSync(this.previous, fs.readFileSync(this.path));
      fs.unlinkSync(this.path);
    } else {
      fs.renameSync(this.path, this.previous);
    }
  }

  written() {
    fs.rmSync(this.previous, { force: true });
  }

  * lines() {
    for (const path of [this.previous, this.path]) {
      if (!fs.existsSync(path)) continue;
      for (const line of fs.readFileSync(path, 'utf8').split('\n')) {
        try {
          if (line) yield JSON.parse(line);
        } catch {
          // the last line of a killed process may be cut off: its change was never answered for
        }
      }
    }
  }

  replay(database) {
    const changes = new Map();
    for (const [collection, operation, value] of this.lines()) {
      if (!changes.has(collection)) changes.set(collection, new Map());
      changes.get(collection).set(operation === 'put' ? value.$loki : value, operation === 'put' ? value : null);
    }
    for (const [name, documents] of changes) {
      const collection = database.getCollection(name);
      if (collection !== null) applyTo(collection, documents);
    }
  }
}

function applyTo(collection, documents) {
  const merged = new Map(collection.data.map((document) => [document.$loki, document]));
  for (const [id, document] of documents) {
    if (document === null) merged.delete(id);
    else merged.set(id, document);
    collection.maxId = Math.max(collection.maxId, id);
  }
  collection.data = [...merged.values()].sort((one, other) => one.$loki - other.$loki);
  collection.ensureId();
  collection.uniqueNames.forEach((field) => collection.ensureUniqueIndex(field));
  collection.ensureAllIndexes(true);
  collection.dirty = true;
}

function journalOf(database) {
  if (!journals.has(database)) journals.set(database, new Journal(`${database.filename}.journal`));
  return journals.get(database);
}

const { addCollection, loadDatabase, saveDatabaseInternal } = Loki.prototype;

Loki.prototype.addCollection = function addJournaledCollection(name, options) {
  const known = this.getCollection(name) !== null;
  const collection = addCollection.call(this, name, options);
  if (known || this.persistenceMethod !== 'fs') return collection;
  const journal = journalOf(this);
  collection.on('insert', (documents) => {
    for (const document of [documents].flat()) journal.append(name, 'put', document);
  });
  collection.on('update', (document) => journal.append(name, 'put', document));
  collection.on('delete', (document) => journal.append(name, 'delete', document.$loki));
  // removing many at once may tell no listener
  const { removeBatchByPositions } = collection;
  collection.removeBatchByPositions = function removeJournaled(positions) {
    for (const position of positions) journal.append(name, 'delete', this.data[position].$loki);
    return removeBatchByPositions.call(this, positions);
  };
  return collection;
};

Loki.prototype.loadDatabase = function loadJournaled(options, callback) {
  return loadDatabase.call(this, options, (error) => {
    if (!error) journalOf(this).replay(this);
    callback?.(error);
  });
};

Loki.prototype.saveDatabaseInternal = function saveJournaled(callback) {
  const journal = journalOf(this);
  journal.rotate();
  return saveDatabaseInternal.call(this, (error) => {
    if (!error) journal.written();
    if (callback) callback(error);
    else if (error) throw error;
  });
};
