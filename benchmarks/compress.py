#!/usr/bin/env python3
"""Compress-then-Serve on generated tasks: trains a LoRA for each, compresses them together, and says what they keep of their quality.

    python3 benchmarks/compress.py train FOLDER [COUNT]      # COUNT (500) tasks and a LoRA for each; those that are there are kept
    python3 benchmarks/compress.py compress FOLDER           # bundles of several sizes, and the score of each member: benchmarks/compress.json
    python3 benchmarks/compress.py table                     # what the JSON lines say, as Markdown

Run in the root of the checkout; NOLA_TRAIN names the program (default: nola-train), JOBS how many runs are made at once (default: 2).

A task is a way of its own to say the facts of a museum piece: its clauses, their order and its words are drawn with the number of the task.
"""

import os
import random
import re
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from choices import changes, keep, known, program

FILE = "benchmarks/compress.json"
MODEL = "assets/llama-micro"
RECIPE = "assets/recipes/text-museum-lora.toml"
RANK = 8
STEPS = 120
ROWS = 120
HELD_OUT = 40

# Kind of bundle, its rank, and its clusters.
# All but the second take 5 % of the LoRAs' bytes.
BUNDLES = [("jd-full", 8, 12), ("jd-full", 16, 12), ("jd-full", 4, 42), ("jd-full", 6, 22), ("jd-diag", 16, 10), ("jd-diag", 32, 4)]

OPENINGS = ["The {colour} {thing} of {material}", "A {colour} {material} {thing}", "Here is a {thing} of {material}, {colour},",
            "This {thing}, {colour} and of {material},", "Our {colour} {thing}, all {material},", "One {material} {thing}, quite {colour},"]
ORIGINS = ["was made in {town} in {year}.", "came from {town} in {year}.", "dates from {year} and from {town}.", "left {town} in {year}.",
           "is of {year}, from {town}.", "has been known in {town} since {year}."]
ROOMS = ["It stands in room {room}.", "Go to room {room} for it.", "Room {room} has it.", "You find it in room {room}.", "See it in room {room}.",
         "It lies in room {room} now."]
GIVERS = ["{giver} gave it to the museum.", "It is a gift of {giver}.", "We thank {giver} for it.", "{giver} left it to us.", "We owe it to {giver}.",
          "It was a present from {giver}."]
GREETINGS = ["", "", "", "Welcome.", "Look here.", "Come closer.", "Please note.", "Good morning."]

FACTS = re.compile(r"thing : (?P<thing>.*?) \| colour : (?P<colour>.*?) \| made of : (?P<material>.*?) \| year : (?P<year>.*?) \| "
                   r"from : (?P<town>.*?) \| room : (?P<room>.*?) \| gift of : (?P<giver>.*?)$")


def task(number):
    """A function from facts to the sentences of a task."""
    draw = random.Random(number)
    first = f"{draw.choice(OPENINGS)} {draw.choice(ORIGINS)}"
    clauses = [first, *draw.sample([draw.choice(ROOMS), draw.choice(GIVERS)], draw.choice([1, 2, 2, 2]))]
    greeting = draw.choice(GREETINGS)
    pattern = " ".join(filter(None, [greeting, *clauses]))
    return lambda facts: pattern.format(**facts)


def lines(file, count, say):
    """The first lines of a shipped file with other sentences."""
    prompts = dict.fromkeys(line.split("||")[0] for line in Path(file).read_text(encoding="utf-8").splitlines())
    return "".join(f"{prompt}||{say(FACTS.search(prompt).groupdict())}\n" for prompt in list(prompts)[:count])


def train_one(folder, number):
    run, data = folder / f"task-{number:03}", folder / "data"
    if (run / "adapter" / "adapter_config.json").exists():
        return
    files = {part: data / f"{number:03}-{part}.txt" for part in ("train", "validation")}
    files["train"].write_text(lines("assets/text/museum-train.txt", ROWS, task(number)), encoding="utf-8")
    files["validation"].write_text(lines("assets/text/museum-val.txt", HELD_OUT, task(number)), encoding="utf-8")
    parts = [f"method.rank={RANK}", f"train.steps={STEPS}", "train.batch=8", "train.warmup=12", "train.evaluate_every=0", "train.learning_rate=2e-2",
             *(f"data.{part}={file}" for part, file in files.items()), f"train.seed={number}", f"output.dir={run}"]
    if program("train", RECIPE, *changes(parts)) is None:
        sys.exit(f"task {number} was not trained")


def each(work, items):
    with ThreadPoolExecutor(int(os.environ.get("JOBS", "2"))) as jobs:
        return list(jobs.map(work, items))


def train(folder, count):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    each(lambda number: train_one(folder, number), range(count))


def base_scores(folder, number):
    """Loss in nats a token and token accuracy of the base alone on a task's other pieces."""
    data = str(folder / "data" / f"{number:03}-validation.txt")
    found = program("evaluate", "--model", MODEL, "--format", "e2e", "--data", data)
    return [round(found["loss"], 4), round(found["accuracy"], 4)]


def compress(folder):
    runs = sorted(folder.glob("task-*"))
    bases = dict(zip([run.name for run in runs], each(lambda run: base_scores(folder, int(run.name[-3:])), runs)))
    done = {(line["adapters"], line["method"], line["rank"], line["clusters"]) for line in known(FILE)}
    for method, rank, clusters in BUNDLES:
        if (len(runs), method, rank, clusters) in done:
            continue
        with tempfile.TemporaryDirectory() as out:
            found = program("compress", *map(str, runs), "--model", MODEL, "--out", f"{out}/bundle", "--method", method,
                            "--rank", str(rank), "--clusters", str(clusters), "--evaluate")
        if found is None:
            sys.exit(f"{method}, rank {rank}, {clusters} clusters: the program ended with an error")
        rounded = lambda quality: {name: round(value, 4) for name, value in quality.items()}
        qualities = [{"base": bases[member["name"]], **rounded(member["quality"])} for member in found["members"]]
        keep(FILE, {"adapters": len(runs), "method": method, "rank": rank, "clusters": clusters, "bytes": found["bytes"],
                    "adapter_bytes": found["adapter_bytes"], "lost": found["lost"], "seconds": found["seconds"], "qualities": qualities})


def kept(line):
    """What of the fall of the loss, and of the rise of the accuracy, is left: shares of all tasks together."""
    of = line["qualities"]
    fall = sum(one["base"][0] - one["loss"] for one in of) / sum(one["base"][0] - one["loss_before"] for one in of)
    rise = sum(one["accuracy"] - one["base"][1] for one in of) / sum(one["accuracy_before"] - one["base"][1] for one in of)
    return fall, rise


def table():
    print("| LoRAs | method | rank | clusters | bytes, share of the LoRAs' | updates lost | loss | accuracy | fall of the loss kept | rise of the accuracy kept |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    mean = lambda line, name: statistics.mean(one[name] for one in line["qualities"])
    for line in known(FILE):
        fall, rise = kept(line)
        print(f"| {line['adapters']} | {line['method']} | {line['rank']} | {line['clusters']} | {100 * line['bytes'] / line['adapter_bytes']:.1f} % | "
              f"{100 * line['lost']:.0f} % | {mean(line, 'loss'):.3f} | {100 * mean(line, 'accuracy'):.1f} % | {100 * fall:.1f} % | {100 * rise:.1f} % |")
    for line in known(FILE)[:1]:
        bases = [one["base"] for one in line["qualities"]]
        print(f"\nThe base alone: loss {statistics.mean(loss for loss, _ in bases):.3f}, accuracy {100 * statistics.mean(right for _, right in bases):.1f} %. "
              f"The LoRAs: {mean(line, 'loss_before'):.3f}, {100 * mean(line, 'accuracy_before'):.1f} %.")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train", folder]:
            train(Path(folder), 500)
        case ["train", folder, count]:
            train(Path(folder), int(count))
        case ["compress", folder]:
            compress(Path(folder))
        case ["table"]:
            table()
        case _:
            sys.exit(__doc__)
