"""DSIR as an Estimator and its Model of `pyspark.ml`, for code that is built of `Pipeline`s.

Thin: `DSIR` fits and `DSIRModel` weighs; here they get parameters, stages and storage of Spark's.
Parameters are the options, under their names. Fitting takes one frame, as all of `pyspark.ml` does,
so a column of it says which rows are the target.

Under Spark Connect (tried on 4.2) `fit` and `transform` work, alone and within a `Pipeline`, and
`save` and `load` too; `write().overwrite()` of a stage by itself does not, as Spark's own writer
asks the JVM for it: that of a `Pipeline` does. On 3.5 Connect stores no stage at all.
"""

from __future__ import annotations

from typing import Any

from pyspark.ml import Estimator, Model
from pyspark.ml.param import Param, Params
from pyspark.ml.util import (
    DefaultParamsReadable,
    DefaultParamsReader,
    DefaultParamsWritable,
    DefaultParamsWriter,
)
from pyspark.sql import DataFrame
from pyspark.sql import types as T

from dsir_spark.columns import check_column, quoted
from dsir_spark.dsir import DSIR, DSIRModel
from dsir_spark.errors import ColumnError, ConfigError
from dsir_spark.options import FitOptions

__all__ = ["DSIREstimator", "DSIRTransformer"]

# But for what is never stored: a tokenizer that is a function is not for stages that are.
_FIELDS = {name: f for name, f in FitOptions.model_fields.items() if not f.exclude}
# Params looks for them among the attributes of the class.
_Declared: Any = type(
    "_Declared",
    (Params,),
    {n: Param(Params._dummy(), n, str(f.description)) for n, f in _FIELDS.items()},  # type: ignore[attr-defined, unused-ignore]
)


class DSIREstimator(_Declared, Estimator, DefaultParamsReadable, DefaultParamsWritable):  # type: ignore[type-arg, unused-ignore]
    """Fits a `DSIRTransformer` on raw and target, rows of one frame.

    Both come from the frame's own plan: what is costly to make should be stored first.
    """

    target_column: Param[str] = Param(
        Params._dummy(),  # type: ignore[attr-defined, unused-ignore]
        "target_column",
        "Column (boolean) that is true in rows of the target and false in rows of raw; rows of "
        "null are left out.",
    )

    def __init__(self, *, target_column: str = "is_target", **options: Any) -> None:
        """Check the parameters.

        Parameters
        ----------
        target_column : str
            Column (boolean) that is true in rows of the target, false in those of raw.
        **options
            Those of `DSIR` but for `allow_functions`; `explainParams` tells of them.

        Raises
        ------
        ConfigError
            Listing all parameters that are out of range.
        """
        super().__init__()
        if others := sorted(set(options) - set(_FIELDS)):
            raise ConfigError(f"unknown parameter {', '.join(others)}; see explainParams()")
        FitOptions.checked(options)
        self._setDefault(**{n: f.default for n, f in _FIELDS.items()}, target_column="is_target")
        self._set(**options, target_column=target_column)

    def _fit(self, dataset: DataFrame) -> DSIRTransformer:
        name = self.getOrDefault("target_column")
        check_column(dataset, name, "the DataFrame", "target_column")
        kind = dataset.select(quoted(name)).schema[0].dataType
        if not isinstance(kind, T.BooleanType):
            raise ColumnError(
                f"target_column {name!r} must be boolean; it is {kind.simpleString()}"
            )
        options = {n: self.getOrDefault(n) for n in _FIELDS}
        rows = dataset.where(~quoted(name)), dataset.where(quoted(name))
        return DSIRTransformer(DSIR(**options).fit(*rows))


class DSIRTransformer(Model, DefaultParamsReadable, DefaultParamsWritable):  # type: ignore[type-arg, unused-ignore]
    """Adds log weights and `num_tokens`, as `DSIRModel.transform` does.

    model : the `DSIRModel`, to select by (`resample`), explain and save as a table
    """

    def __init__(self, model: DSIRModel | None = None) -> None:
        """Of a model; without one only Spark's reader makes it."""
        super().__init__()
        self.model = model

    def _known(self) -> DSIRModel:
        if self.model is None:
            raise ConfigError("a DSIRTransformer needs a model: fit one, or load one")
        return self.model

    def _transform(self, dataset: DataFrame) -> DataFrame:
        return self._known().transform(dataset)

    def write(self) -> DefaultParamsWriter:
        """What saves Spark's metadata and, beside it, the model as a Delta table."""
        self._known()  # before anything is written, or removed for it
        return _Writer(self)

    @classmethod
    def read(cls) -> DefaultParamsReader[DSIRTransformer]:
        """What loads them again."""
        return _Reader(cls)


class _Writer(DefaultParamsWriter):
    def saveImpl(self, path: str) -> None:
        super().saveImpl(path)
        self.instance.model.save(f"{path}/model", spark=self.sparkSession)  # type: ignore[attr-defined, unused-ignore]


class _Reader(DefaultParamsReader[DSIRTransformer]):
    def load(self, path: str) -> DSIRTransformer:
        stage = super().load(path)
        stage.model = DSIRModel.load(f"{path}/model", spark=self.sparkSession)
        return stage
