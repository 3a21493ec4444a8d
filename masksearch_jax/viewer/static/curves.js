// Every number of the training logs over the steps of its stages, one chart each. Stages follow one another along x, each
// as wide as the others: a few iterations of DAPO would vanish beside thousands of steps of SFT.
import { go, read } from "./address.js";
import { ask } from "./backend.js";
import { h, number, show, svg, tick } from "./dom.js";

const WIDTH = 320, HEIGHT = 150, LEFT = 46, RIGHT = 6, TOP = 8, BOTTOM = 20;
const FIRST = ["loss", "reward", "eval", "alarm"];

export async function curvesView(main, given) {
  const stages = await ask("curves");
  if (read().view !== "curves") return;
  const problems = stages.filter((stage) => stage.problem).map((stage) => h("p", { className: "problem" }, stage.problem));
  const known = stages.filter((stage) => stage.series);
  const metrics = [...new Set(known.flatMap((stage) => Object.keys(stage.series)))];
  const wanted = (given.q || "").toLowerCase();
  const groups = new Map(), constants = [];
  for (const name of metrics.filter((one) => one.toLowerCase().includes(wanted))) {
    const values = known.flatMap((stage) => (stage.series[name] || []).map(([, value]) => value));
    if (Math.min(...values) === Math.max(...values)) {
      constants.push([name, values[0]]);
      continue;
    }
    const group = named(name).group || (name.startsWith("reward") ? "reward" : name.startsWith("loss") ? "loss" : "others");
    groups.set(group, [...(groups.get(group) || []), name]);
  }
  const rank = (group) => (FIRST.includes(group) ? FIRST.indexOf(group) : FIRST.length);
  const ordered = [...groups].sort((one, two) => rank(one[0]) - rank(two[0]) || (one[0] < two[0] ? -1 : 1));
  let waiting = 0;
  const filter = h("input", { type: "search", name: "q", placeholder: "names, such as reward   ( / )", "aria-label": "filter the curves", value: given.q || "",
    oninput: (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => go("curves", { q: event.target.value.trim() }, true), 150);
    } });
  const focused = document.activeElement?.name === "q";
  const runs = [...new Set(known.map((stage) => stage.run))];
  show(main, h("section", { className: "wide" }, h("div", { className: "only-filter" }, filter), problems,
    runs.length > 1 ? h("p", { className: "note" }, "Blue and solid: the run. Orange and dashed: the run it is compared with.") : null,
    known.length ? null : h("p", { className: "note" }, "No stage has written a metrics.jsonl yet."),
    ordered.map(([group, members]) => [h("h2", {}, group), h("div", { className: "charts" }, members.flatMap((name) => together(name, known).map((stages) => chart(name, stages))))]),
    constants.length ? [h("h2", {}, "constant"), h("p", { className: "constants" }, constants.map(([name, value]) => h("span", {}, `${name} = ${tick(value)}`)))] : null));
  if (focused) {
    const again = main.querySelector("input[name=q]");
    again.focus();
    again.setSelectionRange(again.value.length, again.value.length);
  }
}

// Returns the group of a metric, "" for none, and its name within the group. What follows the last slash of "tokens/s" is a
// part of the unit.
function named(name) {
  const cut = name.endsWith("/s") ? name.indexOf(" ") : name.indexOf("/");
  return { group: name.slice(0, Math.max(cut, 0)), label: name.slice(cut + 1) };
}

// Returns the stages of a metric by the chart that they share: one chart for all, but one for each name of a stage where a
// stage would flatten the curve of another, as the loss of SFT does with that of DAPO.
const FLATTENED = 8;
function together(name, stages) {
  const own = stages.filter((one) => one.series[name]), parts = new Map();
  for (const stage of own) parts.set(stage.name, [...(parts.get(stage.name) || []), stage]);
  const ranges = [...parts.values()].map((part) => {
    const values = part.flatMap((stage) => stage.series[name].map(([, value]) => value));
    return Math.max(...values) - Math.min(...values);
  });
  const moving = ranges.filter((range) => range > 0);
  return moving.length === ranges.length && Math.max(...ranges) > FLATTENED * Math.min(...ranges) ? [...parts.values()] : [own];
}

// Returns the stages that have the metric, each with the place on the x axis where it starts: 0, 1, ..
function placed(name, stages) {
  const found = [], starts = new Map();
  const own = stages.filter((one) => one.series[name]);
  for (const stage of own) {
    if (!starts.has(stage.name)) starts.set(stage.name, starts.size);
    const width = Math.max(...own.filter((one) => one.name === stage.name).map((one) => one.last)) || 1;
    found.push({ ...stage, start: starts.get(stage.name), width });
  }
  return { found, end: starts.size };
}

function chart(name, stages) {
  const { found, end } = placed(name, stages);
  const values = found.flatMap((stage) => stage.series[name].map(([, value]) => value));
  const least = Math.min(...values), most = Math.max(...values), range = most - least;
  let low = least, high = most;
  const pad = range * 0.06;
  low = low >= 0 && low - pad < 0 ? 0 : low - pad;
  high += pad;
  const x = (step) => LEFT + (step / end) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": name });
  for (const value of [least, (least + most) / 2, most]) {
    drawing.append(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
      svg("text", { x: LEFT - 4, y: y(value) + 3, class: "tick end" }, tick(value, range)));
  }
  const labelled = new Set();
  for (const stage of found) {
    if (!labelled.has(stage.name)) {
      labelled.add(stage.name);
      drawing.append(svg("line", { x1: x(stage.start), x2: x(stage.start), y1: TOP, y2: HEIGHT - BOTTOM + 4, class: "stage" }),
        svg("text", { x: x(stage.start) + 3, y: HEIGHT - 5, class: "tick" }, `${stage.name}, ${number(stage.width)} ${stage.unit}s`));
    }
    const points = stage.series[name].map(([step, value]) => `${x(stage.start + step / stage.width).toFixed(1)},${y(value).toFixed(1)}`);
    const kind = `curve run${stage.run}`;
    drawing.append(points.length > 1 ? svg("polyline", { points: points.join(" "), class: kind })
      : svg("circle", { cx: points[0].split(",")[0], cy: points[0].split(",")[1], r: 2.5, class: `dot run${stage.run}` }));
  }
  const last = found[found.length - 1].series[name].at(-1);
  const caption = h("span", { className: "note" });
  const rest = () => (caption.textContent = `last ${tick(last[1], range)}`);
  rest();
  const cursor = svg("line", { y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor", visibility: "hidden" });
  drawing.append(cursor);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const place = (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT) * end;
    const near = nearest(found, name, place, range);
    cursor.setAttribute("x1", x(near.at));
    cursor.setAttribute("x2", x(near.at));
    cursor.setAttribute("visibility", "visible");
    caption.textContent = near.text;
  });
  drawing.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    rest();
  });
  return h("figure", {}, h("figcaption", {}, named(name).label, " ", caption), drawing);
}

function nearest(found, name, place, range) {
  let best = null;
  for (const stage of found) {
    for (const [own, value] of stage.series[name]) {
      const at = stage.start + own / stage.width, far = Math.abs(at - place);
      if (!best || far < best.far) best = { far, at, stage, own, texts: [] };
      if (best.at === at && best.far === far) best.texts.push(tick(value, range));
    }
  }
  return { at: best.at, text: `${best.stage.name} ${best.stage.unit} ${number(best.own)}: ${best.texts.join(" | ")}` };
}

export const curvesKeys = { Escape: () => go("curves", {}) };
