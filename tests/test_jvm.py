"""The JVM of a local session: flags that it accepts, and classes kept for the next one."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from types import SimpleNamespace

import pytest

from dsir_spark import cli, jvm, session
from dsir_spark.errors import ConfigError


@pytest.fixture(autouse=True)
def nothing_set(tmp_path, monkeypatch):
    for name in (*jvm._ELSEWHERE, *jvm._OPTIONS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a home"))
    monkeypatch.setattr(jvm, "_recording", None)


def java(*flags):
    return subprocess.run(["java", *flags, "-version"], capture_output=True, text=True, check=True)


def mapped(*flags):
    """Does the JVM take an archive that the flags name? It starts without, too."""
    return "Mapped dynamic" in java(*flags, "-Xlog:cds=info").stdout


def test_a_session_of_one_compiler_has_room_for_what_it_compiles():
    """The default with one compiler is 48 MB, which a run of several targets fills."""
    told = java(*jvm.flags({}).split(), "-XX:+PrintFlagsFinal").stdout
    (size,) = [line.split()[3] for line in told.splitlines() if "ReservedCodeCacheSize" in line]
    assert int(size) >= 200 << 20


@pytest.mark.parametrize("name", jvm._OPTIONS)
def test_a_collector_that_the_environment_names_is_the_only_one(name, monkeypatch):
    monkeypatch.setenv(name, "-Xss1m -XX:+UseSerialGC")
    java(*jvm.flags({}).split())
    assert jvm.flags({}) == jvm.QUICK
    monkeypatch.delenv(name)
    java(*jvm.flags({}).split())
    with pytest.raises(subprocess.CalledProcessError):
        java("-XX:+UseSerialGC", jvm._COLLECTOR)


@pytest.mark.parametrize("key", ["spark.jars", "spark.jars.packages", "spark.driver.extraClassPath",
                                 "spark.driver.defaultJavaOptions"])  # fmt: skip
def test_a_class_path_of_the_callers_is_left_alone(key):
    assert jvm.folder("17", "p", {"spark.driver.memory": "1g"})
    assert jvm.folder("17", "p", {key: "x"}) is None
    assert jvm.flags({key: "x"}) == jvm.QUICK


@pytest.mark.parametrize("name", jvm._ELSEWHERE)
def test_so_is_one_of_the_environment(name, monkeypatch, tmp_path):
    monkeypatch.setenv(name, str(tmp_path))
    assert jvm.folder("17", "p", {}) is None
    assert jvm.flags({}) == jvm.QUICK


def test_each_java_and_each_delta_has_a_folder_of_its_own(tmp_path):
    folders = {jvm.folder(said, of, {}) for said in ("17", "21") for of in ("a:b:1", "a:b:2")}
    assert len(folders) == 4
    assert {folder.parent for folder in folders} == {tmp_path / "a home" / "dsir_spark"}


def test_delta_stands_on_the_class_path_without_what_spark_has(tmp_path):
    kept = jvm.folder("17", "p", {})
    assert jvm.class_path(kept) is None
    names = ["io.delta_delta-spark_4.2_2.13-4.4.0.jar", "io.delta_delta-storage-4.4.0.jar",
             "com.fasterxml.jackson.core_jackson-core-2.13.5.jar",
             "org.apache.spark_spark-sql_2.13-4.0.0-SNAPSHOT.jar"]  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    jvm.keep_jars(kept, "")  # of a session that was there before
    assert jvm.class_path(kept) is None
    jvm.keep_jars(kept, ",".join(f"file://{tmp_path / name}" for name in names))
    assert jvm.class_path(kept) == os.pathsep.join(str(tmp_path / name) for name in names[:2])
    (tmp_path / names[1]).unlink()
    assert jvm.class_path(kept) is None


def test_classes_of_a_command_that_ended_well_are_kept():
    """By a real JVM: one writes the archive, and the next one maps it."""
    kept = jvm.folder("17", "p", {})
    kept.mkdir(parents=True)
    assert not jvm.archive(kept, record=False)
    writes = jvm.archive(kept, record=True)
    assert not jvm.archive(kept, record=True), "one process writes it"
    said = java(*jvm.QUICK.split(), *shlex.split(writes))
    assert "cds" not in said.stdout + said.stderr
    assert not jvm.archive(kept, record=False), "its command may have stopped at a mistake"
    jvm.ended(well=True)
    maps = jvm.archive(kept, record=True)
    assert "SharedArchiveFile" in maps
    assert mapped(*jvm.QUICK.split(), *shlex.split(maps))
    assert not mapped(*jvm.QUICK.split())


def test_after_a_command_that_stopped_at_a_mistake_the_next_one_writes(monkeypatch):
    """By the command line, whose session is a JVM that loads little."""
    kept = jvm.folder("17", "p", {})
    kept.mkdir(parents=True)
    outcomes = iter([ConfigError("a mistake"), KeyboardInterrupt(), None])

    def command(*_, **__):
        java(*shlex.split(jvm.archive(kept, record=True)))
        if (error := next(outcomes)) is not None:
            raise error

    monkeypatch.setattr(cli, "cli", SimpleNamespace(main=command))
    for code in (2, 130):
        with pytest.raises(SystemExit) as ended:
            cli.main([])
        assert ended.value.code == code
        assert not jvm.archive(kept, record=False)
    cli.main([])
    assert "SharedArchiveFile" in jvm.archive(kept, record=False)


def test_half_an_archive_is_written_anew():
    kept = jvm.folder("17", "p", {})
    kept.mkdir(parents=True)
    assert jvm.archive(kept, record=True)
    jvm.ended(well=True)
    (kept / "classes.jsa").write_bytes(bytes(4096))  # killed before its header
    assert not jvm.archive(kept, record=True)
    hours_ago = time.time() - 2 * jvm._HOUR
    os.utime(kept / "claim", (hours_ago, hours_ago))
    assert "ArchiveClassesAtExit" in jvm.archive(kept, record=True)
    assert not (kept / "ended").exists()


def test_an_archive_that_does_not_fit_is_no_hindrance():
    kept = jvm.folder("17", "p", {})
    kept.mkdir(parents=True)
    java(*shlex.split(jvm.archive(kept, record=True)))
    jvm.ended(well=True)
    maps = shlex.split(jvm.archive(kept, record=False))
    assert mapped(*maps)
    (kept / "classes.jsa").chmod(0o600)
    (kept / "classes.jsa").write_bytes(b"\x01" * 4096)  # by its header of another Java
    assert shlex.split(jvm.archive(kept, record=False)) == maps
    assert not mapped(*maps)
    said = java(*maps)
    assert "cds" not in said.stdout + said.stderr


def test_archives_of_what_is_gone_are_removed():
    kept, other = jvm.folder("17", "p", {}), jvm.folder("21", "p", {})
    for folder in (kept, other):
        folder.mkdir(parents=True)
    (other / "classes.jsa").touch()
    long_ago = time.time() - 2 * jvm._MONTH
    os.utime(other, (long_ago, long_ago))
    assert jvm.archive(kept, record=True)
    assert kept.exists() and not other.exists()


def test_a_home_that_cannot_be_written_is_no_hindrance(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    kept = jvm.folder("17", "p", {})
    jvm.keep_jars(kept, f"{tmp_path}/io.delta_delta-spark_4.2_2.13-4.4.0.jar")
    assert jvm.class_path(kept) is None
    assert not jvm.archive(kept, record=True)


def test_a_folder_that_is_gone_at_the_end_is_no_hindrance():
    for well in (True, False):
        kept = jvm.folder("17", "p", {})
        kept.mkdir(parents=True)
        assert jvm.archive(kept, record=True)
        shutil.rmtree(kept)
        jvm.ended(well=well)
        assert not kept.exists()


def test_a_home_that_java_would_take_for_two_keeps_none(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}{os.pathsep}b")
    assert jvm.folder("17", "p", {}) is None


def test_only_a_local_session_starts_by_what_was_kept(monkeypatch, tmp_path):
    found = ",".join(f"file://{tmp_path}/{name}%20x.jar" for name in ("delta-a", "delta-b"))
    jars = [tmp_path / "delta-a x.jar", tmp_path / "delta-b x.jar"]
    for jar in jars:
        jar.touch()
    context = SimpleNamespace(getConf=lambda: {"spark.jars": found})
    monkeypatch.setattr(session, "_configured", lambda builder, settings: dict(settings))
    monkeypatch.setattr(session, "_start", lambda s: SimpleNamespace(sparkContext=context, had=s))
    by = lambda **k: session.build_session(**k).had  # noqa: E731

    assert "spark.driver.extraClassPath" not in by(master="spark://there:7077")
    first = by(master="local[1]", record=True)
    assert session.delta_package() in first["spark.jars.packages"]
    second = by(master="local[1]", record=True, conf={"spark.driver.memory": "1g"})
    assert second["spark.driver.extraClassPath"] == os.pathsep.join(map(str, jars))
    assert "spark.jars.packages" not in second
    assert "ArchiveClassesAtExit" in second["spark.driver.extraJavaOptions"]
    for elsewhere in ({"master": "spark://there:7077"}, {"remote": "local[2]"},
                      {"conf": {"spark.jars.packages": "a:b:1"}}):  # fmt: skip
        other = by(record=True, **elsewhere)
        assert "spark.driver.extraClassPath" not in other
        assert session.delta_package() in other["spark.jars.packages"]
