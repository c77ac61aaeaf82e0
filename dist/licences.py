#!/usr/bin/env python3
"""Writes the licence texts of every crate in the program: dist/licences.py TARGET > THIRD-PARTY.txt"""

import json
import pathlib
import subprocess
import sys

NAMES = ("license", "licence", "copying", "notice", "unlicense")


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def texts(folder):
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name.lower().startswith(NAMES))
    return [file.read_text(encoding="utf-8", errors="replace").strip() for file in files]


def main(target):
    tree = output("cargo", "tree", "--locked", "-p", "nola-train", "--target", target, "-e", "normal",
                  "--prefix", "none", "--format", "{p}")
    built = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    metadata = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1"))
    packages = [package for package in metadata["packages"]
                if package["source"] and (package["name"], "v" + package["version"]) in built]
    holders = {}
    for package in sorted(packages, key=lambda package: (package["name"], package["version"])):
        found = texts(pathlib.Path(package["manifest_path"]).parent)
        name = f"{package['name']} {package['version']} ({package['license'] or 'see below'}; {package['repository'] or ''})"
        for text in found or ["(The package holds no text of its licence; its repository does.)"]:
            holders.setdefault(" ".join(text.split()), (text, []))[1].append(name)
    for text, names in holders.values():
        print("=" * 100, *names, "", text, "", sep="\n")


main(sys.argv[1])
