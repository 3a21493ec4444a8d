// One episode: its task with what was filled in, its scores, its turns, and its tokens.
import { link } from "./address.js";
import { h, number, score, signed } from "./dom.js";
import { marked, pattern } from "./marks.js";
import { tokenView } from "./tokens.js";

// Set once from the overview: tags of the episode format, and labels of tasks.
export const names = { tags: {}, labels: {} };

export function taskLabel(task) {
  return names.labels[task] || task;
}

export function grade(score) {
  return score === null || score === undefined ? "none" : score >= 0.999 ? "good" : score > 0 ? "part" : "bad";
}

// The task of a row in a list, its masks as gaps.
export function titleOf(row) {
  return row.title.split(names.tags.mask).flatMap((part, at) => (at ? [h("b", { className: "gap" }, "▁▁▁"), part] : [part]));
}

// Whole view of an episode. compact: for columns beside one another. options.tokens: the tokens are shown.
export function episodeView(episode, { compact = false, tokens = false, toggle = null } = {}) {
  const found = pattern(episode.golds);
  const parts = [compact ? null : heading(episode), facts(episode), taskText(episode), maskTable(episode, compact)];
  const hasTokens = Boolean(episode.values) && !compact;
  if (hasTokens && toggle) {
    parts.push(h("div", { className: "tabs", role: "group", "aria-label": "turns or tokens" },
      h("button", { type: "button", "aria-pressed": String(!tokens), onclick: () => toggle(false) }, "turns"),
      h("button", { type: "button", "aria-pressed": String(tokens), onclick: () => toggle(true) }, "tokens")));
  }
  parts.push(hasTokens && tokens ? tokenView(episode) : turns(episode, found));
  return h("article", { className: compact ? "episode compact" : "episode" }, parts);
}

function heading(episode) {
  const where = [episode.source];
  if (episode.version !== null) where.push(`policy ${episode.version}`);
  return h("h2", {}, h("span", { className: `badge ${grade(episode.score)}` }, score(episode.score)), " ",
    where.join(" · "), h("small", {}, ` ${episode.task_id}`));
}

// What the names of facts mean, shown under the pointer.
const FACTS = {
  recall: "share of the words of the wanted answers that were filled in; the score",
  EM: "1 where the whole answer is that which was wanted, mean over masks",
  F1: "how far the words filled in are those wanted: harmonic mean of precision and recall, mean over masks",
  reward: "what DAPO trained on: the weighted sum of answer, format and length",
  answer: "the answer's part of the reward, before its weight; the score",
  format: "1 if all turns and the answer have the asked form",
  length: "the length's part of the reward",
  advantage: "how much better than the other samples of its group: the reward minus their mean, scaled",
  searches: "searches that were carried out",
  tokens: "tokens that the policy wrote",
  "ended by": "answer, or the limit that ended the episode",
  "answers read": "share of the masks whose answer stood in a search result of the episode",
};

function facts(episode) {
  const isTraining = episode.reward !== null || episode.version !== null;
  const list = isTraining
    ? [["reward", score(episode.reward)], ["answer", score(episode.score)], ["format", score(episode.format)],
      ["length", score(episode.length)], ["advantage", signed(episode.advantage)]]
    : [["recall", score(episode.score)], ["EM", score(episode.em)], ["F1", score(episode.f1)],
      ["format", score(episode.format)]];
  list.push(["searches", episode.searches], ["tokens", episode.tokens], ["ended by", episode.stop]);
  list.push(["answers read", episode.hit === null ? "–" : `${Math.round(episode.hit * 100)} %`]);
  if (isTraining) list.push(["trained on", episode.trained === null ? "no" : `in iteration ${episode.trained}`]);
  return h("dl", { className: "facts" }, list.map(([name, value]) =>
    h("div", { title: FACTS[name] }, h("dt", {}, name), h("dd", {}, String(value)))));
}

// The task, with each mask as what was filled in and what was wanted.
function taskText(episode) {
  const pieces = episode.text.split(names.tags.mask);
  if (pieces.length === 1) return h("p", { className: "task" }, episode.text);
  const nodes = [pieces[0]];
  pieces.slice(1).forEach((piece, at) => nodes.push(filled(episode, at), piece));
  return h("p", { className: "task" }, nodes);
}

function filled(episode, at) {
  const gold = (episode.golds[at] || [""])[0], span = episode.spans?.[at];
  const how = span === undefined ? "none" : grade(episode.span_scores[at] ?? episode.score);
  const wrong = span === undefined || span.trim().toLowerCase() !== gold.trim().toLowerCase();
  return h("span", { className: `filled ${how}` }, h("b", {}, span === undefined ? "[mask]" : span),
    wrong ? h("i", { title: "what was wanted" }, gold) : null);
}

// Columns beside one another have no room for the table of a single mask: task and facts say the same.
function maskTable(episode, compact) {
  const rows = episode.golds.map((accepted, at) => h("tr", {},
    h("td", {}, accepted.slice(0, 4).join(" | ")),
    h("td", {}, episode.spans?.[at] ?? "–"),
    h("td", { className: "number" }, score(episode.span_scores[at])),
    h("td", {}, episode.span_hits[at] ? "yes" : "no")));
  const head = ["wanted", "filled in", "score", "read in a result"];
  const answer = episode.spans === null && episode.answer
    ? h("p", {}, h("span", { className: "what" }, "its answer does not have the asked form: "), episode.answer) : null;
  if (compact && rows.length === 1) return [answer];
  return [h("div", { className: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows))), answer];
}

function turns(episode, found) {
  return h("ol", { className: "turns" }, episode.turns.map((turn, at) => h("li", {}, turnView(turn, at, episode, found))));
}

function turnView(turn, at, episode, found) {
  const { think = [], search = [], answer = [], information = [] } = names.tags;
  const parts = [h("span", { className: "what" }, `turn ${at + 1}`)];
  const said = (what, text, kind = "") => text && parts.push(
    h("div", { className: `said ${kind}` }, h("span", { className: "what" }, what), h("span", { className: "text" }, marked(text, found))));
  if (turn.action !== "invalid") { // the name of a tool, or an answer
    const opening = { search: search[0], answer: answer[0] }[turn.action] || `<${turn.action}>`;
    let thought = turn.text.split(opening)[0];
    for (const tag of think) thought = thought.replaceAll(tag, " ");
    said("thinks", thought.trim());
    if (turn.action === "answer") said("answers", episode.answer, "answer");
    else said(turn.action === "search" ? "searches" : `calls ${turn.action}`, turn.query, "search");
  } else {
    said("wrote, which is no action", turn.text, "invalid");
  }
  said("error", turn.error, "error");
  if (turn.observation) {
    let text = turn.observation.trim();
    if (text.startsWith(information[0])) text = text.slice(information[0].length);
    if (text.endsWith(information[1])) text = text.slice(0, -information[1].length);
    const passages = turn.passages.length ? ` passage${turn.passages.length > 1 ? "s" : ""} ${turn.passages.join(", ")}` : "";
    parts.push(h("div", { className: "observation" }, h("span", { className: "what" }, `reads${passages}`),
      h("span", { className: "text" }, marked(text.trim(), found))));
  }
  return parts;
}

export function groupLink(episode) {
  return link("group", { source: `${episode.run}~${episode.source}`, group: episode.group });
}
