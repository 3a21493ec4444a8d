// The address of what is shown: #view?name=value&.. Every state that a person may want to send stands in it.

export const VIEWS = ["episodes", "group", "compare", "curves"];

export function read() {
  const [view, query] = location.hash.replace(/^#/, "").split(/\?(.*)/s);
  return { view: VIEWS.includes(view) ? view : "episodes", given: Object.fromEntries(new URLSearchParams(query || "")) };
}

export function link(view, given = {}) {
  const kept = Object.entries(given).filter(([, value]) => value !== "" && value !== undefined && value !== null);
  const query = new URLSearchParams(kept).toString();
  return `#${view}${query ? "?" + query : ""}`;
}

// Goes to an address. replace: without an entry in the history, for what changes with every key.
export function go(view, given, replace = false) {
  const target = link(view, given);
  if (target === location.hash) return;
  if (replace) {
    history.replaceState(null, "", target);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = target;
  }
}

// run~source~group~sample, the name of an episode.
export function nameOf(episode) {
  return [episode.run, episode.source, episode.group, episode.sample].join("~");
}

export function parseName(text) {
  const [run, source, group, sample] = (text || "").split("~");
  return { source: `${run}~${source}`, group, sample };
}
