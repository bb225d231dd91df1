"""The command line: reads options, starts the session, prints. No arithmetic.

Options come from three places, later ones win: defaults, the YAML file of `--config`, flags. Spark
and the job are imported when a command runs: a mistake in options is told at once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
import time
import traceback
import webbrowser
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from pydantic.fields import FieldInfo

from dsir_spark import __version__, failures, jvm, progress, session, startup
from dsir_spark.errors import ConfigError, DSIRError
from dsir_spark.fields import default, extra, leaves
from dsir_spark.job_options import ALONE, JobOptions, SelectJobOptions

USER_ERROR, OUR_ERROR, INTERRUPTED = 2, 1, 130
_ON_WORKER = re.compile(r"dsir_spark\.[\w.]*(?:TokenizerError|ConfigError): (.*)")


def _targets(_c: click.Context, _p: click.Parameter, values: tuple[str, ...]) -> Any:
    found: dict[str, str] = {}
    for value in values:
        name, given, place = value.partition("=")
        if not given or "/" in name or "." in name or os.path.exists(value):
            name, place = "target", value
        if name in found:
            raise click.BadParameter(f"{name} is given twice; name them --target NAME=...")
        found[name] = place
    return found


def _scores(_c: click.Context, _p: click.Parameter, values: tuple[str, ...]) -> Any:
    """EXPR, or NAME=EXPR; a comparison is no name."""
    found: dict[str, str] = {}
    for value in values:
        named = re.match(r"\s*([A-Za-z0-9_-]+)\s*=(?!=)(.*)", value, re.DOTALL)
        name, expression = named.groups() if named else (ALONE, value)
        if name in found:
            raise click.BadParameter(f"{name} is given twice; name them --score NAME=EXPR")
        found[name] = expression.strip()
    return found


def _pairs(_c: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Any:
    """NAME=VALUE texts as a mapping, MIN..MAX as its two ends; a word (raw, paper) by itself."""
    form = str(getattr(parameter, "metavar", ""))
    word = form.split("|")[0]
    if values == (word,):
        return word
    found: dict[str, Any] = {}
    for text in values:
        name, given, value = text.rpartition("=")
        if text == word == "paper":  # what bounds are of
            continue
        if not given or name in found:
            raise click.BadParameter(f"{text!r}: give {form}" + (", each once" if given else ""))
        low, several, high = value.partition("..")
        ends = {"min": low, "max": high}
        found[name] = {k: v for k, v in ends.items() if v} if several else value
    return found


# Flags that may be repeated: how they are called and shown, and what makes one value of them.
_REPEATED: dict[str, tuple[str, str, Callable[..., Any] | None]] = {
    "target": ("--target", "[NAME=]PATH", _targets),
    "score": ("--score", "[NAME=]EXPR", _scores),
    "keep": ("--keep", "COLUMN", None),
    "proportions": ("--proportion", "NAME=NUMBER", _pairs),
    "quality": ("--quality", "paper|BOUND=NUMBER", _pairs),
    "quotas": ("--quota", "raw|VALUE=SHARE|VALUE=MIN..MAX", _pairs),
}
# Commands that run stages of the job: its function, and the help.
_STAGES = {
    "run": ("run_all", "Fit, weigh and resample: the whole job."),
    "fit": ("fit", "Count n-grams of raw and target; write OUTPUT/model."),
    "weigh": ("weigh", "Weigh raw with OUTPUT/model; write OUTPUT/weights."),
    "resample": ("resample_again", "Select from OUTPUT/weights; write OUTPUT/selected."),
    "select": ("select", "Select by any score, without a model; write OUTPUT/selected."),
}
_SHOWN = {int: "INTEGER", float: "NUMBER", str: "TEXT"}


def flag(name: str, field: FieldInfo) -> Callable[[Any], Any]:
    """The flag of an option, with its help; its value stays a text for the option's type."""
    text, kinds = str(field.description), leaves(field.annotation)
    text += f" Default: {default(field)}." if default(field) else ""
    dashed = name.replace("_", "-")
    if kinds == [bool]:
        return click.option(f"--{dashed}/--no-{dashed}", name, default=None, help=text)
    shown = "|".join(_SHOWN.get(kind, str(kind)) for kind in kinds)
    called, shown, parse = _REPEATED.get(name, (f"--{dashed}", shown, None))
    several = name in _REPEATED
    return click.option(called, name, metavar=shown, multiple=several, callback=parse, help=text)


_SESSION = [
    click.option("--config", "config_file", type=click.Path(dir_okay=False),
                 help="YAML file of options; flags win."),
    click.option("--master", help="Spark master; default: local, all cores."),
    click.option("--remote", help="Spark Connect server, e.g. sc://host:15002."),
    click.option("--conf", multiple=True, metavar="KEY=VALUE",
                 help="Setting of Spark; repeatable."),
]  # fmt: skip


def _kind(command: str) -> type[JobOptions]:
    """The options of a command."""
    return SelectJobOptions if command == "select" else JobOptions


def _options(command: str) -> Callable[[Any], Any]:
    """The flags of a command: inputs and output first, the session last."""
    kind = _kind(command)
    every = kind.model_fields
    first = {**kind.__annotations__, **JobOptions.__annotations__}
    names = [n for n in {**first, **every} if n in every]
    flags = [flag(n, every[n]) for n in names if command in extra(every[n], "commands")]

    def wrap(function: Any) -> Any:
        for option in reversed([*flags, *_SESSION]):
            function = option(function)
        return function

    return wrap


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dsir-spark")
@click.pass_context
def cli(context: click.Context) -> None:
    """Select, from a raw corpus, documents distributed like a target (DSIR on Spark)."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _page_place(_: click.Context, __: click.Parameter, place: str | None) -> str | None:
    if place is not None and Path(place).suffix == ".json":
        raise click.BadParameter("the facts are written beside the page, as .json: name it .html")
    if place is not None and not Path(place).absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {Path(place).absolute().parent}")
    return place


@cli.command()
@click.option("--composition", multiple=True, metavar="COLUMN",
              help="Column of raw (of a select: of its scores) to count before and after. "
              "Default: those that the run kept.")  # fmt: skip
@click.option("--examples", type=click.IntRange(0, 100), metavar="N",
              help="Documents shown from the top, the middle and below the cut. "
              "Default: 3, or none where the run was to show none.")  # fmt: skip
@click.option("--no-examples", is_flag=True, help="Show no texts and no n-grams.")
@click.option("--html", type=click.Path(dir_okay=False), metavar="FILE", callback=_page_place,
              help="The page. Default: OUTPUT/report.html, or dsir-report.html.")  # fmt: skip
@click.option("--open", "opened", is_flag=True, help="Open the page in the browser.")
@_options("report")
def report(
    composition: tuple[str, ...], examples: int | None, no_examples: bool, html: str | None,
    opened: bool, **flags: Any,
) -> None:  # fmt: skip
    """Show what the latest run selected, and why; write it as a page."""
    options, where = _read("report", flags)
    with _starting(**where) as started:
        from dsir_spark import job
        from dsir_spark.report import page, text

        page.place_of(str(options.output), html)
    spark = started.result()
    output = str(options.output)
    facts = job.report_again(
        spark, output, composition, 0 if no_examples else examples, progress.of(spark),
        options.allow_functions,
    )  # fmt: skip
    _show(spark, output, facts, text.full, html=html, opened=opened)


@cli.command()
@click.option("--id", "ids", multiple=True, required=True, help="Of a document; repeatable.")
@click.option("--number", type=click.IntRange(1, 1000), default=20, show_default=True,
              help="N-grams shown of each document.")  # fmt: skip
@_options("explain")
def explain(ids: tuple[str, ...], number: int, **flags: Any) -> None:
    """Split the weights of documents over their n-grams."""
    options, where = _read("explain", flags)
    with _starting(**where) as started:
        from dsir_spark import job
    functions = options.allow_functions
    progress.say(job.explain(started.result(), str(options.output), ids, number, functions))


@cli.command()
@_options("runs")
def runs(**flags: Any) -> None:
    """List the runs under OUTPUT, those too that have not ended."""
    options, where = _read("runs", flags)
    with _starting(**where) as started:
        from dsir_spark import places
        from dsir_spark import runs as record
    spark = started.result()
    for line in record.listing(spark, places.resolved(spark, str(options.output))):
        progress.say(line)


@cli.command()
@click.option("--output", type=click.Path(file_okay=False), default="dsir-demo", show_default=True,
              help="Folder of data and tables.")  # fmt: skip
@click.option("--num-to-sample", type=click.IntRange(1), default=2_000, show_default=True,
              help="Documents to select.")  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the noise.")
@click.option("--max-mb", type=click.FloatRange(1), default=40, show_default=True,
              help="Megabytes of text in raw.")  # fmt: skip
def demo(output: str, num_to_sample: int, seed: int, max_mb: float) -> None:
    """Run the real job on text that every Python installation has."""
    begin = time.monotonic()
    folder = Path(output)
    with _starting(writes=True, record=True) as started:
        from dsir_spark import demo_data, job, published
        from dsir_spark.report import text

        data = demo_data.build_demo_data(folder / "data", max_mb)
        options = JobOptions.from_mapping({
            "raw": str(data.raw),
            "target": {name: str(path) for name, path in data.targets.items()},
            "output": str(folder / "tables"),
            "num_to_sample": num_to_sample,
            "seed": seed,
            "keep": ["kind"],
            "overwrite": True,
        })  # fmt: skip
        if not started.done():  # a first start looks for jars, and nothing is compiled yet
            job.compile_kernels(options)
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in data.kinds.items())
    progress.say(
        f"raw: {data.documents:,} documents, {data.bytes / 1e6:.1f} MB of text from this Python "
        f"installation ({kinds})\ntargets, from packages left out of raw: {', '.join(data.targets)}"
    )
    spark = started.result()
    row = job.run_all(spark, options, progress.of(spark))
    _show(spark, str(options.output), row["facts"], text.full)
    with progress.of(spark)("selecting as DSIR was published, to compare"):
        lines = published.beside(spark, options, row)
    progress.say("\n".join(("", *lines, "")))
    progress.say(f"tables: {', '.join(job.written_places(str(options.output), row))}")
    progress.say(f"done in {time.monotonic() - begin:.0f} s; look again with: "
                 f"dsir-spark report --output {options.output} --composition kind")  # fmt: skip


@contextlib.contextmanager
def _starting(writes: bool = False, **where: Any) -> Iterator[Future[Any]]:
    """The session that starts meanwhile: seconds, for which Python need not wait.

    writes : it will write tables
    """

    def start() -> Any:
        spark = session.build_session(**where)
        if writes:
            session.warm(spark)
        return spark

    # Here, for two threads that enter pyspark by different doors find it half imported.
    try:
        import pyspark.sql  # noqa: F401
    except ImportError:
        start()  # which says so
    with ThreadPoolExecutor(1) as aside:
        yield aside.submit(start)


def _do(command: str, **flags: Any) -> None:
    options, where = _read(command, flags)
    with _starting(writes=True, record=command == "run", **where) as started:
        from dsir_spark import job
        from dsir_spark.report import page, text

        if command not in ("fit", "weigh") and options.report:
            page.place_of(str(options.output))
        if command in ("run", "fit") and not started.done():  # else it failed
            job.compile_kernels(options)
    spark = started.result()
    row = getattr(job, _STAGES[command][0])(spark, options, progress.of(spark))
    if "facts" in row:
        _show(spark, str(options.output), row["facts"], text.summary, page=options.report)
    progress.say(f"tables: {', '.join(job.written_places(str(options.output), row))}")


for _name, (_, _text) in _STAGES.items():
    cli.command(_name, help=_text)(_options(_name)(functools.partial(_do, _name)))


def _show(
    spark: Any, output: str, facts: Any, template: Callable[[Any], str], *,
    page: bool = True, html: str | None = None, opened: bool = False,
) -> None:  # fmt: skip
    """Print what was selected, and write the page of it; `opened`: in the browser."""
    from dsir_spark import job

    progress.say(template(facts))
    if page:
        with progress.stage("writing the report page", progress.of(spark)):
            written = job.write_report(spark, facts, output, html)
        there, note = Path(written), ""
        if opened and not (there.is_file() and webbrowser.open(there.resolve().as_uri())):
            note = " (no browser here that could open it)"
        progress.say(f"page: {written}{note}")


def _read(command: str, flags: dict[str, Any]) -> tuple[JobOptions, dict[str, Any]]:
    """The options of the YAML file with the flags on top, and what the session is made by.

    All that can be told without Spark is told here.
    """
    where = {"master": flags.pop("master"), "remote": flags.pop("remote"), "conf": {}}
    for setting in flags.pop("conf"):
        key, given, value = setting.partition("=")
        if not given:
            raise ConfigError(f"--conf {setting!r}: give KEY=VALUE")
        where["conf"][key] = value
    path = flags.pop("config_file")
    values = startup.read_yaml(path) if path else {}
    values |= {name: value for name, value in flags.items() if value not in (None, (), {})}
    options = _kind(command).from_mapping(values, command)
    if startup.is_local(**where):
        startup.look_for_places(command, options)
    return options, where


def _is(error: BaseException, module: str, name: str) -> bool:
    """Is it of a class that is known only where its module has been imported?"""
    return isinstance(error, getattr(sys.modules.get(module), name, ()))


def _outcome(error: BaseException) -> tuple[int, str]:
    """The exit code and the line of what ended a command."""
    if isinstance(error, click.Abort) and isinstance(error.__context__, EOFError):
        error = error.__context__  # click takes any for the end of what is typed
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return INTERRUPTED, "interrupted: nothing half-written is visible"
    if isinstance(error, click.ClickException):
        return USER_ERROR, f"error: {error.format_message()}"
    if isinstance(error, DSIRError) or _is(
        error, "dsir_spark.features.tokenizers", "TokenizerError"
    ):
        return USER_ERROR, f"error: {error}"
    if found := _ON_WORKER.search(str(error)):  # it misses a tokenizer that the driver has
        return USER_ERROR, f"error: on a worker: {found.group(1)}"
    if line := failures.told(error):
        return USER_ERROR, f"error: {line}"
    if _is(error, "pyspark.errors", "AnalysisException"):
        return USER_ERROR, f"error: {str(error).strip().splitlines()[0]}"
    traceback.print_exception(error)
    return OUR_ERROR, "error: this is a bug of dsir-spark; please report the lines above"


def main(arguments: list[str] | None = None) -> None:
    """Entry point: 0 done, 2 the user's mistake in one line, 1 ours, 130 interrupted."""
    # Spark 4 logs errors that we catch and tell, a page of JSON each.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    try:
        with progress.told():
            cli.main(arguments, prog_name="dsir-spark", standalone_mode=False)
        jvm.ended(well=True)
    except (Exception, KeyboardInterrupt) as error:
        jvm.ended(well=False)
        code, line = _outcome(error)
        click.echo(line, err=True)
        sys.exit(code)
    except SystemExit:  # click's, where nobody reads its help
        jvm.ended(well=False)
        raise


if __name__ == "__main__":
    main()
