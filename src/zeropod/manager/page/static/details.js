// All that is known of one container, in a dialog: what it is now, why, and what has happened to it.

import { title } from "./model.js";
import { table } from "./panels.js";
import { bytes, exactTime, milliseconds, sentence, span, stateWord } from "./words.js";

const byId = (id) => document.getElementById(id);

export class Details {
  constructor(model) {
    this.model = model;
    this.dialog = byId("details");
    this.id = null;
    byId("details-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => (this.id = null));
    // A click on the backdrop is one on the dialog, beside its box.
    this.dialog.addEventListener("click", (event) => {
      const box = this.dialog.getBoundingClientRect();
      if (event.target === this.dialog && event.clientX && event.clientX < box.left) this.dialog.close();
    });
  }

  open(id) {
    this.id = id;
    this.shown = "";
    this.update();
    this.dialog.showModal();
  }

  update() {
    if (this.id === null) return;
    const lane = this.model.lanes.get(this.id), body = byId("details-body");
    if (!lane) {
      const gone = document.createElement("p");
      gone.textContent = "This container does not exist any more.";
      body.replaceChildren(gone);
      return;
    }
    const tick = Math.floor(this.model.now() / 10);
    const key = JSON.stringify([lane, tick]);
    if (key === this.shown) return;
    this.shown = key;
    byId("details-title").textContent = title(lane);
    byId("details-place").textContent = [lane.namespace, lane.name, lane.node].filter(Boolean).join(" · ");
    body.replaceChildren(this.facts(lane), ...this.reasons(lane), ...this.history(lane));
  }

  facts(lane) {
    const now = this.model.now();
    const list = document.createElement("dl");
    const facts = [
      ["State", `${stateWord(lane.state)} for ${span(now - lane.since)}`],
      ["Memory given back", lane.out || lane.left ? `${bytes(lane.out)} (${lane.backend}), ${bytes(lane.left)} left` : "none"],
      ["Sleeps and wakes", `${lane.sleeps.toLocaleString()} and ${lane.wakes.toLocaleString()}`],
      ["Last wake", lane.wokeAt ? `${exactTime(lane.wokeAt)}, in ${milliseconds(lane.wokeMs)}` : "none so far"],
    ];
    if (!lane.maySleep) facts.push(["Sleep", "It never sleeps."]);
    for (const [name, value] of facts) {
      const term = document.createElement("dt"), said = document.createElement("dd");
      term.textContent = name;
      said.textContent = value;
      list.append(term, said);
    }
    return list;
  }

  reasons(lane) {
    const found = lane.reasons.length ? lane.reasons : lane.why ? [["", lane.why, ""]] : [];
    if (!found.length) return [];
    const heading = document.createElement("h3"), list = document.createElement("ul");
    heading.textContent = "Why";
    list.className = "why-list";
    for (const [kind, text, remedy] of found) {
      const item = document.createElement("li");
      const said = document.createElement("p");
      said.textContent = sentence(text);
      if (kind) {
        const tag = document.createElement("span");
        tag.className = "tag";
        tag.textContent = kind;
        said.prepend(tag, " ");
      }
      item.append(said);
      if (remedy) {
        const help = document.createElement("p");
        help.className = "remedy";
        help.textContent = remedy;
        item.append(help);
      }
      list.append(item);
    }
    if (this.model.kind !== "node") return [heading, list];
    const more = document.createElement("p"), command = document.createElement("code");
    more.className = "note";
    command.textContent = `zeropod why ${[lane.namespace, lane.pod, lane.name].filter(Boolean).join("/")}`;
    more.append("In full, on the node: ", command);
    return [heading, list, more];
  }

  history(lane) {
    const heading = document.createElement("h3");
    heading.textContent = "What has happened";
    const now = this.model.now();
    const rows = lane.rows.map((row, index) => [
      exactTime(row.at),
      stateWord(row.state),
      span((lane.rows[index + 1]?.at ?? now) - row.at),
      row.wakes ? milliseconds(row.ms) : "",
      row.out ? bytes(row.out) : "",
    ]);
    return [heading, table("What has happened", ["From", "State", "For", "Woke in", "Memory out"], rows.reverse())];
  }
}
