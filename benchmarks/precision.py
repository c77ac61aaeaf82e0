#!/usr/bin/env python3
"""Measures what the storage of a base costs: loss, seconds, memory.

    python3 benchmarks/precision.py run museum|smollm2    # every storage: JSON lines in benchmarks/precision.json
    python3 benchmarks/precision.py table                 # what the JSON lines say, as Markdown

Run in the root of the checkout; NOLA_TRAIN names the program (default: nola-train). What is there already is not measured again.
The task `smollm2` needs `models/` and `data/`, see benchmarks/README.md.
"""

import statistics
import sys
import tempfile

from choices import changes, keep, known, program

FILE = "benchmarks/precision.json"
STORAGES = {
    "f32": [], "bf16": ["model.dtype=bf16"], "f16": ["model.dtype=f16"],
    "int8": ["model.dtype=bf16", "model.quantize=int8"],
    "nf4": ["model.dtype=bf16", "model.quantize=nf4"],
    "nf4-double": ["model.dtype=bf16", "model.quantize=nf4-double"],
}
# The recipe of each task, its seeds and what is changed.
TASKS = {
    "museum": ("assets/recipes/text-museum-nola.toml", 3, ["train.evaluate_every=0"]),
    "smollm2": ("benchmarks/recipes/smollm2-nola-128.toml", 1, ["train.evaluate_every=0", "train.steps=40", "train.warmup=4"]),
}


def run(task):
    recipe, seeds, always = TASKS[task]
    there = {(row["task"], row["storage"], row["seed"]) for row in known(FILE)}
    for seed in range(seeds):
        for storage, parts in STORAGES.items():
            if (task, storage, seed) in there:
                continue
            with tempfile.TemporaryDirectory() as out:
                sets = [*always, *parts, f"train.seed={seed}", f"output.dir={out}/run"]
                found = program("train", recipe, *changes(sets))
            if found is None:
                sys.exit(f"{task} in {storage}: the program ended with an error")
            keep(FILE, {"task": task, "storage": storage, "seed": seed, "loss": found["loss"],
                        "seconds": found["seconds"], "peak_memory_bytes": found["peak_memory_bytes"]})


def table():
    rows = known(FILE)
    print("| task | storage | validation loss | seconds | peak memory, MB |")
    print("|---|---|---:|---:|---:|")
    for task in TASKS:
        for storage in STORAGES:
            of = [row for row in rows if (row["task"], row["storage"]) == (task, storage)]
            if not of:
                continue
            losses = [row["loss"] for row in of]
            spread = f" ± {statistics.stdev(losses):.3f}" if len(losses) > 1 else ""
            seconds = statistics.median(row["seconds"] for row in of)
            memory = statistics.median(row["peak_memory_bytes"] for row in of) / 1e6
            print(f"| {task} | {storage} | {statistics.mean(losses):.3f}{spread} | {seconds:.1f} | {memory:.0f} |")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", task] if task in TASKS:
            run(task)
        case ["table"]:
            table()
        case _:
            sys.exit(__doc__)
