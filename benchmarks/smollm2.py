#!/usr/bin/env python3
"""Compares NOLA, LoRA and full training of a real base, SmolLM2-135M-Instruct, on two tasks.

    python3 benchmarks/smollm2.py run TASK     # rates, then three seeds of every size: JSON lines in benchmarks/smollm2.json
    python3 benchmarks/smollm2.py table        # what the JSON lines say, as Markdown

TASK is e2e or alpaca. Run in the root of the checkout; NOLA_TRAIN names the program (default: nola-train). What is there already is not
measured again. Needs `models/` and `data/`, see benchmarks/README.md.
"""

import statistics
import sys
import tempfile

from choices import changes, keep, known, program

FILE = "benchmarks/smollm2.json"
SEEDS = 3
STEPS = 60
# Of the trials of learning rates, which are not scored by their texts.
TRIAL_SEED, TRIAL_STEPS = SEEDS, 30
E2E_PROMPTS = 100

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

BATCH = 4
TASKS = {
    "e2e": [],
    "alpaca": ["data.format=alpaca", "data.train=data/alpaca/alpaca_en_demo.json", "data.validation=data/alpaca/alpaca_tiny.json",
               "data.text.max_tokens=256", "data.text.on_long=drop"],
}


def middle(method):
    sizes = SIZES[method][1]
    return sizes[len(sizes) // 2]


def measured(task, method, size, rate, seed):
    """The line of one run, which is made if it is not there."""
    steps = TRIAL_STEPS if seed == TRIAL_SEED else STEPS
    key = {"task": task, "method": method, "size": size, "rate": rate, "seed": seed, "steps": steps}
    for line in known(FILE):
        if all(line[name] == value for name, value in key.items()):
            return line
    with tempfile.TemporaryDirectory() as out:
        run = f"{out}/run"
        parts = [*TASKS[task], *([size] if size else []), f"train.learning_rate={rate}", f"train.seed={seed}", f"train.steps={steps}",
                 f"train.warmup={steps // 10}", f"train.batch={BATCH}", f"output.dir={run}"]
        found = program("train", SIZES[method][0], *changes(parts))
        # A run that diverges has no loss.
        line = {**key, "loss": None}
        if found:
            line |= {name: found[name] for name in ("loss", "peak_memory_bytes", "trainable", "adapter_bytes")}
            line["loss_before"] = found["baseline"]["loss"]
            if task == "e2e" and seed != TRIAL_SEED:
                line["bleu"] = bleu(run)
    keep(FILE, line)
    return line


def bleu(run):
    scores = program("evaluate", "--run", run, "--data", "data/e2e/testset_w_refs.csv", "--metrics", "--limit", str(E2E_PROMPTS),
                     "--max-new-tokens", "64", "--batch", "32")
    return 100 * scores["metrics"]["bleu"]


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


def table():
    lines = known(FILE)
    print("| task | method | rate | trainable parameters | adapter bytes | validation loss | BLEU % |\n|---|---|---:|---:|---:|---:|---:|")
    for task in TASKS:
        for method, (_, sizes) in SIZES.items():
            of_method = [line for line in lines if (line["task"], line["method"]) == (task, method) and line["seed"] != TRIAL_SEED]
            for size in sizes:
                of_size = [line for line in of_method if line["size"] == size]
                if of_size:
                    print(row(task, method, size, of_size))
    print("\n| task | method | validation loss at each learning rate |\n|---|---|---|")
    for task in TASKS:
        for method in SIZES:
            tried = sorted((line["rate"], line["loss"]) for line in lines
                           if (line["task"], line["method"], line["seed"]) == (task, method, TRIAL_SEED))
            if tried:
                print(f"| {task} | {method} | " + ", ".join(f"{rate:g}: {loss:.3f}" if loss else f"{rate:g}: diverges" for rate, loss in tried) + " |")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", task] if task in TASKS:
            run(task)
        case ["table"]:
            table()
        case _:
            sys.exit(__doc__)
