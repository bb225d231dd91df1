"""The rows of a batch with the largest of many numbers, for each of them: what reports show.

As rows of Spark each number would be one, to be sorted: of 60 targets a hundred and twenty a
document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def best(
    batches: Iterable[pa.RecordBatch], orders: Mapping[str, int]
) -> Iterator[pa.RecordBatch]:
    """For each t of T the rows with the largest numbers, by falling (number, id); a batch for each
    batch.

    Parameters
    ----------
    batches : columns of lists (T doubles a row, no NaN) and of one value a row, `id` among them
    orders : columns of lists, and of each how many rows are wanted for each t

    All columns, of lists the t-th number, and then t (int), which of `orders` a row is there for
    (`by`, int, from 0) and its number there (`order`).
    """
    for batch in filter(len, batches):
        place = np.asarray(pc.rank(batch.column("id"), tiebreaker="min")).astype(np.int64)
        lists = {
            field.name: column.flatten().to_numpy().reshape(len(batch), -1)
            for field, column in zip(batch.schema, batch.columns, strict=True)
            if pa.types.is_list(field.type)
        }
        found = [
            (row, t, by)
            for by, (name, number) in enumerate(orders.items())
            for t, x in enumerate(lists[name].T)
            for row in _largest(x, place, number).tolist()
        ]
        rows, t, by = np.array(found, np.int64).reshape(-1, 3).T
        columns = {
            name: pa.array(lists[name][rows, t]) if name in lists else column.take(pa.array(rows))
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
        order = pa.array(np.choose(by, [columns[name].to_numpy() for name in orders]))
        marks = {"t": pa.array(t.astype(np.int32)), "by": pa.array(by.astype(np.int32))}
        yield pa.RecordBatch.from_pydict({**columns, **marks, "order": order})


def _largest(
    x: npt.NDArray[np.float64], place: npt.NDArray[np.int64], number: int
) -> npt.NDArray[np.int64]:
    """Positions of the `number` largest, of all if there are no more; of equal ones those whose
    place is larger."""
    least = np.partition(x, -number)[-number] if number < len(x) else -np.inf
    at = np.flatnonzero(x >= least)
    return at[np.lexsort((place[at], x[at]))[::-1][:number]]
