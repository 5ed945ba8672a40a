"""The demo's plan: each step in an order that its needs allow."""

from pathlib import Path

from tad_distill.demo import GATED, ROWS, TAUGHT, steps


def test_every_step_of_the_plan_can_be_reached() -> None:
    plan = steps(Path("out"), tiny=False, seed=0, num_seeds=2)
    names = [step.name for step in plan]
    assert len(names) == len(set(names))
    done: set[str] = set()
    while ready := [s for s in plan if s.name not in done and done.issuperset(s.needs)]:
        done.update(step.name for step in ready)
    assert done == set(names)


def test_no_student_is_trained_before_the_gates_and_its_own_teacher() -> None:
    plan = {step.name: step for step in steps(Path("out"), tiny=False, seed=0, num_seeds=2)}
    for row in ROWS:
        for number in range(2):
            needs = plan[f"train_{row}_{number}"].needs
            assert ("gates" in needs) == (row not in GATED)
            assert (f"train_teacher_{number}" in needs) == (row in TAUGHT)


def test_nothing_before_the_table_reads_the_test_split() -> None:
    plan = {step.name: step for step in steps(Path("out"), tiny=False, seed=0, num_seeds=1)}
    before = ["gates"]
    while before:
        step = plan[before.pop()]
        assert "test" not in step.args
        before += step.needs
