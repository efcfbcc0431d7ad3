"""The ground truth of captures, which the attacker may not know: whose update each holds."""

from typing import Any

from attacker.capture.store import CaptureStore
from fl_sim.config import Config
from fl_sim.federation.sampling import participants


def captures_by_user(config: Config, store: CaptureStore, server_round: int) -> dict[int, int]:
    """Under which number the update of each user was captured in a round: its own, its pseudonym, or its group's."""
    held = store.members(server_round)
    if config.protocol.shuffle:
        from fl_sim.federation.shuffling import users_by_pseudonym  # and so Flower, which takes seconds to import

        users = users_by_pseudonym(config.seed, server_round, participants(config, server_round))
        return {users[pseudonym]: pseudonym for pseudonym in held}
    return {user: capture for capture, users in held.items() for user in users}


def best_members(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each sum of several users the row of the one whom the reconstruction is most like, as the arm best_member."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if row["arm"] != "attack" or row["group_size"] == 1 or row.get("facial_similarity") is None:
            continue
        key = row["round"], row["attack"], row["capture"]
        if key not in best or row["facial_similarity"] > best[key]["facial_similarity"]:
            best[key] = row
    return [row | {"arm": "best_member"} for row in best.values()]
