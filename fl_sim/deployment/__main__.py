"""`python -m fl_sim.deployment STEP`: what containers do that `fl-sim up` does at once; see docker-compose.yml.

certificates --users N --host HOST            make certificates and keys, unless they are there
register --superlink HOST:PORT                tell the SuperLink the public keys of all users
supernode --superlink HOST:PORT --port PORT   become the SuperNode of the next user
healthy URL                                   exit 0 if the server at URL answers (https://, http://, grpc://)
"""

import argparse
import sys

from fl_sim.deployment import DeploymentError, State, state_folder


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fl_sim.deployment")
    steps = parser.add_subparsers(dest="step", required=True)
    certificates = steps.add_parser("certificates")
    certificates.add_argument("--users", type=int, required=True)
    certificates.add_argument("--host", required=True, help="under which the SuperLink is reached")
    register, supernode = steps.add_parser("register"), steps.add_parser("supernode")
    for step in (register, supernode):
        step.add_argument("--superlink", required=True, metavar="HOST:PORT")
    supernode.add_argument("--port", type=int, required=True, help="of loopback, for the ClientApps of this SuperNode")
    steps.add_parser("healthy").add_argument("url")
    arguments = parser.parse_args()
    try:
        return _take(arguments, state_folder())
    except (DeploymentError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _take(arguments: argparse.Namespace, state: State) -> int:
    from fl_sim.deployment import certificates, flower, health, native, node

    if arguments.step == "certificates":
        if not certificates.serves(state, arguments.users):
            certificates.make(state, arguments.users, [arguments.host])
    elif arguments.step == "register":
        native.register(state, flower.connect(arguments.superlink, state))
    elif arguments.step == "supernode":
        node.become(state, arguments.superlink, arguments.port)
    else:
        return 0 if health.healthy(arguments.url, state) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
