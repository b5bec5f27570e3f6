// Asks the server what is new, once a second while the page is in sight, and has everything shown.

import { Details } from "./details.js";
import { readColours } from "./draw.js";
import { Lanes } from "./lanes.js";
import { Model, matches } from "./model.js";
import { charts, figures, keeps } from "./panels.js";
import { count, exactTime } from "./words.js";

const INTERVAL = 1000;
const PATIENCE = 5000;
const PAUSES = [1000, 2000, 4000, 8000, 15000];

const byId = (id) => document.getElementById(id);
const model = new Model();
const details = new Details(model);
const lanes = new Lanes(model, (id) => details.open(id));
const filter = { text: "", namespace: "", group: "", reason: "", order: "name" };
let windowSeconds = 900;
let failures = 0;
let heard = 0;
let counted = "";
let timer = 0;
let asking = false;

async function ask() {
  timer = 0;
  if (document.hidden || asking) return;
  asking = true;
  let pause = INTERVAL;
  try {
    const answer = await fetch(`data.json?${model.query()}`, { signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
    const changed = model.apply(await answer.json());
    if (failures) announce("Connected again.");
    failures = 0;
    model.stopped = 0;
    heard = Date.now() / 1000;
    show(changed);
  } catch (error) {
    pause = PAUSES[Math.min(failures, PAUSES.length - 1)];
    failures += 1;
    model.stopped ||= model.now();
    if (failures === 1) announce("The connection is lost. What is shown is not current.");
    console.warn(`zeropod: ${error.message}; asks again in ${pause} ms`);
  }
  asking = false;
  connection(pause);
  timer = setTimeout(ask, pause);
}

function announce(text) {
  byId("announcement").textContent = text;
}

function connection(pause) {
  const node = byId("connection");
  node.dataset.state = failures ? "lost" : "live";
  const since = heard ? `, last heard of at ${exactTime(heard)}` : "";
  byId("connection-text").textContent = failures
    ? `${model.kind === "cluster" ? "kubectl zeropod dashboard" : "The manager"} does not answer${since}. Asks again in ${pause / 1000} s.`
    : "Live";
  document.body.classList.toggle("stale", failures > 0);
}

function show(changed = new Set()) {
  const scope = { node: "Node", cluster: "Cluster" }[model.kind] ?? "";
  byId("scope").textContent = `${scope} ${model.name}`.trim();
  document.title = `zeropod · ${`${scope} ${model.name}`.trim()}`;
  byId("problem").hidden = !model.problem;
  byId("problem").textContent = model.problem;
  namespaces();
  const found = lanes.arrange(filter, changed);
  empty(found.length);
  const all = model.lanes.size;
  byId("count").textContent = found.length === all ? count(all, "container", "containers") : `${found.length.toLocaleString()} of ${all.toLocaleString()} containers`;
  const now = model.now(), from = now - windowSeconds;
  // A state or a reason is chosen among what there is: figures and reasons are of all that the other filters leave.
  const broad = [...model.lanes.values()].filter((lane) => matches(lane, { ...filter, group: "", reason: "" }));
  const name = document.querySelector("#window input:checked + span").textContent;
  const wakes = figures(broad, from, now, name);
  charts(broad, wakes, from, now);
  keeps(broad, filter.reason, (reason) => {
    filter.reason = reason;
    refilter();
  });
  lanes.tick(now, from);
  details.update();
}

function empty(number) {
  const node = byId("empty");
  node.hidden = number > 0;
  if (number > 0) return;
  if (model.lanes.size) node.textContent = "No container is as the filters say.";
  else if (model.kind === "cluster") node.textContent = "No pods of zeropod here. Give a pod runtimeClassName: zeropod, and it appears.";
  else node.textContent = "No containers of zeropod on this node. As soon as one is started with its runtime, it appears.";
}

function namespaces() {
  const node = byId("namespace"), wanted = model.namespaces();
  const known = [...node.options].slice(1).map((option) => option.value);
  if (wanted.join() === known.join()) return;
  const options = wanted.map((name) => new Option(name, name));
  node.replaceChildren(node.options[0], ...options);
  if (!wanted.includes(filter.namespace)) filter.namespace = "";
  node.value = filter.namespace;
}

function refilter() {
  show();
  const text = byId("count").textContent;
  if (text !== counted) announce(text);
  counted = text;
}

function listen() {
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("input", () => {
    filter.text = byId("text").value.trim();
    filter.namespace = byId("namespace").value;
    filter.group = document.querySelector("#group input:checked").value;
    filter.order = byId("order").value;
    windowSeconds = Number(document.querySelector("#window input:checked").value);
    if (filter.group && filter.group !== "awake") filter.reason = "";
    refilter();
  });
  for (const id of ["memory-details", "wakes-details"]) byId(id).addEventListener("toggle", () => show());
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !timer) ask();
  });
  window.addEventListener("resize", () => show());
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColours();
    show();
  });
}

readColours();
listen();
ask();
