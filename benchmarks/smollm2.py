#!/usr/bin/env python3
"""Compares NOLA, LoRA and full training of a real base, SmolLM2-135M-Instruct, on two tasks.

    python3 benchmarks/smollm2.py run TASK     # rates, then three seeds of every size: JSON lines in benchmarks/smollm2.json
    python3 benchmarks/smollm2.py table        # what the JSON lines say, as Markdown
    python3 benchmarks/smollm2.py texts        # what the base, and NOLA and LoRA of the middle size, say to the first prompts

TASK is e2e or alpaca. Run in the root of the checkout; NOLA_TRAIN names the program (default: nola-train). What is there already is not
measured again. Needs `models/` and `data/`, see benchmarks/README.md.
"""

import pathlib
import statistics
import sys
import tempfile
from typing import NamedTuple

from choices import changes, keep, known, program

FILE = "benchmarks/smollm2.json"
SEEDS = 3
STEPS = 60
# Of the trials of learning rates, which are not scored by their texts.
TRIAL_SEED, TRIAL_STEPS = SEEDS, 30
BATCH = 4
BASE = "models/smollm2-135m-instruct"

# The recipe of each method and what makes its sizes; the middle one is where learning rates are tried.
SIZES = {
    "nola": ("benchmarks/recipes/smollm2-nola-480.toml", ["method.k=128", "method.k=480", "method.k=1920"]),
    "lora": ("benchmarks/recipes/smollm2-lora-1.toml", ["method.rank=1", "method.rank=4", "method.rank=8"]),
    "full": ("benchmarks/recipes/smollm2-full.toml", [None]),
}
# One rule for every method: these rates at its middle size, with half of the steps and a seed of their own; where the best is the last or
# the first of them, the next one of the ladder is tried as well, as long as it is better. The best validation loss decides for all sizes.
LADDER = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1]
FIRST_RATES = {"nola": [1e-2, 2e-2, 5e-2], "lora": [5e-3, 1e-2, 2e-2], "full": [2e-5, 5e-5, 1e-4]}


class Task(NamedTuple):
    settings: list
    # What is completed after training, how many of its prompts, and how many of these texts are kept.
    test: str
    prompts: int
    kept: int


TASKS = {
    "e2e": Task([], "data/e2e/testset_w_refs.csv", prompts=100, kept=3),
    # No score of so few answers means anything: they are read.
    "alpaca": Task(["data.format=alpaca", "data.train=data/alpaca/alpaca_en_demo.json", "data.validation=data/alpaca/alpaca_tiny.json",
                    "data.text.max_tokens=256", "data.text.on_long=drop"],
                   "data/alpaca/alpaca_tiny.json", prompts=3, kept=3),
}


def middle(method):
    sizes = SIZES[method][1]
    return sizes[len(sizes) // 2]


def measured(task, method, size, rate, seed):
    """The line of one run, which is made if it is not there."""
    steps = TRIAL_STEPS if seed == TRIAL_SEED else STEPS
    key = {"task": task, "method": method, "size": size, "rate": rate, "seed": seed, "steps": steps}
    for line in known(FILE):
        if all(line.get(name) == value for name, value in key.items()):
            return line
    with tempfile.TemporaryDirectory() as out:
        run = f"{out}/run"
        parts = [*TASKS[task].settings, *([size] if size else []), f"train.learning_rate={rate}", f"train.seed={seed}", f"train.steps={steps}",
                 f"train.warmup={steps // 10}", f"train.batch={BATCH}", f"output.dir={run}"]
        found = program("train", SIZES[method][0], *changes(parts))
        # A run that diverges has no loss.
        line = {**key, "loss": None}
        if found:
            line |= {name: found[name] for name in ("loss", "peak_memory_bytes", "trainable", "adapter_bytes")}
            line["loss_before"] = found["baseline"]["loss"]
            if seed != TRIAL_SEED:
                line |= completed(task, "--run", run)
    keep(FILE, line)
    return line


def completed(task, *model):
    """BLEU and the first texts of a model."""
    test = TASKS[task]
    with tempfile.TemporaryDirectory() as out:
        texts = pathlib.Path(out, "texts")
        scores = program("evaluate", *model, "--data", test.test, "--metrics", "--limit", str(test.prompts),
                         "--max-new-tokens", "64", "--batch", "32", "--save-texts", str(texts))
        return {"bleu": 100 * scores["metrics"]["bleu"], "texts": texts.read_text(encoding="utf-8").splitlines()[:test.kept]}


def measure_base(task):
    """What the base says by itself; its loss is in every other line."""
    if not any((line["task"], line["method"]) == (task, "base") for line in known(FILE)):
        keep(FILE, {"task": task, "method": "base", **completed(task, "--model", BASE, "--format", task)})


def loss_at(task, method, rate):
    loss = measured(task, method, middle(method), rate, TRIAL_SEED)["loss"]
    return float("inf") if loss is None else loss


def best_rate(task, method):
    tried = {rate: loss_at(task, method, rate) for rate in FIRST_RATES[method]}
    while True:
        best = min(tried, key=tried.get)
        place = LADDER.index(best)
        further = [LADDER[at] for at in (place - 1, place + 1) if 0 <= at < len(LADDER) and LADDER[at] not in tried]
        if not further:
            return best
        tried[further[0]] = loss_at(task, method, further[0])


def run(task):
    measure_base(task)
    for method, (_, sizes) in SIZES.items():
        rate = best_rate(task, method)
        for seed in range(SEEDS):
            for size in sizes:
                measured(task, method, size, rate, seed)


def show(values, digits):
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def row(task, method, size, lines):
    done = [line for line in lines if line["loss"] is not None]
    if not done:
        return f"| {task} | {method} {size or ''} | {lines[0]['rate']:g} | | | diverges | |"
    scores = show([line["bleu"] for line in done], 1) if task == "e2e" else ""
    middle_of = lambda name: statistics.median(line[name] for line in done)
    return (f"| {task} | {method} {(size or '').removeprefix('method.')} | {lines[0]['rate']:g} | {middle_of('trainable'):.0f} | "
            f"{middle_of('adapter_bytes'):.0f} | {show([line['loss'] for line in done], 3)} | {scores} |")


def base_row(task, lines):
    of_base = next((line for line in lines if line["method"] == "base"), None)
    before = [line["loss_before"] for line in lines if "loss_before" in line]
    score = f"{of_base['bleu']:.1f}" if of_base and task == "e2e" else ""
    return f"| {task} | base | | 0 | 0 | {statistics.median(before):.3f} | {score} |"


def table():
    lines = known(FILE)
    print("| task | method | rate | trainable parameters | adapter bytes | validation loss | BLEU % |\n|---|---|---:|---:|---:|---:|---:|")
    for task in TASKS:
        of_task = [line for line in lines if line["task"] == task]
        if of_task:
            print(base_row(task, of_task))
        for method, (_, sizes) in SIZES.items():
            of_method = [line for line in lines if (line["task"], line["method"]) == (task, method) and line.get("seed") != TRIAL_SEED]
            for size in sizes:
                of_size = [line for line in of_method if line["size"] == size]
                if of_size:
                    print(row(task, method, size, of_size))
    print("\n| task | method | validation loss at each learning rate |\n|---|---|---|")
    for task in TASKS:
        for method in SIZES:
            tried = sorted((line["rate"], line["loss"]) for line in lines
                           if (line["task"], line["method"], line.get("seed")) == (task, method, TRIAL_SEED))
            if tried:
                print(f"| {task} | {method} | " + ", ".join(f"{rate:g}: {loss:.3f}" if loss else f"{rate:g}: diverges" for rate, loss in tried) + " |")


def texts():
    for line in known(FILE):
        if line.get("seed", 0) == 0 and line.get("size") in (None, *(middle(method) for method in ("nola", "lora"))):
            for number, text in enumerate(line.get("texts", [])):
                print(f"{line['task']} {number}: {line['method']} {line.get('size') or ''}: {text}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", task] if task in TASKS:
            run(task)
        case ["table"]:
            table()
        case ["texts"]:
            texts()
        case _:
            sys.exit(__doc__)
