"""Tables and plots of the results."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from judging import plots
from judging.corpus import TASKS
from judging.methods import METHODS

CEILING = "known half (ceiling)"
# What part D sets against the gain: name in the rows, and in the table.
NUMBERS = {
    "kl_known_10000": "KL reduction, known half (the report's)",
    "kl_held_10000": "KL reduction, held-out half",
    "kl_known_100000": "KL reduction, known half, 10^5 buckets",
    "kl_held_100000": "KL reduction, held-out half, 10^5 buckets",
    "log_ratio": "mean log ratio of an n-gram",
    "domain": "documents of the target's domain",
    "documents": "documents selected",
}
R = ("r, pooled", "r within a target, mean", "r over methods, means of targets")
BLIND = ("stratified", "domain's own")
TIE = 0.002  # bits; two selections nearer to each other are no pair

Table = dict[str, dict[str, float]]  # method -> target -> number


def rows(place: Path) -> list[dict[str, Any]]:
    """Of a file of results; the last line may have been cut off."""
    found = []
    for line in place.read_text(encoding="utf-8").splitlines() if place.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def show(output: Path, parts: Sequence[str], pictures: Path | None) -> None:
    """Print the tables of the parts, and draw their plots."""
    for part in parts:
        own = rows(output / f"{'A' if part == 'D' else part}.jsonl")
        if own:
            print(f"\n### {part}\n")
            SHOWN[part](own, output, pictures)


def table(found: Iterable[dict[str, Any]], number: str, label: str = "method") -> Table:
    """Means over seeds, by label and target."""
    by: dict[Any, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in found:
        if number in row:
            by[row[label]][row["target"]].append(row[number])
    return {m: {t: statistics.mean(v) for t, v in own.items()} for m, own in by.items()}


def spread(found: Iterable[dict[str, Any]], number: str) -> float:
    """Median standard deviation over seeds of what has several."""
    by = defaultdict(list)
    for row in found:
        by[row["method"], row["target"]].append(row[number])
    several = [statistics.stdev(own) for own in by.values() if len(own) > 1]
    return statistics.median(several) if several else 0.0


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    print("| " + " | ".join(heads) + " |\n|---|" + "---:|" * (len(heads) - 1))
    for line in lines:
        print("| " + " | ".join(line) + " |")


def groups(targets: Iterable[str]) -> dict[str, list[str]]:
    """The targets of one kind, by what a column calls them."""
    targets = list(targets)
    plain, tasks = [t for t in targets if t not in TASKS], [t for t in targets if t in TASKS]
    both = {f"mean of {len(own)} targets": own for own in (plain, tasks) if own}
    return {"targets" if len(both) == 1 else k: v for k, v in both.items()}


def mean(own: dict[str, float], targets: Sequence[str]) -> str:
    return f"{statistics.mean(own[t] for t in targets):.3f}" if set(targets) <= set(own) else ""


def _a(found: list[dict[str, Any]], output: Path, pictures: Path | None) -> None:
    bits = table(found, "bits")
    bits = {m: bits[m] for m in METHODS if m in bits}
    targets = list(bits["random"])
    best = {t: min((own[t], m) for m, own in bits.items() if t in own and m != CEILING)[1]
            for t in targets}  # fmt: skip
    sets = groups(targets)
    markdown(
        ["method", *sets, "best of", "better than random", "than DSIR"],
        [[m, *[mean(own, s) for s in sets.values()], str(sum(b == m for b in best.values())),
          *[_wins(own, bits.get(other, {})) for other in ("random", "DSIR")]]
         for m, own in bits.items()],
    )  # fmt: skip
    print(f"\nStandard deviation over seeds, median: {spread(found, 'bits'):.4f}.")
    for own in sets.values():
        print()
        markdown(["method", *own], [[m, *[_cell(b, t) for t in own]] for m, b in bits.items()])
    if pictures:
        plots.methods(bits, targets, pictures / "evidence.png")


def _cell(own: dict[str, float], target: str) -> str:
    return f"{own[target]:.3f}" if target in own else ""


def _wins(own: dict[str, float], other: dict[str, float]) -> str:
    both = [t for t in own if t in other]
    return f"{sum(own[t] < other[t] for t in both)} of {len(both)}"


def _saved(own: dict[str, float], other: dict[str, float]) -> float:
    """Mean over the targets that both have."""
    return statistics.mean([other[t] - own[t] for t in own if t in other] or [0.0])


def gains(found: list[dict[str, Any]], number: str) -> list[tuple[str, str, float, float]]:
    """(method, target, number, bits saved against random), both relative to random's."""
    bits, numbers = table(found, "bits"), table(found, number)
    return [
        (m, t, numbers[m][t] - numbers["random"][t], bits["random"][t] - bits[m][t])
        for m in bits for t in bits[m]
        if m not in (CEILING, "random") and t in numbers.get(m, {}) and t in bits["random"]
    ]  # fmt: skip


def _d(found: list[dict[str, Any]], output: Path, pictures: Path | None) -> None:
    for label, left_out in (("All methods", ()), ("Methods that read the target", BLIND)):
        methods = {r["method"] for r in found} - {"random", CEILING, *left_out}
        print(f"{label} ({len(methods)}):\n")
        markdown(
            ["number", *R, "the better by it is the better by A"],
            [[label, _pooled(own), _within(own), _over_methods(own), _agreement(own)]
             for number, label in NUMBERS.items()
             for own in [[p for p in gains(found, number) if p[0] in methods]]],
        )  # fmt: skip
        print()
    tasks = table(rows(output / "B.jsonl"), "f1")
    if tasks:
        _against(found, "part B's F1 over random's", tasks)
    trained, more = rows(output / "C.jsonl"), rows(output / "I.jsonl")
    for how in dict.fromkeys(r["setting"] for r in trained):
        bits = table([r for r in trained if r["setting"] == how], "bits")
        if len(bits) > 3:  # methods enough for a correlation
            _against([*found, *more], f"part C's bits saved, {how}", bits, -1)
    if pictures:
        plots.correlation(gains(found, "kl_known_10000"), pictures / "evidence_kl.png")


Gains = list[tuple[str, str, float, float]]


def _pooled(own: Gains) -> str:
    """Pearson's r, with an interval by drawing targets again: pairs of one are not independent."""
    by = defaultdict(list)
    for _, target, x, y in own:
        by[target].append((x, y))
    moments = []
    for pairs in by.values():
        x, y = np.array(pairs).T
        moments.append([len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y])
    drawn = np.random.default_rng(0).multinomial(len(by), [1 / len(by)] * len(by), 2_000)
    n, sx, sy, xx, yy, xy = (drawn @ np.array(moments)).T
    again = (n * xy - sx * sy) / np.sqrt((n * xx - sx**2) * (n * yy - sy**2))
    low, high = np.quantile(again, (0.025, 0.975))
    r = stats.pearsonr([p[2] for p in own], [p[3] for p in own]).statistic
    return f"{r:+.2f} ({low:+.2f} to {high:+.2f})"


def _within(own: Gains) -> str:
    """The mean over targets of Fisher's z, with Student's interval."""
    by = defaultdict(list)
    for _, target, x, y in own:
        by[target].append((x, y))
    z = [np.arctanh(stats.pearsonr(*zip(*p, strict=True)).statistic) for p in by.values()]
    if len(z) < 2:
        return f"{np.tanh(z[0]):+.2f}"
    interval = stats.t.interval(0.95, len(z) - 1, np.mean(z), stats.sem(z))
    low, high = np.tanh(interval)
    return f"{np.tanh(np.mean(z)):+.2f} ({low:+.2f} to {high:+.2f})"


def _over_methods(own: Gains) -> str:
    by = defaultdict(list)
    for method, _, x, y in own:
        by[method].append((x, y))
    return _pearson(*np.array([np.mean(pairs, axis=0) for pairs in by.values()]).T)


def _pearson(x: Any, y: Any) -> str:
    found = stats.pearsonr(x, y)
    interval = found.confidence_interval()
    return f"{found.statistic:+.2f} ({interval.low:+.2f} to {interval.high:+.2f})"


def _agreement(own: Gains) -> str:
    by = defaultdict(list)
    for _, target, x, y in own:
        by[target].append((x, y))
    pairs = [(a[0] - b[0]) * (a[1] - b[1]) > 0 for p in by.values()
             for a, b in itertools.combinations(p, 2) if abs(a[1] - b[1]) >= TIE]  # fmt: skip
    found = stats.binomtest(sum(pairs), len(pairs)).proportion_ci()
    return f"{np.mean(pairs):.0%} of {len(pairs):,} ({found.low:.0%} to {found.high:.0%})"


def _against(found: list[dict[str, Any]], what: str, other: Table, better: int = 1) -> None:
    """r of KL reduction and of A with another judge's numbers, all over random's."""
    lines = []
    for number, label, sign in (
        ("kl_known_10000", NUMBERS["kl_known_10000"], 1), ("bits", "bits saved (A)", -1)
    ):  # fmt: skip
        own = table(found, number)
        pairs = [
            (m, t, sign * (own[m][t] - own["random"][t]), better * (of[t] - other["random"][t]))
            for m, of in other.items() for t in of if m != "random" and m in own
        ]  # fmt: skip
        lines.append([label, _pooled(pairs), _within(pairs), _over_methods(pairs),
                      _agreement(pairs)])  # fmt: skip
    print(f"\nWith {what}, {len(other) - 1} methods:\n")
    markdown(["number", *R, "the better by it is the better by the other"], lines)


def _b(found: list[dict[str, Any]], output: Path, pictures: Path | None) -> None:
    f1 = table(found, "f1")
    tasks = list(f1["random"])
    markdown(["F1 x 100", *tasks, "mean"], [
        [m, *[f"{100 * own[t]:.1f}" if t in own else "" for t in tasks],
         f"{100 * statistics.mean(own.values()):.2f}"] for m, own in f1.items()
    ])  # fmt: skip
    print(f"\nStandard deviation over seeds, median: {100 * spread(found, 'f1'):.2f} points.")


def _c(found: list[dict[str, Any]], output: Path, pictures: Path | None) -> None:
    for how in dict.fromkeys(r["setting"] for r in found):
        own = [r for r in found if r["setting"] == how]
        bits = table(own, "bits")
        targets = [t for t in bits["random"] if all(t in of for of in bits.values())]
        seeds = {m: len({r["seed"] for r in own if r["method"] == m}) for m in bits}
        print(f"\n{how}\n")
        markdown(["bits per byte", "seeds", *targets, "mean", "better than random"], [
            [m, str(seeds[m]), *[_cell(of, t) for t in targets], mean(of, targets),
             _wins(of, bits["random"])] for m, of in bits.items()
        ])  # fmt: skip
        print(f"\nStandard deviation over seeds, median: {spread(own, 'bits'):.4f}.")


def _by(found: list[dict[str, Any]], label: str, head: str, unit: str) -> dict[str, Table]:
    """A table with a line for each value of a label, means over the targets that all have."""
    values = list(dict.fromkeys(r[label] for r in found))
    methods = list(dict.fromkeys(r["method"] for r in found))
    by = {m: table([r for r in found if r["method"] == m], "bits", label) for m in methods}
    targets = sorted(set.intersection(*[set(t) for own in by.values() for t in own.values()]))
    markdown([head, *methods], [
        [f"{v}{unit}", *[mean(by[m].get(v, {}), targets) for m in methods]] for v in values
    ])  # fmt: skip
    print(f"\nMeans of {', '.join(targets)}.")
    return by


def _e(found: list[dict[str, Any]], output: Path, pictures: Path | None) -> None:
    by = _by(found, "share", "of raw", " %")
    targets = list(dict.fromkeys(r["target"] for r in found))
    for label, number, sign in (
        ("A", "bits", 1), ("KL reduction, which the report's curve shows", "kl_known_10000", -1)
    ):  # fmt: skip
        print()
        markdown([f"best share by {label}", *targets], [
            [m, *[f"{_best(found, m, t, number, sign):g} %" for t in targets]] for m in by
        ])  # fmt: skip
    if pictures:
        plots.shares(by, pictures / "evidence_share.png")


def _best(found: list[dict[str, Any]], method: str, target: str, number: str, sign: int) -> float:
    """The share of raw whose selection has the least of a number times its sign."""
    own = [r for r in found if (r["method"], r["target"]) == (method, target)]
    return float(min(own, key=lambda r: sign * r[number])["share"])


def _f(found: list[dict[str, Any]], output: Path, pictures: Path | None) -> None:
    whole = [r for r in rows(output / "A.jsonl") if r["target"] not in TASKS]
    shown = {r["method"] for r in found}
    _by([*found, *[r | {"size": "all"} for r in whole if r["method"] in shown]], "size",
        "texts of the target", "")  # fmt: skip
    print(f"random: {mean(table(whole, 'bits')['random'], list(table(whole, 'bits')['random']))}")


def _g(found: list[dict[str, Any]], output: Path, pictures: Path | None) -> None:
    lines = []
    for share in dict.fromkeys(r["share"] for r in found):
        bits = table([r for r in found if r["share"] == share], "bits")
        sets = groups(next(iter(bits.values())))
        without = bits["match 1 30000 0 100 0"]
        lines += [[f"{share} %", f"{m.split()[-1]} %", *[mean(own, s) for s in sets.values()],
                   _wins(own, without)] for m, own in bits.items()]  # fmt: skip
    markdown(["selected", "of raw in it", *sets, "better than with none"], lines)


def _h(found: list[dict[str, Any]], output: Path, pictures: Path | None) -> None:
    bits = table([r for r in found if "setting" not in r], "bits")
    inner = table([r for r in found if "setting" in r], "bits")
    forms = [m for m in bits if m in inner]
    if forms:
        best = {t: min((inner[m][t], m) for m in forms if t in inner[m])[1]
                for t in inner[forms[0]]}  # fmt: skip
        bits["auto"] = {t: bits[m][t] for t, m in best.items()}
        bits["the best of them (not known before)"] = {
            t: min(bits[m][t] for m in forms) for t in best
        }
    sets = groups(next(iter(bits.values())))
    markdown(["method", *sets, "better than `match 1 30000`", "than `sample 2 10000`"], [
        [m, *[mean(own, s) for s in sets.values()],
         *[_wins(own, bits[other]) for other in ("match 1 30000", "sample 2 10000")]]
        for m, own in bits.items()
    ])  # fmt: skip
    if forms:
        print("\nauto takes " + ", ".join(f"{m} for {t}" for t, m in best.items()) + ".")


def _i(found: list[dict[str, Any]], output: Path, pictures: Path | None) -> None:
    bits, others = table(found, "bits"), table(rows(output / "A.jsonl"), "bits")
    random, dsir = (others.get(m, {}) for m in ("random", "DSIR"))
    sets = groups(next(iter(bits.values())))
    first = {m.split()[0]: own for m, own in bits.items() if m.endswith(" 2 10000")}
    learnt: dict[str, float] = defaultdict(float)
    for row in found:  # the first selection of a setting waits for all targets' learning
        learnt[row["method"]] = max(learnt[row["method"]], row["seconds"])
    lines = []
    for m, own in sorted(bits.items(), key=lambda row: (row[0].split()[0], *_numbers(row[0]))):
        given = m.split()
        kind, ngrams, buckets, mu, percent = given + ["0", "100"][len(given) - 3 :]
        lines.append([kind, ngrams, f"{int(buckets):,}", f"{int(mu):,}", f"{percent} %",
                      *[mean(own, s) for s in sets.values()], _wins(own, first[kind]),
                      _wins(own, dsir), f"{_saved(own, random):.3f}",
                      f"{learnt[m]:.0f}"])  # fmt: skip
    markdown(["method", "n-grams", "buckets", "Dirichlet smoothing", "learnt from", *sets,
              "better than with 2 and 10,000", "than DSIR (part A)", "saved against random",
              "seconds, all targets"], lines)  # fmt: skip


def _numbers(method: str) -> list[int]:
    return [int(n) for n in method.split()[1:]]


def _job(found: list[dict[str, Any]], output: Path, pictures: Path | None) -> None:
    markdown(["job", "target", "seconds", "documents", "the same as judged"], [
        [r["method"], r["target"], f"{r['seconds']:.1f}", f"{r['documents']:,}", f"{r['same']:.1%}"]
        for r in found
    ])  # fmt: skip


SHOWN: dict[str, Callable[[list[dict[str, Any]], Path, Path | None], None]] = {
    "A": _a, "B": _b, "C": _c, "D": _d, "E": _e, "F": _f, "G": _g, "H": _h, "I": _i, "job": _job,
}  # fmt: skip
