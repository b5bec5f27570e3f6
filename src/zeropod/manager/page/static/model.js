// What is known of the containers: the server's documents put together, and what follows from them. Without a page.

import { group, withoutFigures } from "./words.js";

export const KEPT = 3600;

export class Model {
  constructor() {
    this.run = "";
    this.sequence = 0;
    this.skew = 0;
    this.stopped = 0;
    this.kind = "";
    this.name = "";
    this.problem = "";
    this.lanes = new Map();
  }

  query() {
    return this.run ? `run=${this.run}&after=${this.sequence}` : "";
  }

  // The server's time: those of the rows are by its clock, not by the reader's. It stops while nothing is heard.
  now() {
    return this.stopped || Date.now() / 1000 + this.skew;
  }

  // Takes a document in; returns the ids of the containers that it has changed.
  apply(document) {
    const changed = new Set();
    if (document.full) {
      for (const id of this.lanes.keys()) changed.add(id);
      this.lanes.clear();
    }
    for (const id of document.gone) if (this.lanes.delete(id)) changed.add(id);
    for (const container of document.containers) {
      const known = this.lanes.get(container.id);
      const rows = known ? known.rows : [];
      for (const [at, state, ms, wakes, out] of container.rows) {
        while (rows.length && rows[rows.length - 1].at >= at) rows.pop();
        rows.push({ at, state: document.states[state], ms, wakes, out });
      }
      this.lanes.set(container.id, { ...container, rows });
      changed.add(container.id);
    }
    this.run = document.run;
    this.sequence = document.sequence;
    this.skew = document.now - Date.now() / 1000;
    this.kind = document.kind;
    this.name = document.name;
    this.problem = document.problem;
    this.forget(document.now - KEPT);
    return changed;
  }

  forget(before) {
    for (const { rows } of this.lanes.values()) {
      let old = 0;
      while (old + 1 < rows.length && rows[old + 1].at < before) old += 1;
      if (old) rows.splice(0, old);
    }
  }

  namespaces() {
    return [...new Set([...this.lanes.values()].map((lane) => lane.namespace))].sort();
  }
}

export function title(lane) {
  return lane.pod || lane.name;
}

export function matches(lane, filter) {
  if (filter.namespace && lane.namespace !== filter.namespace) return false;
  if (filter.group && group(lane.state) !== filter.group) return false;
  if (filter.reason && reasonOf(lane) !== filter.reason) return false;
  if (!filter.text) return true;
  const all = `${lane.namespace}/${lane.pod}/${lane.name} ${lane.node} ${lane.why}`.toLowerCase();
  return filter.text.toLowerCase().split(/\s+/).every((word) => all.includes(word));
}

export function order(lanes, by) {
  const name = (one, other) =>
    one.namespace.localeCompare(other.namespace) || title(one).localeCompare(title(other)) ||
    one.name.localeCompare(other.name) || one.id - other.id;
  const first = {
    name: () => 0,
    change: (one, other) => other.since - one.since,
    memory: (one, other) => other.out - one.out,
    wakes: (one, other) => other.wakes - one.wakes,
  }[by];
  return lanes.sort((one, other) => first(one, other) || name(one, other));
}

// Why a container is awake, in words that are the same for others that are awake for the same.
export function reasonOf(lane) {
  if (group(lane.state) !== "awake") return "";
  return withoutFigures(lane.why) || "in use, or not yet idle for long enough";
}

export function reasons(lanes) {
  const counts = new Map();
  for (const lane of lanes) {
    const reason = reasonOf(lane);
    if (reason) counts.set(reason, (counts.get(reason) ?? 0) + 1);
  }
  return [...counts].sort((one, other) => other[1] - one[1] || one[0].localeCompare(other[0]));
}

// Every wake since a time that led to a row: when, how long it took, how many it stands for, and whose.
export function wakes(lanes, from) {
  const found = [];
  for (const lane of lanes) {
    for (const row of lane.rows) if (row.wakes && row.at >= from) found.push({ ...row, lane });
  }
  return found.sort((one, other) => one.at - other.at);
}

// How much memory was out at so many times from one to another; null before anything is known.
export function memory(lanes, from, to, points) {
  const changes = [];
  let known = Infinity;
  for (const { rows } of lanes) {
    let before = 0;
    for (const row of rows) {
      if (row.out !== before) changes.push([row.at, row.out - before]);
      before = row.out;
    }
    if (rows.length) known = Math.min(known, rows[0].at);
  }
  changes.sort((one, other) => one[0] - other[0]);
  const made = [];
  let sum = 0, next = 0;
  for (let point = 0; point < points; point += 1) {
    const at = from + ((to - from) * point) / (points - 1);
    while (next < changes.length && changes[next][0] <= at) sum += changes[next++][1];
    made.push({ at, out: at < known ? null : Math.max(0, sum) });
  }
  return made;
}

export function percentile(sorted, share) {
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] : 0;
}
