"""Writes docs/options.md out of the declarations in dsir_spark/*options.py and the command line.

Run it without arguments; a test holds the page to what it gives.
"""

from __future__ import annotations

from pathlib import Path

import click

from dsir_spark.cli import cli
from dsir_spark.fields import allowed, default, extra
from dsir_spark.job_options import JobOptions, SelectJobOptions
from dsir_spark.options import (
    FeatureOptions,
    FitOptions,
    Options,
    ResampleOptions,
    SelectOptions,
)
from dsir_spark.score_options import ScoreOptions

PAGE = Path(__file__).resolve().parents[1] / "docs" / "options.md"
HEAD = """# Options

<!-- Written by scripts/options_table.py: change dsir_spark/*options.py and run it. -->

An option has one name: a key of the YAML file (`--config`), a flag with `-` for `_` and, for those
of the first tables, a keyword in Python. Flags win over the file, the file over the defaults; a
name that is unknown, a value out of range and options that contradict each other are told
together, before Spark starts. A file may hold options of all commands but `select`, which takes
its own alone.

Where an option is a mapping or a list, its flag is repeated (`--target a=PATH --target b=PATH`;
`--proportion`, `--quota`); `--group-share` takes a file of one.
In YAML, numbers and dates mean what is written (`1e6`, `007`), also as keys. What YAML reads as
true, false or null (`no`, `on`, `~`) is no text: `'no'` in quotes is.
"""
SECTIONS: dict[type[Options], str] = {
    FeatureOptions: "Features: keywords of `DSIR`, `ngram_counts` and `distill`",
    FitOptions: "The model: keywords of `DSIR`",
    SelectOptions: "The selection: keywords of `select` and of `DSIRModel.resample`",
    ResampleOptions: "The selection by a model: keywords of `DSIRModel.resample`",
    ScoreOptions: "The selection by any score: keywords of `select`",
    JobOptions: "The job: commands and YAML only",
    SelectJobOptions: "The command `select`: flags and YAML only",
}
FLAGS = [
    (option, name)
    for name, command in cli.commands.items()
    for option in command.params
    if isinstance(option, click.Option) and name != "demo"
]


def cells(*values: object) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(str(v).replace("|", "\\|") for v in values) + " |"


def table(kind: type[Options]) -> list[str]:
    """The rows of a class's own fields, in the order of their declarations."""
    lines = [cells("option", "flag", "default", "allowed", "meaning", "commands")]
    lines.append("|---|---|---|---|---|---|")
    for name, field in kind.model_fields.items():
        if name in kind.__annotations__:
            flag = next(
                option for option, command in FLAGS
                if option.name == name and command in extra(field, "commands")
            )  # fmt: skip
            given = default(field) and f"`{default(field)}`"
            commands = ", ".join(
                f"**{c}**" if c in extra(field, "needed") else c for c in extra(field, "commands")
            )
            called = f"`{' / '.join([*flag.opts, *flag.secondary_opts])}`"
            meaning = field.description
            lines.append(cells(f"`{name}`", called, given, allowed(field), meaning, commands))
    return lines


def is_option(name: str, command: str) -> bool:
    """Does a command take an option of this name?"""
    fields = [kind.model_fields[name] for kind in SECTIONS if name in kind.model_fields]
    return any(command in extra(field, "commands") for field in fields)


def others() -> list[str]:
    """The rows of the flags that are no options."""
    lines = [cells("flag", "value", "meaning", "commands"), "|---|---|---|---|"]
    own = [(option, name) for option, name in FLAGS if not is_option(str(option.name), name)]
    told = {option.opts[0]: option for option, _ in own}
    for called, option in told.items():
        value = option.metavar or option.type.name.split()[0].upper()
        commands = [name for other, name in own if other.opts[0] == called]
        meaning = (
            f"{option.help} Default: {option.default}." if option.show_default else option.help
        )
        lines.append(cells(f"`{called}`", f"`{value}`", meaning, ", ".join(commands)))
    return lines


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for kind, title in SECTIONS.items():
        lines += [f"## {title}", "", *table(kind), ""]
    lines += [
        "Commands in bold cannot do without the option; `run` and `resample` need one of "
        "`num_to_sample` and `num_tokens_to_sample`; `select` needs one of these, `quantile`, "
        "`threshold` and method `pareto`.", "", "## Flags that are no options", "",
        *others(),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
