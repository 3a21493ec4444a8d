// Two sources on the same tasks: two checkpoints, two policies or two runs, and one task opened in both.
import { go, read } from "./address.js";
import { ask } from "./backend.js";
import { h, number, score, select, show, signed } from "./dom.js";
import { episodeView, grade, taskLabel, titleOf } from "./episode.js";

const PAGE = 50;
let rows = [], total = 0, asked = 0;

// Returns [value, label] of everything that can be a side: sources, and policy versions of training.
function sides(overview) {
  return overview.runs.flatMap((run) => run.sources.flatMap((one) => {
    const label = overview.runs.length > 1 ? `${run.name}: ${one.name}` : one.name, value = `${run.run}~${one.name}`;
    const versions = Object.keys(one.versions);
    return [[value, label], ...(versions.length > 1 ? versions.map((version) => [`${value}~${version}`, `${label}, policy ${version}`]) : [])];
  }));
}

function defaults(overview) {
  const last = (run) => overview.runs[run]?.sources.filter((one) => one.name.includes("evaluate")) || [];
  if (overview.runs.length > 1) {
    const shared = overview.runs[0].sources.find((one) => overview.runs[1].sources.some((other) => other.name === one.name));
    if (shared) return [`0~${shared.name}`, `1~${shared.name}`];
  }
  const own = last(0).map((one) => `0~${one.name}`);
  const of = (part) => own.find((name) => name.endsWith(part));
  return [of("/sft") || own[0], of("/dapo") || own[own.length - 1]];
}

export async function compareView(main, given, state) {
  const options = sides(state.overview), [first, second] = defaults(state.overview);
  const a = given.a || first || options[0]?.[0], b = given.b || second || options[0]?.[0];
  if (!a || !b) return show(main, h("p", { className: "note" }, "There are no episodes to compare yet."));
  const number_ = ++asked, sort = given.sort || "difference", order = given.order || "desc";
  const change = (values) => go("compare", { ...read().given, a, b, offset: "", task_id: "", ...values });
  const tasks = [...new Set(state.overview.runs.flatMap((run) => run.sources.flatMap((one) => Object.keys(one.tasks))))].sort();
  const found = await ask("compare", { a, b, task: given.task, sort, order, offset: given.offset || 0, limit: PAGE });
  if (number_ !== asked || read().view !== "compare") return;
  rows = found.rows;
  total = found.total;
  const error = found.se === null ? "" : ` ± ${number(found.se, 3)}`;
  const summary = total
    ? `${number(total)} tasks in both, mean score: A ${number(found.mean_a, 3)}, B ${number(found.mean_b, 3)}, B − A ${signed(found.difference, 3)}${error} (standard error, paired by task)`
    : "No task is in both. Evaluate both on one split; of training, the same tasks come back in later epochs only.";
  const sorted = (name, label) => h("th", { scope: "col", "aria-sort": sort === name ? (order === "desc" ? "descending" : "ascending") : "none" },
    h("button", { type: "button", onclick: () => change({ sort: name, order: sort === name && order === "desc" ? "asc" : "desc" }) }, label));
  const table = h("div", {}, h("table", { className: "compared" },
    h("thead", {}, h("tr", {}, sorted("task_id", "task"), sorted("a", "A"), sorted("b", "B"), sorted("difference", "B − A"))),
    h("tbody", {}, rows.map((row) => h("tr", { "aria-current": row.task_id === given.task_id ? "true" : undefined },
      h("td", { className: "words" }, h("button", { type: "button", className: "row", onclick: () => go("compare", { ...read().given, a, b, task_id: row.task_id }) },
        h("span", { className: "line" }, titleOf(row)), h("span", { className: "note" }, taskLabel(row.task)))),
      h("td", {}, h("span", { className: `badge ${grade(row.a)}` }, score(row.a)), row.n_a > 1 ? h("small", {}, ` of ${row.n_a}`) : null),
      h("td", {}, h("span", { className: `badge ${grade(row.b)}` }, score(row.b)), row.n_b > 1 ? h("small", {}, ` of ${row.n_b}`) : null),
      h("td", { className: "number" }, row.difference > 0 ? "+" : "", score(row.difference)))))));
  const offset = found.offset;
  const pager = h("div", { className: "pager" },
    h("button", { type: "button", disabled: offset === 0, onclick: () => turn(-1), title: "previous page (p)" }, "←"),
    h("span", {}, total ? `${number(offset + 1)} to ${number(offset + rows.length)} of ${number(total)}` : ""),
    h("button", { type: "button", disabled: offset + rows.length >= total, onclick: () => turn(1), title: "next page (n)" }, "→"));
  const pair = given.task_id ? await opened(a, b, given.task_id) : null;
  if (number_ !== asked || read().view !== "compare") return;
  const scrolled = main.querySelector(".rows")?.scrollTop || 0;
  const detail = pair ? [h("div", { className: "bar" }, h("a", { className: "back", href: "#", onclick: (event) => { event.preventDefault(); close(); } }, "← list")), pair]
    : h("p", { className: "note" }, "Choose a task, or press j.");
  show(main, h("div", { className: pair ? "split opened" : "split" },
    h("section", { className: "list", "aria-label": "tasks" },
      h("div", { className: "filters" }, h("div", { className: "fields" }, select("A", "a", options, a, (value) => change({ a: value })), select("B", "b", options, b, (value) => change({ b: value })),
        select("task", "task", [["", "all"], ...tasks.map((task) => [task, taskLabel(task)])], given.task, (value) => change({ task: value }))), h("p", { className: "note" }, summary)),
      h("div", { className: "rows" }, total ? table : null), total ? pager : null),
    h("section", { className: "detail", "aria-label": "opened task" }, detail)));
  main.querySelector(".rows").scrollTop = scrolled;
  main.querySelector("tr[aria-current]")?.scrollIntoView({ block: "nearest" });
}

async function opened(a, b, task_id) {
  const found = await Promise.all([a, b].map((source) => ask("task", { source, task_id })));
  return h("div", { className: "pair" }, found.map((episodes, at) => h("div", { className: "column" },
    h("h3", {}, `${at ? "B" : "A"}: ${[a, b][at].split("~").slice(1).join(", policy ")}`), episodes.slice(0, 4).map((episode) => episodeView(episode, { compact: true })))));
}

function step(by) {
  const { given } = read(), at = rows.findIndex((row) => row.task_id === given.task_id);
  const next = rows[at < 0 ? 0 : at + by];
  if (next) go("compare", { ...given, task_id: next.task_id });
}

function turn(by) {
  const { given } = read(), offset = +(given.offset || 0) + by * PAGE;
  if (offset >= 0 && offset < total) go("compare", { ...given, offset: offset || "", task_id: "" });
}

function close() {
  go("compare", { ...read().given, task_id: "" });
}

export const compareKeys = {
  j: () => step(1),
  k: () => step(-1),
  ArrowRight: () => step(1),
  ArrowLeft: () => step(-1),
  n: () => turn(1),
  p: () => turn(-1),
  Escape: close,
};
