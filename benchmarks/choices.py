#!/usr/bin/env python3
"""Measures what the defaults of recipes are chosen by: learning rates, bits of a coefficient. The other adapters: adapters.py.

    python3 benchmarks/choices.py rates TASK [METHOD...]   # every learning rate of a method: JSON lines in benchmarks/rates.json
    python3 benchmarks/choices.py bits TASK                # NOLA at 32, 16, 8 and 4 bits: JSON lines in benchmarks/bits.json
    python3 benchmarks/choices.py table rates|bits         # what the JSON lines say, as Markdown

Run in the root of the checkout; NOLA_TRAIN names the program (default: nola-train). What is there already is not measured again.
The tasks `e2e`, `cifar10` and `smollm2` need `models/`, `data/` and `cifar10/`, see benchmarks/README.md.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

PROGRAM = os.environ.get("NOLA_TRAIN", "nola-train")

# The recipe of each method, and the seeds of a learning rate.
TASKS = {
    "digits": (2, {
        "nola": "benchmarks/recipes/few-shot-nola-48.toml",
        "lora": "benchmarks/recipes/few-shot-lora-4.toml",
        "linear": "benchmarks/recipes/few-shot-linear.toml",
        "full": "benchmarks/recipes/few-shot-full.toml",
    }, []),
    "museum": (2, {
        "nola": "assets/recipes/text-museum-nola.toml",
        "lora": "assets/recipes/text-museum-lora.toml",
        "full": "assets/recipes/text-museum-full.toml",
    }, []),
    "e2e": (1, {
        "nola": "benchmarks/recipes/e2e-nola-144.toml",
        "lora": "benchmarks/recipes/e2e-lora-1.toml",
        "full": "benchmarks/recipes/e2e-full.toml",
    }, ["model.path=models/llama-stories260k", "data.text.max_tokens=400"]),
    "cifar10": (2, {"nola": "benchmarks/recipes/few-shot-nola-48.toml"},
                ["data.format=cifar10", "data.train=cifar10/data_batch_1.bin", "data.validation=cifar10/test_batch.bin"]),
    # A real base of the size that people bring: one seed of the rates beside the best ones elsewhere.
    "smollm2": (1, {
        "nola": "benchmarks/recipes/smollm2-nola-128.toml",
        "lora": "benchmarks/recipes/smollm2-lora-1.toml",
    }, []),
}

RATES = {
    "nola": [5e-3, 1e-2, 2e-2, 5e-2],
    "lora": [2e-3, 5e-3, 1e-2, 2e-2],
    "linear": [2e-3, 5e-3, 1e-2, 2e-2],
    "full": [3e-4, 1e-3, 3e-3, 1e-2],
}

# Of the tasks that take minutes a run.
FEWER_RATES = {"smollm2": {"nola": [1e-2, 2e-2, 5e-2], "lora": [5e-3, 1e-2, 2e-2]}}

BITS = [32, 16, 8, 4]
BITS_SEEDS = 5


# The exit code of a training that diverges, or that would change nothing.
DIVERGED = 8


def program(*arguments):
    """The object that the program prints, or None if training diverges; after any other error nothing is to be kept."""
    done = subprocess.run([PROGRAM, "--device", "cpu", "--quiet", *arguments, "--json"],
                          stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, DIVERGED):
        sys.exit(f"{PROGRAM} {' '.join(arguments)}: ended with status {done.returncode}")
    return json.loads(done.stdout) if done.returncode == 0 and done.stdout else None


def changes(settings):
    return [part for setting in settings for part in ("--set", setting)]


def known(file):
    if not os.path.exists(file):
        return []
    with open(file, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def keep(file, line):
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")
    print(json.dumps(line), file=sys.stderr, flush=True)


def measure_rates(task, methods):
    file = "benchmarks/rates.json"
    seeds, recipes, settings = TASKS[task]
    done = {(line["task"], line["method"], line["rate"]) for line in known(file)}
    for method in methods or recipes:
        for rate in FEWER_RATES.get(task, RATES)[method]:
            if (task, method, rate) in done:
                continue
            with tempfile.TemporaryDirectory() as out:
                found = program("compare", recipes[method], "--seeds", str(seeds), "--out", out + "/compare",
                                *changes([*settings, f"train.learning_rate={rate}"]))
            row = found["rows"][0] if found else {}
            keep(file, {"task": task, "method": method, "rate": rate, "seeds": seeds,
                        "losses": row.get("losses"), "accuracies": row.get("accuracies")})


def folder_bytes(folder):
    return sum(entry.stat().st_size for entry in os.scandir(folder))


def measure_bits(task):
    file = "benchmarks/bits.json"
    _, recipes, settings = TASKS[task]
    done = {(line["task"], line["seed"]) for line in known(file)}
    for seed in range(BITS_SEEDS):
        if (task, seed) in done:
            continue
        with tempfile.TemporaryDirectory() as out:
            run = out + "/run"
            program("train", recipes["nola"],
                    *changes([*settings, f"train.seed={seed}", f"output.dir={run}", "output.coefficient_bits=32"]))
            line = {"task": task, "seed": seed, "bytes": {}, "losses": {}, "accuracies": {}}
            for bits in BITS:
                program("export", "--run", run, "--coefficient-bits", str(bits), "--out", f"{out}/{bits}")
            for bits in BITS:
                shutil.rmtree(f"{run}/adapter")
                shutil.copytree(f"{out}/{bits}", f"{run}/adapter")
                found = program("evaluate", "--run", run)
                line["bytes"][bits] = folder_bytes(f"{out}/{bits}")
                line["losses"][bits] = found["loss"]
                line["accuracies"][bits] = found.get("accuracy")
            keep(file, line)


def show(values, digits=3):
    values = list(values)
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def scores(row):
    if not row["losses"]:
        return "diverges"
    accuracies = row["accuracies"] if row["task"] == "digits" else []
    accuracy = f" ({show((100 * value for value in accuracies), 1)} %)" if accuracies else ""
    return show(row["losses"]) + accuracy


def table_rates():
    lines = known("benchmarks/rates.json")
    print("| task | method | validation loss at each learning rate |\n|---|---|---|")
    for task in TASKS:
        for method in RATES:
            rows = [line for line in lines if (line["task"], line["method"]) == (task, method)]
            cells = [f"{row['rate']:g}: " + scores(row) for row in rows]
            if cells:
                print(f"| {task} | {method} | " + ", ".join(cells) + " |")


def table_bits():
    lines = known("benchmarks/bits.json")
    print("| task | bits | adapter bytes | validation loss | accuracy % |\n|---|---:|---:|---:|---:|")
    for task in TASKS:
        rows = [line for line in lines if line["task"] == task]
        for bits in map(str, BITS) if rows else []:
            of = [row["accuracies"][bits] for row in rows]
            accuracy = "" if task in ("museum", "e2e", "smollm2") else show((100 * value for value in of), 1)
            size = round(statistics.median(row["bytes"][bits] for row in rows))
            print(f"| {task} | {bits} | {size} | {show((row['losses'][bits] for row in rows), 4)} | {accuracy} |")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["rates", task, *methods]:
            measure_rates(task, methods)
        case ["bits", task]:
            measure_bits(task)
        case ["table", "rates"]:
            table_rates()
        case ["table", "bits"]:
            table_bits()
        case _:
            sys.exit(__doc__)
