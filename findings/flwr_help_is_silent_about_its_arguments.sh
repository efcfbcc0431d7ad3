#!/usr/bin/env bash
# flwr 1.41.0 with typer 0.20.1 (it asks for typer below 0.21) and click 8.5.1.
# Guessed: `flwr run --help` says what its arguments mean, as flwr writes it beside each.
# Seen: with click 8.5.1 the arguments stand there without a word, with click 8.4.2 each has its sentence. click 8.5
#   gives Argument a parameter `help`, and sets it to None after typer has set its own. Options are as before.
# So users of flwr, and of every app of typer below 0.21 that pip resolves anew, do not learn what APP and SUPERLINK
#   are. Nothing is printed or raised.
# Output seen:
#   click 8.5.1: Path of the Flower App: 0, Name of the SuperLink: 0, arguments: 1
#   click 8.4.2: Path of the Flower App: 1, Name of the SuperLink: 1, arguments: 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
export FLWR_HOME="$folder/home" FLWR_TELEMETRY_ENABLED=0 COLUMNS=120
for click in 8.5.1 8.4.2; do
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check flwr==1.41.0 typer==0.20.1 "click==$click"
  "$folder/venv/bin/flwr" run --help > "$folder/help"
  count() { grep -c "$1" "$folder/help" || true; }
  echo "click $click: Path of the Flower App: $(count 'Path of the Flower App')," \
    "Name of the SuperLink: $(count 'Name of the SuperLink'), arguments: $(count 'Arguments')"
done | tee "$folder/seen"
grep -qx "click 8.5.1: Path of the Flower App: 0, Name of the SuperLink: 0, arguments: 1" "$folder/seen"
grep -qx "click 8.4.2: Path of the Flower App: 1, Name of the SuperLink: 1, arguments: 1" "$folder/seen"
