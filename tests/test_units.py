"""Shares of a long job: which one a process has, and how even they are."""

import itertools

import pytest

from tad_distill import units
from tad_distill.console import UsageError
from tad_distill.units import Unit, balanced, own


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in units.NUMBERS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", units.NUMBERS)
def test_the_batch_system_says_which_unit_it_is(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "3")
    assert own(8, None) == Unit(3, 8)
    assert f"event=unit number=3 of=8 by={name}" in capsys.readouterr().err
    assert own(8, 5) == Unit(5, 8)  # what is typed counts
    with pytest.raises(UsageError, match="--unit 3: expected 0 to 2"):
        own(3, None)
    monkeypatch.setenv(name, "3-5")
    with pytest.raises(UsageError, match=f"{name}=3-5: expected a number"):
        own(8, None)


def test_all_of_the_work_is_the_default_and_an_array_without_a_count_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert own(None, None) == own(1, 0) == units.ALL
    assert own(None, None).name == "main"
    assert not capsys.readouterr().err
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert own(None, None) == units.ALL
    assert "every task does all of the work" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "number", "message"),
    [
        (None, 1, "--unit 1: of how many"),
        (0, 0, "--units 0: expected at least 1"),
        (4, 4, "--unit 4: expected 0 to 3"),
        (4, -1, "--unit -1: expected 0 to 3"),
        (4, None, "--units 4: which of them"),
    ],
)
def test_impossible_units_are_refused(count: int | None, number: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        own(count, number)


def test_shares_are_even_and_do_not_depend_on_the_order() -> None:
    amounts = {f"v{i:03d}": float((i * 7919) % 97 + 1) for i in range(100)}
    shares = balanced(amounts, 8)
    assert sorted(itertools.chain(*shares)) == sorted(amounts)
    assert shares == balanced(dict(reversed(amounts.items())), 8)
    loads = [sum(amounts[name] for name in share) for share in shares]
    assert max(loads) - min(loads) <= min(amounts.values()) + 3
    assert all(share == sorted(share) for share in shares)


def test_there_may_be_fewer_things_than_shares() -> None:
    assert balanced({"a": 0.0, "b": 2.0}, 4) == [["b"], ["a"], [], []]
    assert balanced({}, 2) == [[], []]
