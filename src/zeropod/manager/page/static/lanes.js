// The table of containers: a row for each, drawn when it is in sight, and changed only where something has changed.

import * as draw from "./draw.js";
import { matches, order, title } from "./model.js";
import { bytes, count, exactTime, group, milliseconds, sentence, shortSpan, span, stateWord } from "./words.js";

const MOST = 400;

function element(name, kind, role) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (role) made.setAttribute("role", role);
  return made;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

class Row {
  constructor(lane, open, sight) {
    this.lane = lane;
    this.inSight = false;
    this.top = element("tr", "", "row");
    this.top.dataset.id = lane.id;
    this.name = element("button", "name");
    this.name.type = "button";
    this.name.setAttribute("aria-haspopup", "dialog");
    this.place = element("span", "place");
    const head = element("th", "c-name", "rowheader");
    head.scope = "row";
    head.append(this.name, this.place);
    this.state = element("span", "state");
    this.since = element("span", "since");
    this.canvas = element("canvas");
    this.canvas.setAttribute("aria-hidden", "true");
    this.summary = element("span", "unseen");
    const cells = [["c-state", this.state, this.since], ["c-lane", this.canvas, this.summary]];
    for (const kind of ["memory", "wakes", "took"]) {
      this[kind] = element("span");
      cells.push([`c-number c-${kind}`, this[kind]]);
    }
    this.why = element("span", "why");
    cells.push(["c-why", this.why]);
    this.top.append(head);
    for (const [kind, ...inside] of cells) {
      const cell = element("td", kind, "cell");
      cell.append(...inside);
      this.top.append(cell);
    }
    this.name.addEventListener("click", () => open(this.lane.id));
    sight.observe(this.top);
  }

  // Writes what does not change by time alone.
  change(lane, several) {
    this.lane = lane;
    this.top.dataset.group = group(lane.state);
    this.state.dataset.state = lane.state;
    write(this.name, title(lane));
    const place = [lane.pod && lane.name !== lane.pod ? lane.name : "", several ? lane.namespace : "", lane.node];
    write(this.place, place.filter(Boolean).join(" · "));
    this.name.title = `${lane.namespace}/${title(lane)}`;
    write(this.state, stateWord(lane.state));
    write(this.memory, lane.out ? bytes(lane.out) : "–");
    write(this.wakes, lane.wakes.toLocaleString());
    write(this.took, milliseconds(lane.wokeMs));
    const awake = group(lane.state) === "awake";
    write(this.why, sentence(lane.why) || (awake && lane.maySleep ? "In use, or not yet idle for long enough" : ""));
    this.why.title = lane.why;
  }

  // Writes and draws what changes as time goes on.
  tick(now, from) {
    if (!this.inSight) return;
    write(this.since, shortSpan(now - this.lane.since));
    const woke = this.lane.rows.filter((row) => row.at >= from).reduce((sum, row) => sum + row.wakes, 0);
    write(this.summary, `${woke ? count(woke, "wake", "wakes") : "no wake"} in the last ${span(now - from)}`);
    draw.lane(this.canvas, this.lane.rows, from, now);
  }
}

export class Lanes {
  constructor(model, open) {
    this.model = model;
    this.rows = new Map();
    this.most = MOST;
    this.body = document.getElementById("rows");
    this.open = open;
    this.sight = new IntersectionObserver((entries) => this.see(entries), { rootMargin: "200px" });
    document.getElementById("show-more").addEventListener("click", () => {
      this.most += MOST;
      this.shown = null;
      this.arrange(this.filter);
    });
    this.hint = document.getElementById("hint");
    this.body.addEventListener("pointermove", (event) => this.point(event));
    this.body.addEventListener("pointerleave", () => (this.hint.hidden = true));
  }

  see(entries) {
    for (const entry of entries) {
      const row = this.rows.get(Number(entry.target.dataset.id));
      if (!row) continue;
      row.inSight = entry.isIntersecting;
      if (row.inSight && this.from) row.tick(this.model.now(), this.from);
    }
  }

  // Makes rows of the containers that are to be shown, in order; returns those containers.
  arrange(filter, changed = new Set()) {
    this.filter = filter;
    const found = order([...this.model.lanes.values()].filter((lane) => matches(lane, filter)), filter.order);
    const several = !filter.namespace && this.model.namespaces().length > 1;
    const wanted = found.slice(0, this.most);
    for (const lane of wanted) {
      let row = this.rows.get(lane.id);
      const isNew = !row;
      if (isNew) this.rows.set(lane.id, (row = new Row(lane, this.open, this.sight)));
      if (isNew || changed.has(lane.id) || several !== this.several) row.change(lane, several);
    }
    this.several = several;
    const ids = wanted.map((lane) => lane.id).join();
    if (ids !== this.shown) {
      this.shown = ids;
      this.place(wanted);
    }
    const hidden = found.length - wanted.length;
    document.getElementById("more").hidden = !hidden;
    write(document.getElementById("show-more"), `Show more of the ${count(hidden, "container", "containers")} that are left`);
    return found;
  }

  // Puts rows into their places without taking the focus from one that stays.
  place(wanted) {
    const kept = new Set(wanted.map((lane) => lane.id));
    for (const [id, row] of this.rows) {
      if (kept.has(id)) continue;
      this.sight.unobserve(row.top);
      row.top.remove();
      this.rows.delete(id);
    }
    let next = this.body.firstElementChild;
    for (const lane of wanted) {
      const { top } = this.rows.get(lane.id);
      if (top === next) next = next.nextElementSibling;
      else this.body.insertBefore(top, next);
    }
  }

  tick(now, from) {
    this.from = from;
    draw.axis(document.getElementById("axis"), from, now);
    for (const row of this.rows.values()) row.tick(now, from);
  }

  // Says what a lane was at the place under the pointer; the same is in a container's details.
  point(event) {
    const canvas = event.target.closest("canvas");
    const row = canvas && this.rows.get(Number(canvas.closest("tr").dataset.id));
    if (!row || !this.from) {
      this.hint.hidden = true;
      return;
    }
    const box = canvas.getBoundingClientRect(), now = this.model.now();
    const at = this.from + ((event.clientX - box.left) / box.width) * (now - this.from);
    const { rows } = row.lane;
    let index = rows.length - 1;
    while (index >= 0 && rows[index].at > at) index -= 1;
    // A wake is thin: the nearest within a few pixels is meant.
    const near = (4 / box.width) * (now - this.from);
    const wake = rows.find((each) => each.wakes && Math.abs(each.at - at) < near);
    const here = wake ?? rows[index];
    if (!here) write(this.hint, `${exactTime(at)} · not known`);
    else {
      const after = rows[rows.indexOf(here) + 1];
      const length = span((after ? after.at : now) - here.at);
      const took = here.wakes && here.ms ? ` · woke in ${milliseconds(here.ms)}` : "";
      write(this.hint, `${stateWord(here.state)} from ${exactTime(here.at)}, ${length}${took}`);
    }
    this.hint.hidden = false;
    const left = Math.min(event.clientX + 12, window.innerWidth - this.hint.offsetWidth - 8);
    this.hint.style.transform = `translate(${Math.max(8, left)}px, ${box.top - this.hint.offsetHeight - 6}px)`;
  }
}
