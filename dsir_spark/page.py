"""The report as one self-contained HTML page: facts in, text out; no Spark, no network, no script.

Everything that comes from documents is escaped, control characters and marks that turn the
direction of writing are made visible, and a policy in the page forbids whatever might slip through.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from dsir_spark.checks import visible

_DARK, _LIGHT, _ACCENT = "#1b1b1b", "#c9c9c9", "#1f5fa8"
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "dsir_spark",  # the same ids in every run
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
}


def _svg(figure: Figure) -> markupsafe.Markup:
    out = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        # Metadata would name vocabularies by their addresses; a page without network has none.
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    text = out.getvalue()
    return markupsafe.Markup(text[text.index("<svg") :])  # drawn from numbers


def _figure(width: float = 5.2, height: float = 2.9) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _log_axis(axes: Any) -> None:
    """Logarithmic, labelled in whole numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0), numticks=8))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def weights_figure(facts: Mapping[str, Any]) -> Figure:
    """Documents by what they are ranked by: candidates and selected, and the cut."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        edges = np.array(facts["edges"])
        axes.stairs(facts["candidates"], edges, fill=True, color=_LIGHT, label="candidates")
        axes.stairs(facts["selected"], edges, color=_DARK, linewidth=1.4, hatch="////",
                    label="selected")  # fmt: skip
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=0)
        if facts.get("cut") is not None and edges[0] <= facts["cut"] <= edges[-1]:
            axes.axvline(facts["cut"], color=_ACCENT, linestyle="--", label="cut (with noise)")
        axes.set_xlabel(facts["label"])
        axes.set_ylabel("documents")
        axes.legend(frameon=False)
        return figure


def lengths_figure(facts: Mapping[str, Any]) -> Figure:
    """A sample of documents: tokens against what they are ranked by."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        for chosen, marker, colour, label in (
            (False, ".", "#9a9a9a", "not selected"), (True, "x", _DARK, "selected"),
        ):  # fmt: skip
            points = [p for p in facts["points"] if p[2] == chosen]
            if points:
                axes.scatter([p[0] for p in points], [p[1] for p in points], s=14, marker=marker,
                             color=colour, linewidth=0.8, label=label)  # fmt: skip
        _log_axis(axes)
        axes.set_xlabel("tokens of the document")
        axes.set_ylabel(facts["label"])
        axes.legend(frameon=False)
        return figure


def curve_figure(
    curve: Sequence[Mapping[str, float]], chosen: Mapping[str, Any]
) -> Figure:  # fmt: skip
    """KL reduction of the best k documents, over k."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        axes.plot([c["documents"] for c in curve], [c["kl_reduction"] for c in curve], "o-",
                  color=_DARK, markersize=3.5, label="best by key")  # fmt: skip
        if chosen.get("kl_reduction") is not None:
            axes.plot([chosen["documents"]], [chosen["kl_reduction"]], "s", color=_ACCENT,
                      markersize=7, label="this selection")  # fmt: skip
        if chosen.get("kl_reduction_random") is not None:
            axes.axhline(chosen["kl_reduction_random"], color=_DARK, linestyle=":",
                         label="random")  # fmt: skip
        if chosen.get("bound") is not None:
            axes.axhline(chosen["bound"], color=_DARK, linestyle="--", linewidth=0.9,
                         label="bound at this size")  # fmt: skip
        _log_axis(axes)
        axes.set_xlabel("documents selected")
        axes.set_ylabel("KL reduction (nats an n-gram)")
        axes.legend(frameon=False)
        return figure


def composition_figure(column: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Shares of the values of a column before and after."""
    shown = list(rows[:14])[::-1]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(5.2, 0.8 + 0.27 * len(shown))
        at = np.arange(len(shown))
        axes.barh(at + 0.2, [100 * r["raw_share"] for r in shown], 0.38, color=_LIGHT, label="raw")
        axes.barh(at - 0.2, [100 * r["selected_share"] for r in shown], 0.38, color=_DARK,
                  hatch="//", edgecolor="white", label="selected")  # fmt: skip
        axes.set_yticks(at, [visible(r["value"])[:28] for r in shown], parse_math=False)
        axes.set_xlabel("share of documents (%)")
        axes.set_ylabel(visible(column)[:28], parse_math=False)
        axes.legend(frameon=False, loc="lower right")
        return figure


def _shade(part: float, largest: float) -> str:
    strength = 0.0 if largest <= 0 else min(1.0, abs(part) / largest)
    return f"{0.55 * strength:.2f}"


def _signed(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}\u00a0%"


_TEMPLATE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>dsir_spark: what was selected</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;color:#1b1b1b;margin:2rem auto;max-width:72rem;
padding:0 1.2rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.2rem;margin:2.2rem 0 .6rem;
border-bottom:1px solid #ddd}
h3{font-size:1rem;margin:1.3rem 0 .4rem}.quiet{color:#666;font-size:.87rem}
table{border-collapse:collapse;margin:.4rem 0;font-size:.92rem}
td,th{padding:.22rem .9rem .22rem 0;text-align:right;border-bottom:1px solid #eee;
vertical-align:top}
td:first-child,th:first-child,td.text,th.text{text-align:left}
.verdict{background:#f4f6f8;border-left:4px solid #1f5fa8;padding:.7rem 1rem;margin:.8rem 0}
.verdict strong{font-size:1.12rem}
.warn{border-left:4px solid #1b1b1b;background:#faf6ea;padding:.5rem 1rem;margin:.5rem 0}
.row{display:flex;flex-wrap:wrap;gap:1rem 2rem}.row>div{flex:1 1 26rem;min-width:0}
svg{max-width:100%;height:auto}
.example{margin:.7rem 0;padding:.5rem .9rem;border:1px solid #ddd;border-radius:4px}
.example p{margin:.3rem 0;overflow-wrap:anywhere;unicode-bidi:isolate}
bdi,td.text{overflow-wrap:anywhere}
mark{color:inherit;padding:0 1px}mark.up{border-bottom:2px solid #1f5fa8}
mark.down{border-bottom:2px dotted #a85a1f}
code{font-size:.9em;background:#f2f2f2;padding:0 .25em;overflow-wrap:anywhere}
</style></head><body>
<h1>What was selected</h1>
<p class="quiet">Run {{ run.id }} · {{ run.started_at }} UTC · method {{ run.method }}, seed
{{ run.seed }} · model {{ run.model }} · dsir_spark {{ run.version }}</p>

{% for v in verdict %}<div class="verdict"><strong>{{ v.sentence }}</strong><br>
KL reduction {{ v.kl_reduction|signed }} nats an n-gram; random of equal size
{{ v.kl_reduction_random|signed }}{% if v.bound is not none %}; no selection of that size can pass
{{ v.bound|signed }}{% endif %}. {{ "{:,}".format(v.documents) }} documents,
{{ "{:,}".format(v.tokens) }} tokens; effective sample size of the weights
{{ "{:,.1f}".format(v.effective_sample_size) }} documents.</div>{% endfor %}

{% for w in warnings %}<div class="warn"><strong>{{ w.sentence|visible }}</strong>
{{ w.remedy }} <span class="quiet">({{ w.name }}: {{ "%.4g"|format(w.found) }}, threshold
{{ "%.4g"|format(w.threshold) }})</span></div>
{% else %}<p>No check found anything to warn of.</p>{% endfor %}

<h2>Funnel</h2><div class="row"><div><table><tr><th>documents</th><th></th></tr>
{% for f in funnel %}<tr><td>{{ f.label }}</td><td>{{ "{:,}".format(f.count) }}</td></tr>
{% endfor %}</table></div>
<div><table><tr><th>for target</th><th>documents</th><th>tokens</th></tr>
{% for v in verdict %}<tr><td><bdi>{{ v.target }}</bdi></td>
<td>{{ "{:,}".format(v.documents) }}</td><td>{{ "{:,}".format(v.tokens) }}</td></tr>{% endfor %}
</table></div></div>

{% for c in composition %}<h2>Before and after: <bdi>{{ c.column|visible }}</bdi></h2>
<div class="row"><div>{{ c.picture }}</div><div><table><tr><th class="text">value</th>
<th>raw</th><th>share</th><th>candidates</th><th>selected</th><th>share</th></tr>
{% for r in c.rows[:14] %}<tr><td class="text"><bdi>{{ (r.value|visible)[:60] }}</bdi></td>
<td>{{ "{:,}".format(r.raw) }}</td><td>{{ r.raw_share|percent }}</td>
<td>{{ "{:,}".format(r.candidates) if r.candidates is not none else "–" }}</td>
<td>{{ "{:,}".format(r.selected) }}</td><td>{{ r.selected_share|percent }}</td></tr>{% endfor %}
</table>{% if c.rows|length > 14 %}<p class="quiet">and {{ c.rows|length - 14 }} further
values</p>{% endif %}</div></div>{% endfor %}

{% for t in targets %}<h2>{% if targets|length == 1 and t.name == "target" %}The target{% else
%}Target <bdi>{{ t.name }}</bdi>{% endif %}</h2>
<div class="row"><div><h3>Log weights, and where the cut is</h3>{{ t.weights_picture }}</div>
<div><h3>Weight against length</h3>{{ t.lengths_picture }}
<p class="quiet">Rank correlation {{ t.correlation|signed }} on a sample of
{{ "{:,}".format(t.sample) }} candidates.</p></div></div>
{% if t.curve_picture %}<h3>Where more documents stop helping</h3>{{ t.curve_picture }}
<p class="quiet">Candidates by falling key, without quotas and before copies are left out; the more
documents, the nearer to raw.</p>{% endif %}
<h3>What drives it</h3>
<p class="quiet">Buckets that move the weights of the target's (left) and of raw's documents (right)
most, with the n-grams found in a sample of {{ t.sampled }} texts: the share is of the bucket's
n-grams, so below 100 % several share its log ratio.</p>
<div class="row">{% for side, rows in (("raise weights", t.up), ("lower weights", t.down)) %}<div>
<table><tr><th class="text">{{ side }}</th><th>log ratio</th><th>target</th><th>raw</th></tr>
{% for d in rows %}<tr><td class="text">{% for g, share in d.ngrams %}<code>{{ (g|visible)[:40] }}
</code> {{ share|percent }} {% else %}<span class="quiet">not in the sample</span>{% endfor %}</td>
<td>{{ d.log_ratio|signed(2) }}</td><td>{{ d.p_target|percent }}</td><td>{{ d.p_raw|percent }}</td>
</tr>{% endfor %}</table></div>{% endfor %}</div>
<h3>Examples</h3>
<p class="quiet">Solid underline: the token's n-grams raise the weight; dotted: they lower it.</p>
{% for e in t.examples %}<div class="example"><span class="quiet">{{ e.place }} ·
<code>{{ (e.id|visible)[:80] }}</code> · key {{ e.key|signed(2) }} · log weight
{{ e.log_weight|signed(2) }} nats · {{ "{:,}".format(e.num_tokens) }} tokens</span>
<p dir="auto">{% for piece, part in e.pieces %}{% if part == 0 %}{{ piece|visible_piece }}{% else
%}<mark class="{{ 'up' if part > 0 else 'down' }}" style="background:rgba({{ '31,95,168' if part > 0
else '190,110,40' }},{{ part|shade(e.largest) }})">{{ piece|visible_piece }}</mark>{% endif
%}{% endfor %}{% if e.more %} …{% endif %}</p></div>{% endfor %}
{% endfor %}
</body></html>
"""


def render(facts: Mapping[str, Any]) -> str:
    """The page of the facts that `evidence.gather` gives."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    environment.filters |= {
        "visible": visible,
        # A piece keeps the blank between two tokens.
        "visible_piece": lambda text: " " if text.isspace() else visible(text),
        "signed": _signed,
        "percent": _percent,
        "shade": _shade,
    }
    chosen = {v["target"]: v for v in facts["verdict"]}
    targets = []
    for t in facts["targets"]:
        pictures = {
            "weights_picture": _svg(weights_figure(t["weights"])),
            "lengths_picture": _svg(lengths_figure(t["lengths"])),
            "curve_picture": _svg(curve_figure(t["curve"], chosen[t["name"]])) if t["curve"]
            else None,
        }
        targets.append({**t, **pictures})
    composition = [
        {**c, "picture": _svg(composition_figure(c["column"], c["rows"]))}
        for c in facts["composition"]
    ]
    template = environment.from_string(_TEMPLATE)
    return template.render(**{**facts, "targets": targets, "composition": composition})
