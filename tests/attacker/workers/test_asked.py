"""What the server asks of users it knows: an attack is told so, whatever it is told of the users' own defenses."""

from pathlib import Path

import pytest
from dispatching import capture, make_run

from attacker.workers.jobs import Job, Workbench, recipe
from fl_sim.traits import Traits

CLIPPED = Traits(keeps_norm=True, scales=True)
ASKED = {
    "none": (),
    "server_fixed": (),  # the server clips when it has seen the update
    "client_fixed": (Traits(max_norm=2.5, keeps_norm=True, scales=True),),  # of the gradient, at learning rate 0.2
    "client_adaptive": (CLIPPED,),  # to another bound in each round
}


@pytest.mark.parametrize("kind", ASKED)
def test_every_attack_knows_that_its_server_asked_users_to_clip(kind: str, tmp_path: Path) -> None:
    run, job = make_run(tmp_path / "run"), Job("a", 1, (0, 1))
    protocol = f'[protocol]\ndifferential_privacy = "{kind}"\nclipping_norm = 0.5\n'
    text = run.config.read_text().replace("rounds = 2", "rounds = 2\nlearning_rate = 0.2")
    run.config.write_text(text.partition("[attacks.a]")[0] + protocol + '[attacks.a]\nname = "dlg"\n')
    capture(run, 1)
    bench = Workbench(run.root)
    assert bench.attacks["a"].knowledge == "none"
    assert [one.defenses for one in bench.observations(job)] == [ASKED[kind]] * 2
    made = recipe(run, bench.config, bench.attacks["a"], 1, 0)
    assert made["defenses"] == ([{"name": f"dp_{kind}"}] if ASKED[kind] else [])
