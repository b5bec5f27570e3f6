// Draws on canvases: the lane of a container, the axis above, and the two charts. Colours are those of the style sheet.

import { bytes, milliseconds, time } from "./words.js";

let colours = {};

export function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["awake", "standby", "cold", "moving", "wake", "other", "grid", "muted", "surface", "unknown"]) {
    colours[name] = style.getPropertyValue(`--${name}`).trim();
  }
  colours.font = `11px ${getComputedStyle(document.body).fontFamily}`;
}

// A canvas's context in CSS pixels, sharp on every screen; null while it has no size.
function prepare(canvas) {
  const width = canvas.clientWidth, height = canvas.clientHeight, ratio = window.devicePixelRatio || 1;
  if (!width || !height) return null;
  const wide = Math.round(width * ratio), high = Math.round(height * ratio);
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = colours.font;
  return { context, width, height };
}

const SHAPES = {
  RUNNING: ["awake", 1],
  RESTORING: ["moving", 1],
  CHECKPOINTING: ["moving", 0.6],
  STANDBY: ["standby", 0.3],
  COLD: ["cold", 0.12],
  PAUSED: ["other", 0.3],
  CREATED: ["other", 0.3],
  OTHER: ["other", 0.3],
};

export function lane(canvas, rows, from, to) {
  const made = prepare(canvas);
  if (!made) return;
  const { context, width, height } = made;
  const x = (at) => ((at - from) / (to - from)) * width;
  const known = rows.length ? Math.max(0, x(rows[0].at)) : width;
  context.strokeStyle = colours.unknown;
  context.setLineDash([2, 3]);
  context.beginPath();
  context.moveTo(0, height - 1.5);
  context.lineTo(Math.min(width, known), height - 1.5);
  context.stroke();
  context.setLineDash([]);
  rows.forEach((row, index) => {
    const end = index + 1 < rows.length ? rows[index + 1].at : to;
    if (end < from || !SHAPES[row.state]) return;
    const [colour, share] = SHAPES[row.state];
    const left = Math.max(0, x(row.at)), right = Math.min(width, x(end));
    const high = Math.max(2, Math.round(share * height));
    context.fillStyle = colours[colour];
    context.fillRect(left, height - high, Math.max(right - left, share === 1 ? 1.5 : 0.5), high);
  });
  context.fillStyle = colours.wake;
  for (const row of rows) if (row.wakes && row.at >= from) context.fillRect(x(row.at) - 0.75, 0, 1.5, height);
}

const STEPS = [60, 120, 300, 600, 900, 1800];

function ticks(from, to, most) {
  const step = STEPS.find((each) => (to - from) / each <= most) ?? 3600;
  const offset = -new Date(to * 1000).getTimezoneOffset() * 60;
  const found = [];
  for (let at = Math.ceil((from + offset) / step) * step - offset; at <= to; at += step) found.push(at);
  return found;
}

export function axis(canvas, from, to) {
  const made = prepare(canvas);
  if (!made) return;
  const { context, width, height } = made;
  context.textBaseline = "middle";
  for (const at of ticks(from, to, Math.max(2, Math.floor(width / 70)))) {
    const x = Math.round(((at - from) / (to - from)) * width) + 0.5;
    context.fillStyle = colours.grid;
    context.fillRect(x - 0.5, height - 5, 1, 5);
    const text = time(at), half = context.measureText(text).width / 2;
    context.fillStyle = colours.muted;
    if (x + half <= width && x - half >= 0) context.fillText(text, x - half, height / 2 + 0.5);
  }
}

const LEFT = 56, BOTTOM = 18, TOP = 8, RIGHT = 8;

function frame(made, from, to, levels, write) {
  const { context, width, height } = made;
  const x = (at) => LEFT + ((at - from) / (to - from)) * (width - LEFT - RIGHT);
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const [value, y] of levels) {
    context.fillStyle = colours.grid;
    context.fillRect(LEFT, Math.round(y), width - LEFT - RIGHT, 1);
    context.fillStyle = colours.muted;
    context.fillText(write(value), LEFT - 8, y);
  }
  context.textAlign = "center";
  for (const at of ticks(from, to, Math.max(2, Math.floor((width - LEFT) / 70)))) {
    const half = context.measureText(time(at)).width / 2;
    if (x(at) + half <= width && x(at) - half >= LEFT) context.fillText(time(at), x(at), height - BOTTOM / 2 + 1);
  }
  context.textAlign = "left";
  return x;
}

export function memory(canvas, points, from, to) {
  const made = prepare(canvas);
  if (!made) return;
  const { context, height } = made;
  const highest = Math.max(1024 * 1024, ...points.map((point) => point.out ?? 0));
  const top = roundUp(highest);
  const y = (value) => height - BOTTOM - (value / top) * (height - BOTTOM - TOP);
  const x = frame(made, from, to, [0, top / 2, top].map((value) => [value, y(value)]), bytes);
  const shown = points.filter((point) => point.out !== null);
  if (!shown.length) return;
  const line = () => {
    context.beginPath();
    shown.forEach((point, index) => {
      if (index) context.lineTo(x(point.at), y(shown[index - 1].out));
      context.lineTo(x(point.at), y(point.out));
    });
  };
  line();
  context.lineTo(x(shown[shown.length - 1].at), y(0));
  context.lineTo(x(shown[0].at), y(0));
  context.globalAlpha = 0.18;
  context.fillStyle = colours.standby;
  context.fill();
  context.globalAlpha = 1;
  line();
  context.strokeStyle = colours.standby;
  context.lineWidth = 2;
  context.lineJoin = "round";
  context.stroke();
}

// The next of 1, 2, 3, 4, 6, 8, 12 … times a power of 1024: halves of it are short to write.
function roundUp(size) {
  let unit = 1024 * 1024;
  while (size > unit * 1024) unit *= 1024;
  let value = unit;
  while (value < size) value *= 2;
  return value > 2 * unit && value * 0.75 >= size ? value * 0.75 : value;
}

export function wakes(canvas, found, from, to) {
  const made = prepare(canvas);
  if (!made) return;
  const { context, height } = made;
  const most = Math.max(10, ...found.map((wake) => wake.ms));
  const low = Math.log10(0.5), high = Math.log10(most * 1.4);
  const y = (ms) => {
    const share = (Math.log10(Math.max(ms, 0.5)) - low) / (high - low);
    return height - BOTTOM - share * (height - BOTTOM - TOP);
  };
  const levels = [1, 10, 100, 1000, 10000, 60000].filter((each) => each <= most * 1.4).map((each) => [each, y(each)]);
  const x = frame(made, from, to, levels, (value) => milliseconds(value).replace(".0", ""));
  context.fillStyle = colours.wake;
  context.globalAlpha = found.length > 200 ? 0.5 : 0.8;
  const radius = found.length > 400 ? 2 : 3;
  for (const wake of found) {
    if (!(wake.ms > 0)) continue;
    context.beginPath();
    context.arc(x(wake.at), y(wake.ms), radius, 0, 7);
    context.fill();
  }
  context.globalAlpha = 1;
}
