#!/usr/bin/env bash
# Makes the archive of a release: the program, its completions, its manual pages, README, and the licences of all it is made of.
#
#     dist/archive.sh [TARGET]      # default: this machine; others need their standard library (`rustup target add TARGET`)
#                                   # and their linker, and completions and pages are those of a program built for here
#
# FEATURES names cargo features beside the default ones. The archive and its SHA-256 land in target/dist.
set -euo pipefail
cd "$(dirname "$0")/.."

here=$(rustc -vV | sed -n 's/^host: //p')
target=${1:-$here}
built=${CARGO_TARGET_DIR:-target}

build() {
    cargo build --locked --release -p nola-train --target "$1" ${FEATURES:+--features "$FEATURES"}
}

build "$target"
[ "$target" = "$here" ] || build "$here"
here_program=$built/$here/release/nola-train
version=$("$here_program" --version | cut -d' ' -f2)
name=nola-train-$version-$target
out=$built/dist
folder=$out/$name

rm -rf "$folder"
mkdir -p "$folder/completions" "$folder/man"
suffix=; case $target in *windows*) suffix=.exe ;; esac
cp "$built/$target/release/nola-train$suffix" README.md LICENSE-APACHE LICENSE-MIT "$folder/"
for shell in bash zsh fish elvish powershell; do
    "$here_program" completions "$shell" >"$folder/completions/nola-train.$shell"
done
"$here_program" man --out "$folder/man"
python3 dist/licences.py "$target" >"$folder/THIRD-PARTY.txt"

case $target in
*windows*)
    archive=$name.zip
    (cd "$out" && rm -f "$archive" && zip -qr9 "$archive" "$name")
    ;;
*)
    archive=$name.tar.xz
    tar -C "$out" --owner=0 --group=0 --numeric-owner --sort=name -cJf "$out/$archive" "$name"
    ;;
esac
(cd "$out" && sha256sum "$archive" >"$archive.sha256")
du -h "$folder/nola-train$suffix" "$out/$archive" | sed 's/^/size: /'
