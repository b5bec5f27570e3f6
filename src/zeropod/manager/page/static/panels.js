// The figures at the top, the two charts and their tables, and what keeps containers awake.

import * as draw from "./draw.js";
import { memory, percentile, reasons, title, wakes } from "./model.js";
import { bytes, count, exactTime, group, milliseconds, sentence } from "./words.js";

const ROWS = 12;
const LATEST = 100;

const byId = (id) => document.getElementById(id);

function write(id, text) {
  const node = byId(id);
  if (node.textContent !== text) node.textContent = text;
}

export function table(name, headings, rows) {
  const made = document.createElement("table");
  made.setAttribute("aria-label", name);
  const lines = [[headings, "th"], ...rows.map((row) => [row, "td"])];
  for (const [cells, kind] of lines) {
    const line = (kind === "th" ? made.createTHead() : made.tBodies[0] ?? made.createTBody()).insertRow();
    for (const text of cells) {
      const cell = document.createElement(kind);
      if (kind === "th") cell.scope = "col";
      cell.textContent = text;
      line.append(cell);
    }
  }
  return made;
}

export function figures(lanes, from, now, windowName) {
  const groups = { asleep: 0, awake: 0, other: 0 };
  for (const lane of lanes) groups[group(lane.state)] += 1;
  write("asleep-figure", lanes.length ? `${groups.asleep.toLocaleString()} of ${lanes.length.toLocaleString()}` : "–");
  const never = lanes.filter((lane) => !lane.maySleep).length;
  const notes = [`${groups.awake.toLocaleString()} awake`];
  if (groups.other) notes.push(`${groups.other.toLocaleString()} neither`);
  if (never) notes.push(`${never.toLocaleString()} never sleep`);
  write("asleep-note", lanes.length ? notes.join(", ") : "");
  for (const part of byId("asleep-share").children) {
    part.style.flexGrow = groups[part.dataset.group];
  }

  const out = lanes.reduce((sum, lane) => sum + lane.out, 0);
  const left = lanes.filter((lane) => group(lane.state) === "asleep").reduce((sum, lane) => sum + lane.left, 0);
  write("memory-figure", lanes.length ? bytes(out) : "–");
  write("memory-note", out ? `${bytes(left)} stay in memory` : "");

  const found = wakes(lanes, from);
  const number = found.reduce((sum, wake) => sum + wake.wakes, 0);
  for (const node of document.querySelectorAll(".window-name")) node.textContent = `in ${windowName}`;
  write("wakes-figure", lanes.length ? number.toLocaleString() : "–");
  const last = found[found.length - 1];
  write("wakes-note", last ? `the last at ${exactTime(last.at)}` : "");

  const took = found.filter((wake) => wake.ms > 0).map((wake) => wake.ms).sort((one, other) => one - other);
  write("speed-figure", took.length ? milliseconds(percentile(took, 0.5)) : "–");
  write("speed-note", took.length ? `median; 95 % within ${milliseconds(percentile(took, 0.95))}` : "");
  return found;
}

export function charts(lanes, found, from, now) {
  const canvas = byId("memory-chart");
  const points = memory(lanes, from, now, 240);
  draw.memory(canvas, points, from, now);
  const known = points.filter((point) => point.out !== null).map((point) => point.out);
  const words = known.length
    ? `Memory given back from ${exactTime(from)} to ${exactTime(now)}: now ${bytes(known[known.length - 1])}, between ${bytes(Math.min(...known))} and ${bytes(Math.max(...known))}.`
    : "Memory given back: nothing is known yet.";
  canvas.setAttribute("aria-label", words);
  if (byId("memory-details").open) {
    const rows = memory(lanes, from, now, ROWS + 1).reverse()
      .map((point) => [exactTime(point.at), point.out === null ? "not known" : bytes(point.out)]);
    byId("memory-details").lastElementChild.replaceChildren(table("Memory given back", ["Time", "Given back"], rows));
  }

  draw.wakes(byId("wakes-chart"), found, from, now);
  byId("wakes-chart").setAttribute("aria-label", `${count(found.length, "wake", "wakes")} since ${exactTime(from)}; each with the milliseconds that it took in the table below.`);
  if (byId("wakes-details").open) {
    const rows = found.slice(-LATEST).reverse()
      .map((wake) => [exactTime(wake.at), nameOf(wake.lane), milliseconds(wake.ms)]);
    byId("wakes-details").lastElementChild.replaceChildren(
      rows.length ? table("Wakes", ["Time", "Container", "Woke in"], rows) : "No wakes in this time.",
    );
  }
}

function nameOf(lane) {
  return [lane.namespace, lane.pod, lane.name].filter(Boolean).join("/");
}

// The list is made anew only if it differs, so that the focus stays where it is.
let shown = "";

export function keeps(lanes, chosen, choose) {
  const found = reasons(lanes).slice(0, 8);
  const key = JSON.stringify([found, chosen]);
  if (key === shown) return;
  shown = key;
  const list = byId("reasons");
  const focused = document.activeElement?.dataset?.reason;
  const most = Math.max(1, ...found.map(([, number]) => number));
  const items = found.map(([reason, number]) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.reason = reason;
    button.setAttribute("aria-pressed", String(reason === chosen));
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.style.width = `${(number / most) * 100}%`;
    const text = document.createElement("span");
    text.className = "text";
    text.textContent = sentence(reason);
    const figure = document.createElement("span");
    figure.className = "number";
    figure.textContent = number.toLocaleString();
    button.append(bar, text, figure);
    button.addEventListener("click", () => choose(reason === chosen ? "" : reason));
    item.append(button);
    return item;
  });
  if (!items.length) {
    const item = document.createElement("li");
    item.className = "none";
    item.textContent = lanes.length ? "Nothing: none is awake." : "Nothing yet.";
    items.push(item);
  }
  list.replaceChildren(...items);
  if (focused) [...list.querySelectorAll("button")].find((each) => each.dataset.reason === focused)?.focus();
}
