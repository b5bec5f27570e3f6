// Numbers, times and states as people read them.

const MEBIBYTE = 1024 * 1024;

export const GROUPS = {
  RUNNING: "awake",
  CHECKPOINTING: "asleep",
  STANDBY: "asleep",
  DOZING: "asleep",
  COLD: "asleep",
  RESTORING: "awake",
};

const STATES = {
  RUNNING: "Awake",
  CHECKPOINTING: "Falling asleep",
  STANDBY: "Asleep",
  DOZING: "Asleep",
  COLD: "Cold",
  RESTORING: "Waking",
  PAUSED: "Paused",
  CREATED: "Created",
  STOPPED: "Stopped",
};

export function group(state) {
  return GROUPS[state] ?? "other";
}

export function stateWord(state) {
  return STATES[state] ?? state;
}

export function bytes(size) {
  if (size >= 1024 * MEBIBYTE) return `${(size / 1024 / MEBIBYTE).toFixed(size >= 10240 * MEBIBYTE ? 0 : 1)} GiB`;
  if (size >= MEBIBYTE) return `${(size / MEBIBYTE).toFixed(size >= 10 * MEBIBYTE ? 0 : 1)} MiB`;
  return size > 0 ? `${Math.max(1, Math.round(size / 1024))} KiB` : "0";
}

export function milliseconds(value) {
  if (!(value > 0)) return "–";
  if (value >= 10000) return `${(value / 1000).toFixed(0)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return value >= 100 ? `${value.toFixed(0)} ms` : `${value.toFixed(value >= 10 ? 0 : 1)} ms`;
}

export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const days = Math.floor(whole / 86400), hours = Math.floor(whole / 3600) % 24, minutes = Math.floor(whole / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

export function shortSpan(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole >= 86400) return `${Math.floor(whole / 86400)} d`;
  if (whole >= 3600) return `${Math.floor(whole / 3600)} h`;
  return whole >= 60 ? `${Math.floor(whole / 60)} min` : `${whole} s`;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const clockSeconds = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

export function time(seconds) {
  return clock.format(seconds * 1000);
}

export function exactTime(seconds) {
  return Date.now() / 1000 - seconds < 43200 ? clockSeconds.format(seconds * 1000) : date.format(seconds * 1000);
}

export function count(number, one, many) {
  return `${number.toLocaleString()} ${number === 1 ? one : many}`;
}

export function sentence(text) {
  return text ? text[0].toUpperCase() + text.slice(1) : "";
}

// Reasons that differ in figures and names alone are one: times, addresses, ids.
export function withoutFigures(text) {
  return text.replace(/[\w./-]*\d[\w.:/-]*/g, "…").replace(/…(?:[ ,]*…)+/g, "…");
}
