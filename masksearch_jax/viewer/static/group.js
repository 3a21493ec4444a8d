// The samples of one group beside one another: one prompt, several attempts, and what tells them apart.
import { go, link, nameOf, read } from "./address.js";
import { ask } from "./backend.js";
import { h, score, show, signed } from "./dom.js";
import { episodeView, grade } from "./episode.js";

export async function groupView(main, given) {
  const found = await ask("group", { source: given.source, group: given.group });
  if (read().view !== "group" || read().given.group !== given.group) return;
  const rewards = found.map((one) => one.reward ?? one.score).filter((value) => value !== null);
  const mean = rewards.length ? rewards.reduce((sum, value) => sum + value, 0) / rewards.length : null;
  const trained = found[0]?.trained;
  const facts = `${found.length} samples, mean reward ${score(mean)}, from ${score(Math.min(...rewards))} to ${score(Math.max(...rewards))}`
    + (trained === null ? "; not trained on" : `; trained on in iteration ${trained}`);
  const columns = found.map((one) => h("div", { className: "column" },
    h("h3", {}, h("span", { className: `badge ${grade(one.score)}` }, score(one.reward ?? one.score)), " ",
      h("a", { href: link("episodes", { open: nameOf(one) }) }, `sample ${one.sample}`), h("small", {}, ` advantage ${signed(one.advantage)}`)),
    episodeView(one, { compact: true })));
  show(main, h("section", { className: "wide" }, h("h2", {}, `Group ${given.group} of ${(given.source || "").split("~")[1]}`, h("small", {}, ` ${found[0].task_id}, policy ${found[0].version}`)), h("p", { className: "note" }, facts),
    h("div", { className: "columns", tabindex: "0", role: "region", "aria-label": "samples" }, columns)));
}

// Moves sideways by one column.
function slide(by) {
  const columns = document.querySelector(".columns");
  const width = columns?.firstElementChild?.getBoundingClientRect().width || 300;
  columns?.scrollBy({ left: by * (width + 12) });
}

export const groupKeys = {
  ArrowRight: () => slide(1),
  ArrowLeft: () => slide(-1),
  Escape: () => (history.length > 1 ? history.back() : go("episodes", {})),
};
