from toolkit.execution.schedule import Schedule, StageTask


def task(name: str, *parents: str, cores: int = 1) -> StageTask:
    return StageTask(name, frozenset(parents), cores)


CHAIN = [
    task("pretrain"),
    task("sft", "pretrain"),
    task("reward", "sft"),
    task("dpo", "sft"),
    task("ppo", "sft", "reward"),
    task("evaluate", "dpo", "ppo"),
]


def started(schedule: Schedule) -> list[str]:
    """Start all stages that can start now, and return their names."""
    names = []
    while (name := schedule.next()) is not None:
        schedule.start(name)
        names.append(name)
    return names


def test_independent_stages_run_side_by_side():
    schedule = Schedule(CHAIN, jobs=None, cores=2)
    assert started(schedule) == ["pretrain"] and schedule.idle_cores == 1
    schedule.finish("pretrain")
    assert started(schedule) == ["sft"]
    schedule.finish("sft")
    assert started(schedule) == ["reward", "dpo"] and schedule.idle_cores == 0
    schedule.finish("reward")
    assert started(schedule) == ["ppo"] and schedule.running == ["dpo", "ppo"]
    schedule.finish("ppo")
    assert started(schedule) == [] and schedule.waiting == ["evaluate"]
    schedule.finish("dpo")
    assert started(schedule) == ["evaluate"]
    schedule.finish("evaluate")
    assert schedule.waiting == schedule.running == []


def test_one_job_runs_one_stage_at_a_time():
    schedule, order = Schedule(CHAIN, jobs=1, cores=8), []
    while schedule.waiting:
        (name,) = started(schedule)
        order.append(name)
        schedule.finish(name)
    assert order == [task.name for task in CHAIN]


def test_stages_never_need_more_cores_than_there_are():
    tasks = [task("a", cores=2), task("b", cores=3), task("c"), task("d", cores=9)]
    schedule = Schedule(tasks, jobs=None, cores=4)
    assert started(schedule) == ["a", "c"]  # b waits for a; c fits beside a
    schedule.finish("a")
    assert started(schedule) == ["b"]
    schedule.finish("c")
    assert started(schedule) == []
    schedule.finish("b")
    assert started(schedule) == ["d"] and schedule.idle_cores == 0  # more threads than cores: alone


def test_jobs_limits_the_stages_that_fit():
    schedule = Schedule([task(name) for name in "abcd"], jobs=3, cores=8)
    assert started(schedule) == ["a", "b", "c"]


def test_finished_stage_need_not_have_run():
    schedule = Schedule(CHAIN, jobs=2, cores=2)
    schedule.finish("pretrain")
    assert schedule.next() == "sft"


def test_stages_that_can_run_side_by_side_are_recognized():
    assert Schedule(CHAIN, jobs=None, cores=2).runs_side_by_side()
    assert not Schedule(CHAIN, jobs=1, cores=2).runs_side_by_side()
    assert not Schedule(CHAIN, jobs=2, cores=1).runs_side_by_side()
    assert not Schedule(CHAIN[:3], jobs=2, cores=2).runs_side_by_side()  # each needs the one before
    wide = [task("sft"), task("dpo", "sft", cores=2), task("reward", "sft", cores=2)]
    assert not Schedule(wide, jobs=2, cores=2).runs_side_by_side()
    assert Schedule(wide, jobs=2, cores=4).runs_side_by_side()
