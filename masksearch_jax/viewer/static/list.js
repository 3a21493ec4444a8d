// The list of episodes with its search, filters and order, and the opened one beside it.
import { go, nameOf, parseName, read } from "./address.js";
import { ask } from "./backend.js";
import { h, number, score, select, show, signed } from "./dom.js";
import { episodeView, grade, groupLink, taskLabel, titleOf } from "./episode.js";

const PAGE = 50;
const SORTS = [["newest", "run order"], ["score", "score"], ["reward", "reward"], ["advantage", "advantage"],
  ["searches", "searches"], ["tokens", "tokens"], ["version", "policy version"], ["hit", "answers read"], ["format", "format"]];
const BOUNDS = [["score", "score"], ["reward", "reward"], ["format", "format"], ["advantage", "advantage"],
  ["searches", "searches"], ["tokens", "tokens"], ["version", "policy version"]];
const FILTERS = ["sources", "task", "stop", "q", "trained", "sort", "order", ...BOUNDS.flatMap(([name]) => [`min_${name}`, `max_${name}`])];

let overview = null, place = null, listKey = null, rows = [], total = 0, openOnLoad = null, asked = 0;

export function listView(main, given, state) {
  overview = state.overview;
  if (!place || !main.contains(place.list)) {
    place = { list: h("section", { className: "list", "aria-label": "episodes" }), detail: h("section", { className: "detail", "aria-label": "opened episode" }) };
    listKey = null;
    show(main, h("div", { className: "split" }, place.list, place.detail));
    place.filters = h("form", { className: "filters", onsubmit: (event) => event.preventDefault() });
    place.rows = h("ol", { className: "rows" });
    place.pager = h("div", { className: "pager" });
    place.list.append(place.filters, place.rows, place.pager);
    fillFilters(given);
  }
  const key = JSON.stringify([...FILTERS, "offset"].map((name) => given[name] || ""));
  if (key !== listKey) {
    if (listKey !== null) fillFilters(given);
    listKey = key;
    load(given);
  } else {
    markOpen(given.open);
  }
  openEpisode(given);
}

function change(values) {
  const { given } = read();
  go("episodes", { ...given, ...values, offset: "", open: "" }, true);
}

function fillFilters(given) {
  const focused = document.activeElement?.name;
  const sources = overview.runs.flatMap((run) => run.sources.map((one) => [`${run.run}~${one.name}`, overview.runs.length > 1 ? `${run.name}: ${one.name}` : one.name, one]));
  const chosen = sources.filter(([value]) => !given.sources || given.sources.split("|").includes(value)).map(([, , one]) => one);
  const counted = (name) => {
    const counts = {};
    for (const one of chosen) for (const [key, count] of Object.entries(one[name])) counts[key] = (counts[key] || 0) + count;
    return counts;
  };
  const choices = (counts, label) => [["", "all"], ...Object.entries(counts).sort().map(([key, count]) => [key, `${label(key)} (${number(count)})`])];
  let waiting = 0;
  const search = h("input", { type: "search", name: "q", placeholder: "words, or \"a phrase\"   ( / )", "aria-label": "search", value: given.q || "",
    oninput: (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => change({ q: event.target.value.trim() }), 180);
    } });
  const descending = given.order !== "asc";
  const bounds = BOUNDS.map(([name, label]) => h("div", { className: "bound" }, h("span", {}, label),
    ["min", "max"].map((side) => h("input", { type: "number", step: "any", name: `${side}_${name}`, placeholder: side, "aria-label": `${label}, ${side}`,
      value: given[`${side}_${name}`] || "", onchange: (event) => change({ [`${side}_${name}`]: event.target.value }) }))));
  const isBound = BOUNDS.some(([name]) => given[`min_${name}`] || given[`max_${name}`]) || given.trained;
  show(place.filters, search,
    h("div", { className: "fields" },
      select("from", "sources", [["", "everything"], ...sources.map(([value, label, one]) => [value, `${label} (${number(one.episodes)})`])], given.sources || "", (value) => change({ sources: value })),
      select("task", "task", choices(counted("tasks"), taskLabel), given.task, (value) => change({ task: value })),
      select("ended by", "stop", choices(counted("stops"), (key) => key), given.stop, (value) => change({ stop: value })),
      select("sort by", "sort", SORTS, given.sort || "newest", (value) => change({ sort: value })),
      h("button", { type: "button", title: "turn the order round", "aria-label": descending ? "falling, turn round" : "rising, turn round",
        onclick: () => change({ order: descending ? "asc" : "" }) }, descending ? "↓" : "↑")),
    h("details", { open: Boolean(isBound), className: "more" }, h("summary", {}, "more filters"),
      h("div", { className: "bounds" }, bounds),
      h("div", { className: "fields" },
        select("trained on", "trained", [["", "all"], ["yes", "yes"], ["no", "no"]], given.trained, (value) => change({ trained: value })),
        h("button", { type: "button", onclick: () => go("episodes", {}) }, "clear all"))));
  const again = focused && place.filters.elements.namedItem(focused);
  if (again?.focus) {
    again.focus();
    if (again.type === "search") again.setSelectionRange(again.value.length, again.value.length);
  }
}

async function load(given) {
  const number_ = ++asked;
  place.rows.setAttribute("aria-busy", "true");
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, given[name]]));
  const found = await ask("episodes", { ...wanted, offset: given.offset || 0, limit: PAGE });
  if (number_ !== asked) return; // a later question was asked meanwhile
  rows = found.rows;
  total = found.total;
  place.rows.removeAttribute("aria-busy");
  show(place.rows, rows.map((row) => h("li", {}, rowView(row))));
  const offset = found.offset;
  show(place.pager,
    h("button", { type: "button", disabled: offset === 0, onclick: () => turn(-1), title: "previous page (p)" }, "←"),
    h("span", {}, total ? `${number(offset + 1)} to ${number(offset + rows.length)} of ${number(total)}` : "no episode fits"),
    h("button", { type: "button", disabled: offset + rows.length >= total, onclick: () => turn(1), title: "next page (n)" }, "→"));
  if (openOnLoad !== null && rows.length) open(rows[openOnLoad === "last" ? rows.length - 1 : 0]);
  openOnLoad = null;
  markOpen(read().given.open);
}

function rowView(row) {
  const what = [taskLabel(row.task), row.source];
  if (row.version !== null) what.push(`policy ${row.version}`, `group ${row.group}.${row.sample}`);
  what.push(`${row.searches} search${row.searches === 1 ? "" : "es"}`);
  if (row.stop !== "answer") what.push(row.stop);
  if (row.advantage !== null) what.push(`A ${signed(row.advantage)}`);
  const answer = row.answer ? row.answer.replace(/\s+/g, " ").slice(0, 80) : "no answer";
  return h("button", { type: "button", className: "row", "data-name": nameOf(row), onclick: () => open(row) },
    h("span", { className: `badge ${grade(row.score)}` }, score(row.reward ?? row.score)),
    h("span", { className: "line" }, titleOf(row)),
    h("span", { className: "line answer" }, "→ ", answer),
    h("span", { className: "note" }, what.join(" · ")));
}

function open(row) {
  go("episodes", { ...read().given, open: nameOf(row) });
}

function markOpen(name) {
  document.querySelector(".split")?.classList.toggle("opened", Boolean(name));
  for (const row of place.rows.querySelectorAll(".row")) {
    const isOpen = row.dataset.name === name;
    if (isOpen) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
    if (isOpen) row.scrollIntoView({ block: "nearest" });
  }
}

let shown = null;
async function openEpisode(given) {
  if (!given.open) {
    shown = null;
    show(place.detail, h("p", { className: "note" }, "Choose an episode, or press j. ? shows all keys."));
    document.querySelector(".split")?.classList.remove("opened");
    return;
  }
  const wanted = shown = given.open;
  markOpen(given.open);
  const episode = await ask("episode", parseName(given.open));
  if (shown !== wanted) return;
  const back = h("a", { className: "back", href: "#", onclick: (event) => { event.preventDefault(); close(); } }, "← list");
  const group = episode.version === null ? null : h("a", { href: groupLink(episode) }, `all samples of group ${episode.group} (g)`);
  show(place.detail, h("div", { className: "bar" }, back, group),
    episodeView(episode, { tokens: given.tokens === "1", toggle: (on) => go("episodes", { ...read().given, tokens: on ? "1" : "" }, true) }));
  if (!given.tokens) place.detail.scrollTop = 0;
}

function close() {
  go("episodes", { ...read().given, open: "" });
}

function step(by) {
  const at = rows.findIndex((row) => nameOf(row) === read().given.open);
  const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : at + by;
  if (rows[next]) open(rows[next]);
  else turn(by, by > 0 ? "first" : "last");
}

function turn(by, opened = null) {
  const { given } = read(), offset = +(given.offset || 0) + by * PAGE;
  if (offset < 0 || offset >= total) return;
  openOnLoad = opened;
  go("episodes", { ...given, offset: offset || "", open: "" });
}

async function sibling(by) {
  const { given } = read();
  if (!given.open) return;
  const { source, group, sample } = parseName(given.open);
  const found = await ask("group", { source, group });
  const at = found.findIndex((one) => one.sample === +sample) + by;
  if (found[at]) open(found[at]);
}

export const listKeys = {
  j: () => step(1),
  k: () => step(-1),
  n: () => turn(1),
  p: () => turn(-1),
  ArrowRight: () => sibling(1),
  ArrowLeft: () => sibling(-1),
  t: () => go("episodes", { ...read().given, tokens: read().given.tokens ? "" : "1" }, true),
  g: () => {
    const { open: name } = read().given;
    if (name) go("group", (({ source, group }) => ({ source, group }))(parseName(name)));
  },
  Escape: () => close(),
};
