"""Which reconstruction is the control of which: the wrong update, and the prior alone."""

import pytest

from experiments.evaluate.candidates import prior_label, wrong_user


@pytest.mark.parametrize("users", [[0, 1], [3, 5, 9], list(range(7))])
def test_the_wrong_user_is_never_the_user(users: list[int]) -> None:
    others = [wrong_user(user, users) for user in users]
    assert all(other != user for other, user in zip(others, users, strict=True))
    assert sorted(other for other in others if other is not None) == users  # each update is used once
    assert wrong_user(4, [4]) is None


def test_the_prior_control_is_the_one_with_the_same_prior() -> None:
    controls = {"b": {"prior": "rough"}, "a": {"prior": "fine"}}
    assert prior_label({"prior": "rough"}, controls) == "b"
    assert prior_label({}, controls) == "a"
    assert prior_label({}, {}) is None
