"""`fl-sim down`: the end of what `fl-sim up` has started."""

from fl_sim.deployment import state_folder


def down() -> None:
    """Stop the SuperLink and SuperNodes that fl-sim up has started, and nothing else."""
    from fl_sim.deployment import native  # and so cryptography

    deployment = native.down(state_folder())
    if deployment is None:
        print("no deployment is up")
    else:
        print(f"stopped the SuperLink at {deployment.superlink} and {deployment.users} SuperNodes")
