// The start: what the run holds, then the view that the address names, and the keys.
import { go, link, read } from "./address.js";
import { ask, isFile } from "./backend.js";
import { compareKeys, compareView } from "./compare.js";
import { curvesKeys, curvesView } from "./curves.js";
import { h, say, show } from "./dom.js";
import { names } from "./episode.js";
import { groupKeys, groupView } from "./group.js";
import { help } from "./help.js";
import { listKeys, listView } from "./list.js";

const VIEW = { episodes: listView, group: groupView, compare: compareView, curves: curvesView };
const KEYS = { episodes: listKeys, group: groupKeys, compare: compareKeys, curves: curvesKeys };
const TABS = ["episodes", "compare", "curves"];
const main = document.getElementById("main");
const state = { overview: null };

async function route() {
  const { view, given } = read();
  show(document.getElementById("views"), TABS.map((name) => h("a", { href: link(name), "aria-current": name === view || (view === "group" && name === "episodes") ? "page" : undefined }, name)));
  main.className = view;
  try {
    await VIEW[view](main, given, state);
    say(problems());
  } catch (error) {
    say(error.message);
  }
}

function problems() {
  const found = state.overview.runs.flatMap((run) => run.problems);
  if (isFile) found.push("This file holds a sample of the episodes; the server shows all.");
  return found.join(" ");
}

async function start() {
  try {
    state.overview = await ask("overview");
  } catch (error) {
    say(error.message);
    return;
  }
  names.tags = state.overview.tags;
  names.labels = state.overview.labels;
  const title = state.overview.runs.map((run) => run.name).join(" and ");
  document.getElementById("name").textContent = title;
  document.title = `${title}: episodes`;
  await route();
}

addEventListener("hashchange", route);
addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  say(event.reason?.message || String(event.reason));
});
document.getElementById("help-open").addEventListener("click", help);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest?.("input, select, textarea");
  if (typing) {
    if (event.key === "Escape") typing.blur();
    return;
  }
  const dialog = document.getElementById("help");
  if (dialog.open && event.key !== "?") return;
  const everywhere = {
    "?": help,
    "/": () => main.querySelector("input[type=search]")?.focus(),
    1: () => go("episodes", {}), 2: () => go("compare", {}), 3: () => go("curves", {}),
    r: () => location.reload(),
  };
  const call = everywhere[event.key] || KEYS[read().view][event.key];
  if (!call) return;
  event.preventDefault();
  call();
});
start();
