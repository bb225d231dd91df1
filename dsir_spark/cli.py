"""The command line: reads options, builds the session, prints. No arithmetic.

Options come from three places, later ones win: defaults, the YAML file of `--config`, flags.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import click
import yaml
from pyspark.errors import AnalysisException, PythonException
from pyspark.sql import SparkSession

from dsir_spark import __version__, config, evidence, job, report, session
from dsir_spark.config import JobConfig
from dsir_spark.errors import ConfigError, DSIRError

USER_ERROR, OUR_ERROR = 2, 1


def _named(flag: str) -> Callable[..., dict[str, Any] | None]:
    """Callback of a repeatable NAME=VALUE flag: a dict, or None where it is not given."""

    def parse(context: click.Context, _p: click.Parameter, values: tuple[str, ...]) -> Any:
        pairs: dict[str, Any] = {}
        for value in values:
            name, found, rest = value.partition("=")
            if not found or "/" in name or "." in name:
                name, rest = "target", value
            if name in pairs:
                raise click.BadParameter(f"{name} is given twice; name them {flag} NAME=...")
            pairs[name] = rest
        return pairs or None

    return parse


def _proportions(context: click.Context, _p: click.Parameter, values: tuple[str, ...]) -> Any:
    pairs = {}
    for value in values:
        name, _, number = value.partition("=")
        try:
            pairs[name] = float(number)
        except ValueError:
            raise click.BadParameter(f"{value!r}: give NAME=NUMBER") from None
    return pairs or None


def _number(text: str, flag: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{flag} {text!r} is not a number") from None


def _auto(context: click.Context, p: click.Parameter, value: str | None) -> Any:
    return value if value in (None, "auto") else _number(value, f"{p.name}")


def _quality(context: click.Context, _p: click.Parameter, values: tuple[str, ...]) -> Any:
    if not values or values == ("paper",):
        return values[0] if values else None
    pairs = (v.partition("=") for v in values if v != "paper")
    return {name: _number(number, name) for name, _, number in pairs}


def _quotas(context: click.Context, _p: click.Parameter, values: tuple[str, ...]) -> Any:
    if not values or values == ("raw",):
        return values[0] if values else None
    found: dict[str, Any] = {}
    for value in values:
        name, given, share = value.rpartition("=")
        if not given:
            raise click.BadParameter(f"{value!r}: give raw, VALUE=SHARE or VALUE=MIN..MAX")
        low, both, high = share.partition("..")
        if not both:
            found[name] = _number(share, name)
        else:
            ends = {"min": low, "max": high}
            found[name] = {k: _number(v, name) for k, v in ends.items() if v}
    return found


def _fit_size(context: click.Context, _: click.Parameter, value: str | None) -> Any:
    return int(value) if value is not None and value.isdigit() else value


_RAW = [
    click.option("--raw", help="Raw corpus: a path or schema.table."),
    click.option("--where", help="Spark SQL predicate on raw's columns: the rest is left out."),
    click.option("--raw-format", type=click.Choice(config.FORMATS), help="If names do not tell."),
]
_OUTPUT = [
    click.option("--output", help="Where the tables go: a path or catalog.schema."),
    click.option("--config", "config_file", type=click.Path(dir_okay=False),
                 help="YAML file of options; flags win."),
    click.option("--master", help="Spark master; default: local, all cores."),
    click.option("--remote", help="Spark Connect server, e.g. sc://host:15002."),
]  # fmt: skip
_FIT = [
    click.option("--target", multiple=True, callback=_named("--target"), metavar="[NAME=]PATH",
                 help="Target sample; several with names are separate targets."),
    click.option("--target-format", type=click.Choice(config.FORMATS)),
    click.option("--text-column", help="Default: text."),
    click.option("--id-column", help="Default: id, or ids made from the texts."),
    click.option("--ngrams", type=int, help="N-grams of 1 to N tokens. Default: 2."),
    click.option("--num-buckets", type=int, help="Default: 10000."),
    click.option("--tokenizer", help="wordpunct (default), wordpunct_cjk, bytes, the path of a "
                 "Hugging Face tokenizer.json, or module:function."),
    click.option("--hash", type=click.Choice(config.HASHES), help="Default: xxhash64."),
    click.option("--target-laplace-smoothing", type=float, help="Default: 0."),
    click.option("--target-dirichlet-smoothing", callback=_auto,
                 help="auto or a number of n-grams. Default: 0."),
    click.option("--num-tokens-to-fit", callback=_fit_size, help="all, auto or a number."),
    click.option("--chunk-words", type=int, help="Weigh and select chunks of N words."),
]  # fmt: skip
_WEIGH = [
    click.option("--keep", multiple=True, help="Column of raw to keep in the weights table."),
    click.option("--check-ids/--no-check-ids", default=None,
                 help="Refuse ids that occur twice (shuffles the ids). Default: check."),
]  # fmt: skip
_REPORT = [
    click.option("--report/--no-report", default=None,
                 help="Write the report page at the end (two more passes). Default: write."),
]  # fmt: skip
_OVERWRITE = [click.option("--overwrite", is_flag=True, default=None, help="Replace tables.")]
_RESAMPLE = [
    click.option("--num-to-sample", type=int, help="Documents to select."),
    click.option("--num-tokens-to-sample", type=int, help="Tokens to select, instead."),
    click.option("--size-column", help="The budget is of this column's numbers, not of tokens."),
    click.option("--method", type=click.Choice(config.METHODS), help="Default: sample."),
    click.option("--seed", type=int, help="Default: 0."),
    click.option("--min-example-length", type=int, help="Tokens. Default: 100."),
    click.option("--quality", multiple=True, callback=_quality, metavar="paper|BOUND=NUMBER",
                 help="The paper's quality rule, or with other bounds."),
    click.option("--normalize", type=click.Choice(config.NORMALIZE),
                 help="ngram: rank by the mean log ratio. Default: none."),
    click.option("--temperature", callback=_auto,
                 help="Log weights are divided by it; auto or a number. Default: 1."),
    click.option("--proportion", "proportions", multiple=True, callback=_proportions,
                 metavar="NAME=NUMBER", help="Share of a target; default by n-grams."),
    click.option("--allocation", type=click.Choice(config.ALLOCATIONS), help="Default: joint."),
    click.option("--duplicates", type=click.Choice(config.DUPLICATES),
                 help="Of texts equal but for case and white space, one is kept. Default: drop."),
    click.option("--group-column", help="For --max-per-group: a domain, author or cluster."),
    click.option("--max-per-group", type=int, help="Best documents of each group at most."),
    click.option("--quota-column", help="For --quota."),
    click.option("--quota", "quotas", multiple=True, callback=_quotas,
                 metavar="raw|VALUE=SHARE|VALUE=MIN..MAX",
                 help="Share of the budget for a value; raw: each keeps its own."),
    click.option("--quota-shortfall", type=click.Choice(config.SHORTFALLS),
                 help="Too few of a value: the others fill it, or not. Default: fill."),
    click.option("--whole-documents", type=float,
                 help="With chunks: also write documents of which this share was selected."),
    click.option("--match-steps", type=int, help="Of method match. Default: 16."),
    click.option("--match-tokens", callback=_fit_size,
                 help="N-grams of raw that match learns from: auto (default), all or a number."),
]  # fmt: skip


def _options(*groups: list[Any]) -> Callable[[Any], Any]:
    def wrap(command: Any) -> Any:
        for option in reversed([o for group in groups for o in group]):
            command = option(command)
        return command

    return wrap


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dsir-spark")
def cli() -> None:
    """Select, from a raw corpus, documents distributed like a target (DSIR on Spark)."""


@cli.command()
@_options(_RAW, _FIT, _WEIGH, _RESAMPLE, _REPORT, _OVERWRITE, _OUTPUT)
def run(**flags: Any) -> None:
    """Fit, weigh and resample: the whole job."""
    _do("run", job.run_all, flags)


@cli.command()
@_options(_RAW, _FIT, _OVERWRITE, _OUTPUT)
def fit(**flags: Any) -> None:
    """Count n-grams of raw and target; write OUTPUT/model."""
    _do("fit", job.fit, flags)


@cli.command()
@_options(_RAW, _FIT, _WEIGH, _OVERWRITE, _OUTPUT)
def weigh(**flags: Any) -> None:
    """Weigh raw with OUTPUT/model; write OUTPUT/weights."""
    _do("weigh", job.weigh, flags)


@cli.command("resample")
@_options(_RAW, _FIT, _RESAMPLE, _REPORT, _OUTPUT)
def resample_command(**flags: Any) -> None:
    """Select from OUTPUT/weights; write OUTPUT/selected."""
    _do("resample", job.resample_again, flags)


@cli.command("report")
@click.option("--composition", multiple=True, help="Column of raw to count before and after.")
@click.option("--examples", type=click.IntRange(0, 100), default=3, show_default=True)
@click.option(
    "--html",
    type=click.Path(dir_okay=False),
    help="The page. Default: OUTPUT/report.html, or dsir-report.html.",
)
@_options(_OUTPUT)
def report_command(
    composition: tuple[str, ...], examples: int, html: str | None, **flags: Any
) -> None:  # fmt: skip
    """Show what the latest run selected, and why; write it as a page (two passes over raw)."""
    options, master, remote = _read_options(flags)
    chosen = JobConfig.from_mapping(options)
    chosen.require("output")
    spark = session.build_session(master=master, remote=remote)
    click.echo(report.report(spark, str(chosen.output), composition, examples))
    with _progress(spark)("writing the report page"):
        written = evidence.write(spark, str(chosen.output), html, composition, examples)
    click.echo(f"page: {written}")


@cli.command("explain")
@click.option("--id", "ids", multiple=True, required=True, help="Of a document; repeatable.")
@click.option(
    "--number",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="N-grams shown of each document.",
)
@_options(_OUTPUT)
def explain_command(ids: tuple[str, ...], number: int, **flags: Any) -> None:
    """Split the weights of documents over their n-grams."""
    options, master, remote = _read_options(flags)
    chosen = JobConfig.from_mapping(options)
    chosen.require("output")
    spark = session.build_session(master=master, remote=remote)
    click.echo(evidence.explained(spark, str(chosen.output), ids, number))


@cli.command()
@click.option("--output", type=click.Path(file_okay=False), default="dsir-demo", show_default=True)
@click.option("--num-to-sample", type=click.IntRange(1), default=2_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
def demo(output: str, num_to_sample: int, seed: int) -> None:
    """Run the real job on text that every Python installation has."""
    from dsir_spark import demo_data

    begin = time.monotonic()
    folder = Path(output)
    data = demo_data.build_demo_data(folder / "data")
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in data.kinds.items())
    click.echo(
        f"raw: {data.documents:,} documents, {data.bytes / 1e6:.1f} MB of text from this Python "
        f"installation ({kinds})\ntargets, from packages left out of raw: {', '.join(data.targets)}"
    )
    options = {
        "raw": str(data.raw),
        "target": {name: str(path) for name, path in data.targets.items()},
        "output": str(folder / "tables"),
        "num_to_sample": num_to_sample,
        "seed": seed,
        "keep": ["kind"],
        "min_example_length": 50,
        "overwrite": True,
    }
    spark = session.build_session()
    chosen = JobConfig.from_mapping(options)
    job.run_all(spark, chosen, _progress(spark))
    click.echo(report.report(spark, str(chosen.output), ["kind"], examples=1))
    with _progress(spark)("writing the report page"):
        page = evidence.write(spark, str(chosen.output), None, ["kind"])
    click.echo(f"page: {page}")
    click.echo(_where(str(chosen.output)))
    click.echo(f"done in {time.monotonic() - begin:.0f} s; look again with: "
               f"dsir-spark report --output {chosen.output} --composition kind")  # fmt: skip


def _read_options(flags: dict[str, Any]) -> tuple[dict[str, Any], str | None, str | None]:
    """Options of the YAML file with the flags on top; master and remote apart."""
    master, remote = flags.pop("master", None), flags.pop("remote", None)
    path = flags.pop("config_file", None)
    options: dict[str, Any] = {}
    if path is not None:
        options = _read_yaml(path)
    given = {k: v for k, v in flags.items() if v is not None and v != ()}
    return {**options, **given}, master, remote


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} is not YAML: {' '.join(str(error).split())}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(
            f"config {path} must map options to values; it is a {type(found).__name__}"
        )
    return found


def _do(command: str, stage: Callable[..., dict[str, Any]], flags: dict[str, Any]) -> None:
    options, master, remote = _read_options(flags)
    chosen = JobConfig.from_mapping(options)
    chosen.require(
        *job.NEEDS[command], selects=command in job.SELECTS
    )  # before Spark's start, not after it
    spark = session.build_session(master=master, remote=remote)
    facts = stage(spark, chosen, _progress(spark))
    if "selected_by_target" in facts:
        click.echo(report.summary(facts))
        if chosen.report:
            with _progress(spark)("writing the report page"):
                page = evidence.write(spark, str(chosen.output), None, chosen.keep)
            click.echo(f"page: {page}")
    click.echo(_where(str(chosen.output)))


def _where(output: str) -> str:
    return f"tables: {', '.join(job.written_places(output))}"


def _progress(spark: SparkSession) -> Callable[[str], AbstractContextManager[None]]:
    return lambda label: session.progress(spark, label, sys.stderr)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings of this package as one line each; those of libraries stay silent."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        click.echo(f"warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"dsir_spark\.")
        warnings.showwarning = show
        yield


def main(arguments: list[str] | None = None) -> None:
    """Entry point: 0 done, 2 the user's mistake in one line, 1 ours."""
    # Spark 4 logs errors that we catch and tell, a page of JSON each.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    try:
        with _plain_warnings():
            cli.main(arguments, prog_name="dsir-spark", standalone_mode=False)
    except DSIRError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(USER_ERROR)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        sys.exit(USER_ERROR)
    except AnalysisException as error:
        click.echo(f"error: {str(error).strip().splitlines()[0]}", err=True)
        sys.exit(USER_ERROR)
    except PythonException as error:
        # A worker misses a tokenizer that the driver has.
        found = re.search(r"dsir_spark\.errors\.ConfigError: (.*)", str(error))
        if found is None:
            _bug()
        click.echo(f"error: on a worker: {found.group(1)}", err=True)
        sys.exit(USER_ERROR)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: nothing half-written is visible", err=True)
        sys.exit(130)
    except Exception:
        _bug()


def _bug() -> NoReturn:
    traceback.print_exc()
    click.echo("error: this is a bug of dsir-spark; please report the lines above", err=True)
    sys.exit(OUR_ERROR)


if __name__ == "__main__":
    main()
