"""From synthetic people to a folder of real faces: the options that studies and the paper's items share.

Their configs are of synthetic people, so that they run anywhere. These options put in the keys that must
change together for real ones: the faces, the judges that know real faces, and a prior of such faces.
"""

import argparse
from collections.abc import Mapping
from typing import Any

from attacker import attacks
from fl_sim.config import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("real faces, instead of synthetic ones")
    group.add_argument("--faces", metavar="FOLDER", help="a folder with faces.csv, as dataset.name = folder takes it")
    group.add_argument("--prior", metavar="FOLDER", help="diffusion prior for every attack that has one")
    group.add_argument("--embedder", metavar="ONNX", help="face recogniser that judges (leakage.embedder_path)")
    group.add_argument("--attributes", metavar="ONNX", help="attribute classifier that judges; without: none")
    group.add_argument("--attribute-weights", metavar="FILE", help="another, of fl-sim train-attributes")


def base_with_faces(base: Mapping[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """The config table `base` with the options put in. Raises ConfigError where they do not go together."""
    table = dict(base)
    if given.faces is not None:
        if given.embedder is None or given.prior is None:
            raise ConfigError("--faces without --embedder and --prior: the shipped ones know synthetic faces alone")
        table["dataset"] = {**table.get("dataset", {}), "name": "folder", "root": given.faces}
        judge = {"embedder": "onnx", "embedder_path": given.embedder, "attributes": "none"}
        kinds = {"onnx": given.attributes, "trained": given.attribute_weights}
        if named := [kind for kind, path in kinds.items() if path is not None]:
            paths = {"attributes_path": given.attributes, "attributes_weights": given.attribute_weights}
            judge |= {"attributes": ",".join(named), **{key: path for key, path in paths.items() if path is not None}}
        table["leakage"] = {**table.get("leakage", {}), **judge}
    elif any((given.embedder, given.attributes, given.attribute_weights)):
        raise ConfigError("--embedder, --attributes and --attribute-weights are for real faces; add --faces FOLDER")
    if given.prior is not None:
        table["attacks"] = {
            label: {**settings, "prior": given.prior}
            if attacks.load(label, settings).needs.prior is not None
            else settings
            for label, settings in table.get("attacks", {}).items()
        }
    return table
