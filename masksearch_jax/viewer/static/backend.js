// Where the data comes from: the server, or the sample that this file holds. Both answer the same questions.

const embedded = document.getElementById("embedded");
const sample = embedded ? JSON.parse(embedded.textContent) : null;
export const isFile = sample !== null;

export async function ask(question, given = {}) {
  const kept = Object.entries(given).filter(([, value]) => value !== undefined && value !== null && value !== "");
  if (sample) return answers[question](Object.fromEntries(kept));
  let reply;
  try {
    reply = await fetch(`/api/${question}?${new URLSearchParams(kept)}`);
  } catch {
    throw new Error("the server does not answer; start `python -m masksearch_jax.report --serve` again");
  }
  const content = await reply.json();
  if (!reply.ok) throw new Error(content.error);
  return content;
}

const answers = {
  overview: () => sample.overview,
  curves: () => sample.curves,
  episodes(given) {
    const rows = order(sample.episodes.filter((one) => fits(one, given)), given);
    return page(rows, given);
  },
  episode(given) {
    const found = of(given.source).find((one) => one.group === +given.group && one.sample === +given.sample);
    if (!found) throw new Error("this file's sample does not hold that episode");
    return found;
  },
  group: (given) => of(given.source).filter((one) => one.group === +given.group),
  task: (given) => of(given.source).filter((one) => one.task_id === given.task_id).slice(0, 8),
  compare(given) {
    const sides = ["a", "b"].map((name) => means(of(given[name]).filter((one) => !given.task || one.task === given.task)));
    const rows = [];
    for (const [task, left] of sides[0]) {
      const right = sides[1].get(task);
      if (right) {
        rows.push({ task_id: task, task: left.task, title: left.title, a: left.mean, b: right.mean, n_a: left.n,
          n_b: right.n, difference: right.mean - left.mean });
      }
    }
    const sort = given.sort || "difference", sign = given.order === "asc" ? 1 : -1;
    rows.sort((one, two) => sign * compared(one[sort], two[sort]) || compared(one.task_id, two.task_id));
    const n = rows.length, mean = (name) => (n ? rows.reduce((sum, row) => sum + row[name], 0) / n : null);
    const difference = mean("difference");
    const spread = rows.reduce((sum, row) => sum + (row.difference - difference) ** 2, 0);
    return { ...page(rows, given), mean_a: mean("a"), mean_b: mean("b"), difference,
      se: n > 1 ? Math.sqrt(spread / (n - 1) / n) : null };
  },
};

function of(text) {
  const [run, source, version] = (text || "").split("~");
  return sample.episodes.filter((one) => one.run === +run && one.source === source
    && (version === undefined || one.version === +version));
}

function means(episodes) {
  const found = new Map();
  for (const one of episodes) {
    if (one.score === null) continue;
    const entry = found.get(one.task_id) || { task: one.task, title: one.title, sum: 0, n: 0 };
    entry.sum += one.score;
    entry.n += 1;
    entry.mean = entry.sum / entry.n;
    found.set(one.task_id, entry);
  }
  return found;
}

function fits(one, given) {
  const sources = (given.sources || "").split("|").filter(Boolean);
  if (sources.length && !sources.some((text) => {
    const [run, source, version] = text.split("~");
    return one.run === +run && one.source === source && (version === undefined || one.version === +version);
  })) return false;
  if (["task", "stop", "task_id"].some((name) => given[name] && one[name] !== given[name])) return false;
  if (given.trained && (one.trained !== null) !== (given.trained === "yes")) return false;
  for (const [name, value] of Object.entries(given)) {
    const bound = /^(min|max)_(.+)$/.exec(name);
    if (!bound) continue;
    const own = one[bound[2]];
    if (own === null || own === undefined || (bound[1] === "min" ? own < +value : own > +value)) return false;
  }
  const text = plain([one.task_id, one.text, one.answer, ...one.golds.flat(),
    ...one.turns.flatMap((turn) => [turn.text, turn.observation])].join("\n"));
  const words = (given.q || "").match(/"[^"]+"|[^\s"]+/g) || [];
  return words.every((word) => text.includes(plain(word.replaceAll('"', ""))));
}

function plain(text) {
  return text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
}

function compared(one, two) {
  return one < two ? -1 : one > two ? 1 : 0;
}

function order(rows, given) {
  const sort = given.sort && given.sort !== "newest" ? given.sort : "step", sign = given.order === "asc" ? 1 : -1;
  const absent = (value) => (value === null || value === undefined ? 1 : 0);
  return rows.sort((one, two) => absent(one[sort]) - absent(two[sort]) || sign * compared(one[sort], two[sort])
    || one.run - two.run || compared(one.source, two.source) || one.group - two.group || one.sample - two.sample);
}

function page(rows, given) {
  const offset = +(given.offset || 0);
  return { total: rows.length, offset, rows: rows.slice(offset, offset + +(given.limit || 50)) };
}
