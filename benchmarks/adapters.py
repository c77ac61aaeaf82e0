#!/usr/bin/env python3
"""Compares all adapters at three equal budgets of trainable parameters on two tasks.

    python3 benchmarks/adapters.py rates TASK [METHOD...]      # learning rates at the middle budget: JSON lines in benchmarks/adapters-rates.json
    python3 benchmarks/adapters.py compare TASK [METHOD...]    # five seeds at the best rate: JSON lines in benchmarks/adapters.json
    python3 benchmarks/adapters.py table                       # what the JSON lines say, as Markdown
    python3 benchmarks/adapters.py picture                     # docs/adapters.svg: quality over bytes

TASK is digits or museum. Run in the root of the checkout; NOLA_TRAIN names the program (default: nola-train), JOBS how many runs are made at once.
What is there already is not measured again.
"""

import os
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from choices import changes, keep, known, program

RATES_FILE, SCORES_FILE, PICTURE = "benchmarks/adapters-rates.json", "benchmarks/adapters.json", "docs/adapters.svg"
SEEDS = 5
RATE_SEEDS = {"digits": 2, "museum": 1}

# One rule for every adapter: these rates at the middle budget, seeds 0 and 1 (museum: 0); the best accuracy (museum: loss) wins.
# At the large budget, that rate and the next lower one are tried in the same way.
RATES = [2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1]
# Where the largest rate tried is the best, the next of these is tried as well.
LARGER = [2e-1, 5e-1, 1.0]
# A step of PRANC takes the longer the more coefficients it has, so on museum its rates are tried at the small budget.
RATE_BUDGET = {("museum", "pranc"): 0}
REFERENCES = ["linear", "full"]

RECIPES = {"digits": "assets/recipes/vit-digits-{}.toml", "museum": "assets/recipes/text-museum-{}.toml"}
# Only the last step is scored, so that none is chosen by its score; the sentences take half the steps of their recipes.
ALWAYS = {"digits": ["train.evaluate_every=0"],
          "museum": ["train.evaluate_every=0", "train.steps=200", "train.warmup=20"]}

TWO = 'targets=["query", "value"]'
# What reaches a budget, or comes nearest: the budgets are those of LoRA of rank 1 on query and value, and of ranks 1 and 4 everywhere.
BUDGETS = {
    "digits": {
        "nola": [["k=32"], ["k=112"], ["k=448", "rank=8"]],
        "lora": [["rank=1", TWO], ["rank=1"], ["rank=4"]],
        "dora": [["rank=1", 'targets=["query"]'], ["rank=1", 'targets=["query", "key", "value", "up"]'], ["rank=3"]],
        "olora": [["rank=1", TWO], ["rank=1"], ["rank=4"]],
        "pissa": [["rank=1", TWO], ["rank=1"], ["rank=4"]],
        "alora": [["rank=1", TWO], ["rank=1"], ["rank=4"]],
        "lora-xs": [["rank=8"], ["rank=15"], ["rank=30"]],
        "vera": [["rank=96", TWO], ["rank=112"], ["rank=784"]],
        "pranc": [["k=2304", "basis=sign"], ["k=8064", "basis=sign"], None],
        "pc-lora": [None, ["rank=1"], ["rank=3"]],
    },
    "museum": {
        "nola": [["k=27"], ["k=130"], ["k=521", "rank=8"]],
        "lora": [["rank=1", TWO], ["rank=1"], ["rank=4"]],
        "dora": [["rank=1", 'targets=["query"]'], ["rank=1", 'targets=["query", "key", "value", "output", "gate"]'],
                 ["rank=3"]],
        "olora": [["rank=1", TWO], ["rank=1"], ["rank=4"]],
        "pissa": [["rank=1", TWO], ["rank=1"], ["rank=4"]],
        "alora": [["rank=1", TWO], ["rank=1"], ["rank=4"]],
        "lora-xs": [["rank=7"], ["rank=16"], ["rank=32"]],
        "vera": [["rank=96", TWO], ["rank=119"], ["rank=900"]],
        "pranc": [["k=1536", "basis=sign"], ["k=7296", "basis=sign"], None],
        "pc-lora": [None, ["rank=1"], ["rank=3"]],
    },
}
NAMES = ["small", "middle", "large"]


def settings(task, method, budget, rate):
    if method in REFERENCES:
        return ALWAYS[task]
    return [*(f"method.{part}" for part in BUDGETS[task][method][budget]), f"train.learning_rate={rate}", *ALWAYS[task]]


def row_of(task, method, seeds, parts):
    """What `compare` finds, or an empty row where training diverges."""
    with tempfile.TemporaryDirectory() as out:
        found = program("compare", RECIPES[task].format(method), "--seeds", str(seeds), "--out", out + "/compare", *changes(parts))
    return found["rows"][0] if found else {}


def in_parallel(function, items):
    with ThreadPoolExecutor(int(os.environ.get("JOBS", "1"))) as pool:
        list(pool.map(lambda item: function(*item), items))


def measure_rates(task, methods):
    done = {(line["task"], line["method"], line["rate"]) for line in known(RATES_FILE) if "budget" not in line}
    items = [(method, rate) for method in methods or BUDGETS[task] for rate in RATES if (task, method, rate) not in done]

    def one(method, rate):
        row = row_of(task, method, RATE_SEEDS[task], settings(task, method, RATE_BUDGET.get((task, method), 1), rate))
        keep(RATES_FILE, {"task": task, "method": method, "rate": rate,
                          "losses": row.get("losses"), "accuracies": row.get("accuracies")})
    in_parallel(one, items)
    for rate in LARGER:
        edge = [method for method in methods or BUDGETS[task]
                if rate_of(task, method, 1) == max(rates_tried(task, method)) < rate]
        in_parallel(one, [(method, rate) for method in edge])


def rates_tried(task, method):
    return [line["rate"] for line in known(RATES_FILE) if (line["task"], line["method"]) == (task, method) and "budget" not in line]


def best(task, lines):
    """The rate of the line with the best score."""
    score = {"digits": lambda line: (-statistics.mean(line["accuracies"]), statistics.mean(line["losses"])),
             "museum": lambda line: statistics.mean(line["losses"])}[task]
    return min((line for line in lines if line["losses"]), key=score)["rate"]


def rate_of(task, method, budget):
    tried = [line for line in known(RATES_FILE) if (line["task"], line["method"]) == (task, method) and "budget" not in line]
    rate = best(task, tried)
    if budget < 2:
        return rate
    rates = [rate, *[lower for lower in RATES + LARGER if lower < rate][-1:]]
    lines = [line for line in known(RATES_FILE) if (line["task"], line["method"], line.get("budget")) == (task, method, "large")]
    for missing in (rate for rate in rates if rate not in [line["rate"] for line in lines]):
        row = row_of(task, method, RATE_SEEDS[task], settings(task, method, budget, missing))
        lines.append({"task": task, "method": method, "budget": "large", "rate": missing,
                      "losses": row.get("losses"), "accuracies": row.get("accuracies")})
        keep(RATES_FILE, lines[-1])
    return best(task, lines)


def measure(task, methods):
    done = {(line["task"], line["method"], line["budget"], line["rate"]) for line in known(SCORES_FILE)}
    items = [(method, budget) for budget in (1, 0, 2) for method in methods or BUDGETS[task]
             if BUDGETS[task][method][budget]]
    items += [(method, None) for method in REFERENCES if not methods and (task, method, None, None) not in done
              and os.path.exists(RECIPES[task].format(method))]

    def one(method, budget):
        rate = None if budget is None else rate_of(task, method, budget)
        if budget is not None and (task, method, NAMES[budget], rate) in done:
            return
        row = row_of(task, method, SEEDS, settings(task, method, budget, rate))
        keep(SCORES_FILE, {"task": task, "method": method, "budget": None if budget is None else NAMES[budget], "rate": rate,
                           "settings": [] if budget is None else BUDGETS[task][method][budget],
                           "trainable": row.get("trainable"), "numbers": row.get("adapter_numbers"), "bytes": row.get("adapter_bytes"),
                           "seconds": row.get("seconds_median"), "losses": row.get("losses"), "accuracies": row.get("accuracies")})
    in_parallel(one, items)


def newest():
    """The last line of each adapter at each budget: an earlier one was made with a rate that another one has beaten since."""
    return {(line["task"], line["method"], line["budget"]): line for line in known(SCORES_FILE) if line["losses"]}.values()


def score(line):
    """Mean and deviation of what the task is judged by."""
    values = [100 * value for value in line["accuracies"]] if line["task"] == "digits" else line["losses"]
    return statistics.mean(values), statistics.stdev(values)


def table():
    for line_of in BUDGETS:
        unit, digits = ("accuracy %", 1) if line_of == "digits" else ("validation loss", 3)
        print(f"\n| {line_of}: budget | method | settings | rate | trainable parameters | adapter bytes | {unit} |")
        print("|---|---|---|---:|---:|---:|---:|")
        lines = [line for line in newest() if line["task"] == line_of]
        for budget in [*NAMES, None]:
            of = [line for line in lines if line["budget"] == budget]
            for line in sorted(of, key=lambda line: score(line)[0], reverse=line_of == "digits"):
                mean, deviation = score(line)
                rate = "" if line["rate"] is None else f"{line['rate']:g}"
                print(f"| {budget or ''} | {line['method']} | {', '.join(line['settings'])} | {rate} | {line['trainable']} | {line['bytes']} "
                      f"| {mean:.{digits}f} ± {deviation:.{digits}f} |")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["rates", task, *methods]:
            measure_rates(task, methods)
        case ["compare", task, *methods]:
            measure(task, methods)
        case ["table"]:
            table()
        case ["picture"]:
            from adapters_picture import draw
            draw(list(newest()), score, PICTURE)
        case _:
            sys.exit(__doc__)
