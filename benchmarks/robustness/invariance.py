"""R7: prepared files are equal byte by byte whatever the batch size and the number of worker processes."""

from itertools import product
from pathlib import Path

from benchmarks.robustness import prepared_cohort
from data_prep.preparation import prepare

BATCHES, WORKERS = (1, 7, 32), (0, 4)


def measure(folder: Path, count: int) -> str:
    """Prepare `count` slides with every pair of a batch size and a number of workers."""
    config = prepared_cohort.make(folder, count)
    files = []
    for batch_size, workers in product(BATCHES, WORKERS):
        out = str(folder / f"batch{batch_size}-workers{workers}")
        prepare(prepared_cohort.variant(config, out=out, batch_size=batch_size, workers=workers))
        files.append(prepared_cohort.contents(out))
        print(f"batch {batch_size}, {workers} workers: {len(files[-1])} files", flush=True)
    equal = sum(len(found) == count and found == files[0] for found in files)
    return f"{equal} of {len(files)} byte-equal"
