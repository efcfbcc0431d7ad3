#!/usr/bin/env bash
# flwr 1.41.0 with uv 0.12.24, `flwr run` of an app that has a development group and a uv.lock.
# Guessed: for a run the SuperLink installs [project] dependencies, no more; and as it does so by `uv sync`, in the versions
#   of the app's uv.lock.
# Seen: the group "dev" is installed too, which uv's default-groups names if nobody says otherwise, and everything that
#   flwr needs once more, though flwr itself is left out. uv.lock is not sent with the app: where it says six 1.16.0,
#   the run has what is newest that day. Each run installs an environment of its own, and removes it afterwards.
# So pytest, notebooks and linters of a project are unpacked before every run of it, and two runs of one commit can differ
#   in their packages, lock or not. What helps: exact versions in [project] dependencies, `[tool.uv] default-groups = []`.
# Output seen:
#   uv.lock: six 1.16.0
#   run: six newer, the dev group's iniconfig there, flwr's httpx there, environment kept afterwards: no
#   default-groups = []: six newer, the dev group's iniconfig absent, flwr's httpx there, environment kept afterwards: no
#   2 runs, 2 environments
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${superlink:-}" 2>/dev/null && wait; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check flwr==1.41.0 uv==0.12.24
export PATH="$folder/venv/bin:$PATH" FLWR_HOME="$folder/home" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
mkdir -p "$folder/app/brings" "$FLWR_HOME"
cat > "$folder/app/pyproject.toml" <<'TOML'
[project]
name = "brings"
version = "1.0.0"
requires-python = ">=3.11,<3.15"
dependencies = ["flwr==1.41.0", "six==1.16.0"]

[dependency-groups]
dev = ["iniconfig==2.1.0"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.flwr.app]
publisher = "somebody"

[tool.flwr.app.components]
serverapp = "brings.server:app"
clientapp = "brings.client:app"
TOML
(cd "$folder/app" && uv lock --quiet && sed -i "s/six==1.16.0/six>=1.16.0/" pyproject.toml && uv lock --quiet)
touch "$folder/app/brings/__init__.py"
printf 'from flwr.clientapp import ClientApp\n\napp = ClientApp()\n' > "$folder/app/brings/client.py"
cat > "$folder/app/brings/server.py" <<'PYTHON'
import os
from pathlib import Path

from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    environment = Path(os.environ["VIRTUAL_ENV"])
    names = {path.name.split("-")[0]: path.name for path in environment.glob("lib/*/site-packages/*.dist-info")}
    there = {name: "there" if name in names else "absent" for name in ("iniconfig", "httpx")}
    six = names["six"].removesuffix(".dist-info")
    print(f"found: six {'locked' if six == 'six-1.16.0' else 'newer'}, the dev group's iniconfig {there['iniconfig']}, "
          f"flwr's httpx {there['httpx']}")
    print("environment:", environment)
PYTHON
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf '[superlink.own]\naddress = "127.0.0.1:%s"\ninsecure = true\n' "$port" > "$FLWR_HOME/config.toml"
flower-superlink --insecure --host 127.0.0.1 --port "$port" > "$folder/log" 2>&1 &
superlink=$!
for _ in $(seq 60); do
  python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$port/health')" 2> /dev/null && break
  sleep 0.5
done
run() {
  flwr run "$folder/app" own --stream > "$folder/run" 2>&1
  environment=$(sed -n "s/^environment: //p" "$folder/run")
  echo "$environment" >> "$folder/environments"
  for _ in $(seq 10); do  # it goes when the run has ended, and the log of the run ends before
    kept=$(test -d "$environment" && echo yes || echo no)
    test "$kept" = no && break
    sleep 1
  done
  echo "$1: $(sed -n "s/^found: //p" "$folder/run"), environment kept afterwards: $kept"
}

{
  echo "uv.lock: six $(grep -A1 '^name = "six"' "$folder/app/uv.lock" | sed -n 's/version = "\(.*\)"/\1/p')"
  run "run"
  printf '\n[tool.uv]\ndefault-groups = []\n' >> "$folder/app/pyproject.toml"
  run "default-groups = []"
  echo "2 runs, $(sort -u "$folder/environments" | grep -c runtime-envs) environments"
} | tee "$folder/seen"
rest="flwr's httpx there, environment kept afterwards: no"
grep -qx "uv.lock: six 1.16.0" "$folder/seen"
grep -qx "run: six newer, the dev group's iniconfig there, $rest" "$folder/seen"
grep -qx "default-groups = \[\]: six newer, the dev group's iniconfig absent, $rest" "$folder/seen"
grep -qx "2 runs, 2 environments" "$folder/seen"
