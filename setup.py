"""Packaging only; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

README = Path(__file__).with_name("README.md")

CONNECT = [
    "grpcio>=1.67",
    "grpcio-status>=1.67",
    "googleapis-common-protos>=1.65",
    "protobuf",
    "zstandard>=0.25",
]

# What its parts on held-out bits need, which a small run in the tests has.
EVIDENCE = ["pyppmd>=1.1", "scikit-learn>=1.4", "scipy>=1.11"]

MLFLOW = ["mlflow-skinny>=3", "pandas<3"]

setup(
    name="dsir-spark",
    version="0.1.0",
    description="Data selection with importance resampling (DSIR) on Apache Spark and Delta Lake",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    project_urls={"Paper": "https://arxiv.org/abs/2302.03169"},
    keywords=["data selection", "importance resampling", "language models", "spark", "delta lake"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        *[f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)],
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["dsir_spark", "dsir_spark.*"]),
    package_data={"dsir_spark": ["py.typed"], "dsir_spark.report": ["*.html"]},
    python_requires=">=3.10",
    install_requires=[
        "numpy",
        "pyarrow>=14",
        "numba>=0.59",
        # Options: declared and checked by pydantic, read by click and from YAML.
        "click>=8.1",
        "pydantic>=2.5",
        "pyyaml",
        "xxhash>=3",  # what Spark's function of that name gives, without a query
        # The report page.
        "jinja2>=3",
        "pyppmd>=1.1",  # held-out text is read by it
        "matplotlib>=3.8",
    ],
    extras_require={
        # A cluster brings its own Spark and Delta, so neither is a plain requirement.
        "spark": ["pyspark==4.2.0", "delta-spark==4.4.0", "pandas<3", *CONNECT],
        # setuptools stands in for distutils, which Spark 3.5 imports and Python 3.12 dropped.
        "spark35": ["pyspark==3.5.9", "delta-spark==3.3.3", "pandas<3", "setuptools", *CONNECT],
        # For scripts/: benchmarks beside the reference.
        "scripts": ["data-selection==1.0.3", "nltk<3.10"],
        # For scripts/evidence.py: baselines, judges, statistics.
        "evidence": [*EVIDENCE, "gensim>=4.3", "jax>=0.4.30", "optax>=0.2", "tokenizers>=0.15"],
        "tokenizers": ["tokenizers>=0.15"],
        # For scorers that are learnt: scorer classifier.
        "classifier": ["scikit-learn>=1.4"],
        # For model.to_mlflow, and to load what it logs. The whole of mlflow will do as well.
        "mlflow": MLFLOW,
        # For docs/exports.md. MDS needs mosaicml-streaming, in an environment of its own.
        "exports": ["datasets>=3", "webdataset>=1", "zstandard>=0.25", "pandas<3"],
        # The site: `make docs`.
        "docs": [
            "mkdocs-material>=9.5",
            "mkdocs-click>=0.8",
            "mkdocstrings[python]>=0.27",
        ],
        "test": [
            *MLFLOW,
            "tokenizers>=0.15",
            "scikit-learn>=1.4",
            *EVIDENCE,
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "chispa",
            # The classes of Databricks' bundles: what a job of one must be.
            "databricks-bundles>=1",
            # The notebooks run in a kernel of their own.
            "nbclient>=0.10",
            "ipykernel",
            "data-selection==1.0.3",
            "nltk<3.10",  # later ones tokenise with the regex module: other words than re's
            "ruff",
            "mypy",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["dsir-spark = dsir_spark.cli:main"]},
)
