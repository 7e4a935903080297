"""The hyperparameter search without trainings: these are replaced by functions whose optimum is known."""

from __future__ import annotations

import gc
import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from optuna.trial import TrialState

from carde_monai import replacing, tuning, tuning_report, tuning_study, tuning_workers
from carde_monai.errors import InputError
from carde_monai.handlers.pruning import TrialReporter, reporting_to
from carde_monai.search_space import check_space, read_space
from carde_monai.tuning import failures, tune
from carde_monai.tuning_study import open_study, settle

BUNDLE = REPOSITORY / "bundle"
TRAIN = [str(BUNDLE / "configs" / "train.json")]
SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "lr_patience": {"low": 0, "high": 5},
    "batch_size": {"choices": [8, 16]},
}
SETTINGS = {"base": "train", "tracking_uri": None, "search_space": SPACE}


def train_for(losses: Callable[[Mapping[str, Any]], list[float]]) -> Callable[..., None]:
    """A stand-in for `bundles.run`: a trainer whose validation losses are ``losses(overrides)``."""

    def run(_bundle: Path, _configs: list[str], overrides: Mapping[str, Any], training: bool) -> None:
        trainer, evaluator = Engine(lambda *_: None), Engine(lambda *_: None)
        models = Path(overrides["ckpt_dir"])
        models.mkdir(parents=True)
        (models / "last_checkpoint_epoch=1.pt").touch()
        told = losses(overrides)

        def validate() -> None:
            evaluator.state.epoch = trainer.state.epoch
            evaluator.state.metrics = {"val_loss": told[trainer.state.epoch - 1]}

        trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
        TrialReporter(evaluator).attach(trainer)
        trainer.run([0], max_epochs=len(told))
        (models / "model.pt").touch()

    return run


@pytest.fixture
def search(dataset, tmp_path, monkeypatch) -> Callable[..., optuna.Study]:
    """``search(losses, trials, **settings)`` runs a search into ``tmp_path/out``; pictures only if asked."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # half of the time of trials that are nothing

    def run(losses: Callable[[Mapping[str, Any]], list[float]], trials: int, **settings: Any) -> optuna.Study:
        monkeypatch.setattr(tuning_workers.bundles, "run", train_for(losses))
        if not settings.pop("pictures", False):
            monkeypatch.setattr(Figure, "savefig", lambda _self, path, **_: Path(path).touch())
        where = {name: settings.pop(name) for name in ("storage", "study") if name in settings}
        return tune(dataset, trials, tmp_path / "out", BUNDLE, overrides=SETTINGS | settings, **where)

    return run


def plan(dataset: Path, folder: Path) -> tuning_study.Search:
    """What ``search`` does, but not begun."""
    out = folder / "out"
    address = {"name": "carde", "storage": f"sqlite:///{out}/study.db"}
    return tuning.plan(dataset, out, BUNDLE, SETTINGS, trials=2, **address)


def begin(study: optuna.Study) -> optuna.Trial:
    """A trial at work, as a process that dies leaves it."""
    with pytest.warns(UserWarning, match="Heartbeat of storage"):
        return study.ask()


def distance(overrides: Mapping[str, Any]) -> list[float]:
    """Lowest at a learning rate of 0.001 in the second epoch; the patience matters little."""
    loss = abs(overrides["learning_rate"] - 1e-3) * 100
    return [loss + 0.5, loss + 0.01, loss + 0.2]


# search space


def test_ranges_and_choices() -> None:
    space = {
        "a": {"low": 1e-4, "high": 1e-2, "log": True},
        "b": {"low": 6, "high": 20, "step": 2},
        "c": {"choices": [[16, 32], [32, 64], None]},
        "d": {"low": 0, "high": 1, "type": "float"},
    }
    a, b, c, d = read_space(space)
    assert a.log and a.extremes() == [1e-4, 1e-2]
    assert b.distribution == optuna.distributions.IntDistribution(6, 20, step=2)
    assert c.extremes() == [[16, 32], [32, 64], None]
    assert isinstance(d.distribution, optuna.distributions.FloatDistribution)
    trial = optuna.trial.FixedTrial({"c": "[32, 64]"})
    assert c.suggest(trial) == [32, 64], "the config gets the list, Optuna stores its text"


@given(low=st.integers(-50, 50), width=st.integers(0, 100), choices=st.lists(st.booleans() | st.text()))
def test_a_suggestion_is_one_of_the_space(low, width, choices) -> None:
    space = {"i": {"low": low, "high": low + width}, "f": {"low": low / 2, "high": low / 2 + width}}
    space |= {"c": {"choices": [choices, *choices]}}
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask()
    whole, real, choice = (one.suggest(trial) for one in read_space(space))
    assert isinstance(whole, int) and low <= whole <= low + width
    assert low / 2 <= real <= low / 2 + width
    assert choice in [choices, *choices]


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"low": 2, "high": 1}, "low 2 is above high 1"),
        ({"low": 1, "hihg": 2}, "unknown part hihg"),
        ({"low": 1}, "needs numbers"),
        ({"low": "1", "high": 2}, "needs numbers"),
        ({"low": True, "high": 2}, "needs numbers"),
        ({"low": 0.0, "high": 1, "log": True}, "must hold for `log=True`"),
        ({"low": 1e-4, "high": 1.0, "log": True, "step": 0.1}, "step"),
        ({"low": 0.5, "high": 2, "type": "int"}, "not whole"),
        ({"low": 1, "high": 2, "type": "double"}, "neither"),
        ({"choices": []}, "no list of choices"),
        ({"choices": [1], "low": 1}, "something else"),
        ([1, 2], "no mapping"),
    ],
)
def test_a_range_that_is_none(described, said) -> None:
    with pytest.raises(InputError, match=said) as error:
        read_space({"learning_rate": described})
    assert "search_space: learning_rate" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("space", [{}, None, []])
def test_an_empty_space(space) -> None:
    with pytest.raises(InputError, match="names nothing to search"):
        read_space(space)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"learning_rat": {"low": 1e-4, "high": 1e-3}}, "did you mean --learning_rate"),
        ({"optimizer#rate": {"low": 1e-4, "high": 1e-3}}, "no setting of this bundle"),
        ({"early_stop_patience": {"low": 0.5, "high": 1.5}}, "whole number"),
        ({"roi_size": {"choices": [[64, 64], [64]]}}, "2 sizes"),
    ],
)
def test_ids_are_checked_before_the_first_trial(space, said) -> None:
    with pytest.raises(InputError, match=said):
        check_space(read_space(space), TRAIN)


def test_any_id_of_the_configs_can_be_searched() -> None:
    space = {
        "optimizer#lr": {"low": 1e-4, "high": 1e-3},
        "network_def#features": {"choices": [[8, 8, 16, 32, 64, 8], [16, 16, 32, 64, 128, 16]]},
        "lr_scheduler::factor": {"low": 0.1, "high": 0.5},
    }
    check_space(read_space(space), TRAIN)


# reporter


def test_a_trial_worse_than_the_median_ends_early(search) -> None:
    epochs = []

    def losses(overrides: Mapping[str, Any]) -> list[float]:
        epochs.append(0)

        class Counted(list):
            def __getitem__(self, epoch):
                epochs[-1] += 1
                return super().__getitem__(epoch)

        # the first two trials are good, the others are not
        return Counted([0.1] * 5 if len(epochs) <= 2 else [0.9] * 5)

    study = search(losses, 4, **{"pruner#n_startup_trials": 2, "pruner#n_warmup_steps": 3})
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.PRUNED] * 2
    assert epochs == [5, 5, 3, 3], "a pruned training ends after the epoch that decided"
    assert study.trials[2].intermediate_values == {1: 0.9, 2: 0.9, 3: 0.9}


def test_outside_of_a_search_the_reporter_does_nothing(tmp_path) -> None:
    train_for(lambda _: [0.3, 0.2])(BUNDLE, ["train"], {"ckpt_dir": tmp_path / "models"}, True)
    reporter = TrialReporter(Engine(lambda *_: None))
    trainer = Engine(lambda *_: None)
    reporter.attach(trainer)
    assert not trainer.has_event_handler(reporter, Events.EPOCH_COMPLETED)


def test_epochs_without_validation_are_not_reported() -> None:
    trial = optuna.create_study().ask()
    trainer, evaluator = Engine(lambda *_: None), Engine(lambda *_: None)

    def validate(engine: Engine) -> None:
        evaluator.state.epoch = engine.state.epoch
        evaluator.state.metrics = {"val_loss": 1 / engine.state.epoch}

    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), validate)
    with reporting_to(trial) as progress:
        TrialReporter(evaluator).attach(trainer)
        trainer.run([0], max_epochs=5)
    assert (progress.best, progress.best_epoch, progress.epochs) == (0.25, 4, 4)
    assert trial.study.trials[0].intermediate_values == {2: 0.5, 4: 0.25}


# searches


def test_a_search_writes_the_best_trial_as_an_overlay(search, tmp_path) -> None:
    study = search(distance, 6, max_epochs=3, quiet=False, pictures=True)
    out, best = tmp_path / "out", study.best_trial
    table = pd.read_csv(out / "trials.csv")
    assert list(table["trial"]) == list(range(6)) and set(table["state"]) == {"complete"}
    row = table.loc[table["val_loss"].idxmin()]
    assert row["trial"] == best.number and row["best_epoch"] == 2 and row["epochs"] == 3
    assert row["val_loss"] == pytest.approx(abs(row["learning_rate"] - 1e-3) * 100 + 0.01)
    # what is the result, without where it was found
    assert json.loads((out / "best.json").read_text()) == {"max_epochs": 3, **best.params}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["ours"]["validation_loss"] == best.value
    published = summary["published"]
    assert published["parameters"]["features"] == 128 and published["validation_loss"] == 0.0455
    assert summary["trials"] == {
        "wanted": 6,
        "finished": 6,
        "complete": 6,
        "pruned": 0,
        "failed": 0,
        "lost": 0,
    }
    assert f"{out}/best.json" in summary["ours"]["train"]
    for picture in ("history.png", "slice.png", "importance.png"):
        assert (out / picture).stat().st_size > 5000
    kept = [str(path.relative_to(out)) for path in out.rglob("*.pt")]
    assert kept == [f"trials/{best.number:04d}/models/model.pt"]


def test_a_trial_that_raises_is_recorded_and_the_others_are_done(search, tmp_path) -> None:
    calls = []

    def losses(overrides: Mapping[str, Any]) -> list[float]:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("CUDA out of memory\nand more")
        return [float("nan")] if len(calls) == 3 else [0.5]

    study = search(losses, 4)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    memory, number = failures(study)
    assert memory.name == "trial 1" and memory.reason == "RuntimeError: CUDA out of memory"
    assert "no number" in number.reason
    table = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert table["error"].notna().tolist() == [False, True, True, False]
    assert "Traceback" in (tmp_path / "out" / "trials" / "0001" / "error.txt").read_text()


def test_a_search_in_which_everything_fails(search, tmp_path) -> None:
    with pytest.raises(InputError, match="no trial was successful; the first that failed: KeyError: 'x'"):
        search(lambda overrides: overrides["x"], 2)
    assert not (tmp_path / "out" / "best.json").exists() and (tmp_path / "out" / "history.png").exists()


def test_a_search_goes_on_until_so_many_trials_have_finished(search) -> None:
    first = [one.params for one in search(distance, 3).trials]
    again = search(distance, 5)
    assert len(again.trials) == 5
    assert [one.params for one in again.trials[:3]] == first
    assert len({one.params["learning_rate"] for one in again.trials}) == 5, "nothing is drawn twice"
    assert len(search(distance, 4).trials) == 5, "there are more already"


def test_an_interrupted_search_draws_what_an_uninterrupted_one_draws(search, tmp_path) -> None:
    whole = [one.params for one in search(distance, 4).trials]
    for file in (tmp_path / "out").glob("study*"):
        file.unlink()
    search(distance, 2)
    assert [one.params for one in search(distance, 4).trials] == whole


def test_ctrl_c_keeps_what_there_is_and_the_trial_is_done_again(search, tmp_path) -> None:
    calls = []

    def losses(overrides: Mapping[str, Any]) -> list[float]:
        calls.append(overrides["learning_rate"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return distance(overrides)

    with pytest.raises(KeyboardInterrupt):
        search(losses, 3)
    table = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert list(table["state"]) == ["complete", "lost", "waiting"]
    assert table["error"][1] == "stopped, to be done again"
    assert len(list((tmp_path / "out").rglob("*.pt"))) == 1
    study = search(losses, 3)
    assert calls[2] == calls[1], "the same values"
    assert [one.state.name for one in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert failures(study) == []


def test_a_trial_whose_process_died_is_done_again_once(search, dataset, tmp_path) -> None:
    search(distance, 1)
    begun = plan(dataset, tmp_path)
    study = open_study(begun)
    sign = tmp_path / "out" / tuning_study.WORKERS / "dead"
    for attempt in (1, 2):
        trial = begin(study)
        values = [one.suggest(trial) for one in begun.parameters()]
        trial.set_user_attr("worker", "dead")
        assert trial.user_attrs.get("attempt", 1) == attempt
        sign.touch()  # nobody holds it
        assert settle(begun, study) == 1 and not sign.exists()
    assert [one.state.name for one in study.trials] == ["COMPLETE", "FAIL", "FAIL"]
    assert list(study.trials[1].params.values()) == list(study.trials[2].params.values()) == values
    assert [one.reason for one in failures(study)] == ["its process died"], "the second is final"
    assert tuning_study.taken(study, 1) == 2


def test_a_trial_at_work_in_a_live_process_is_left_alone(search, dataset, tmp_path) -> None:
    search(distance, 1)
    begun = plan(dataset, tmp_path)
    study = open_study(begun)
    with tuning_study.on_duty(begun) as here:
        for worker in (here, "of another machine"):
            begin(study).set_user_attr("worker", worker)
        assert settle(begun, study) == 0 and tuning_study.taken(study, 1) == 3
    assert list((tmp_path / "out" / tuning_study.WORKERS).iterdir()) == []


def test_a_trial_without_signs_of_life_is_failed_and_done_again(search, tmp_path) -> None:
    study = search(distance, 1)
    trial = begin(study)
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    trial.set_user_attr("worker", "another machine:1")
    study._storage.record_heartbeat(trial._trial_id)
    database = sqlite3.connect(tmp_path / "out" / "study.db")
    database.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    database.commit()
    database.close()
    # two wanted: one has finished, one seems to be at work elsewhere; a third one finds out
    again = search(distance, 3)
    assert [one.state.name for one in again.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert again.trials[2].params["learning_rate"] == rate


def test_workers_draw_differently_and_each_the_same_again(search, dataset, tmp_path) -> None:
    begun = plan(dataset, tmp_path)

    def draw(worker: int, begun_trials: int) -> float:
        study = optuna.create_study(sampler=begun.make_sampler(worker, begun_trials))
        return begun.parameters()[0].suggest(study.ask())

    assert draw(0, 0) == draw(0, 0)
    assert len({draw(worker, trials) for worker in range(3) for trials in range(3)}) == 9


def test_an_override_of_a_searched_id_fixes_it(search, tmp_path) -> None:
    study = search(distance, 2, learning_rate=0.002)
    assert set(study.trials[0].params) == {"lr_patience", "batch_size"}
    best = json.loads((tmp_path / "out" / "best.json").read_text())
    assert best["learning_rate"] == 0.002


def test_the_default_space_is_the_papers(dataset, tmp_path) -> None:
    """Four parameters; the published optimum lies within their ranges; the scheduler waits half as long."""
    default = tuning.plan(dataset, tmp_path, BUNDLE, {}, name="a", storage="sqlite://", trials=1)
    parameters = {one.id: one.distribution for one in default.parameters()}
    optimum = tuning_report.PUBLISHED["parameters"]
    assert set(parameters) == set(optimum)
    for name, value in optimum.items():
        assert parameters[name]._contains(parameters[name].to_internal_repr(value))
    assert default.settings == {"lr_patience": "$@early_stop_patience // 2"}


def test_the_parameter_that_matters_is_found() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))

    def objective(trial: optuna.Trial) -> float:
        rate, *_ = (one.suggest(trial) for one in read_space(SPACE))
        return abs(rate - 1e-3)

    study.optimize(objective, 3)
    assert tuning_report.importances(study) == {}, "too few"
    study.optimize(objective, 60)
    shares = tuning_report.importances(study)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["learning_rate"] > 0.8


# mistakes


def test_a_study_of_another_search_is_refused(search, raw, tmp_path) -> None:
    search(distance, 1)
    other = {"learning_rate": {"low": 1e-4, "high": 1e-3}}
    with pytest.raises(InputError, match="study carde: was begun with search_space"):
        search(distance, 2, search_space=other)
    with pytest.raises(InputError, match="was begun with settings"):
        search(distance, 2, max_epochs=7)
    with pytest.raises(InputError, match="is of another study or storage"):
        search(distance, 2, study="mine")
    with pytest.raises(InputError, match="is of another study or storage"):
        search(distance, 2, storage=f"sqlite:///{tmp_path}/other.db")


@pytest.mark.parametrize(
    "content", [b"", b'{"study": "car', bytes(range(256))], ids=["empty", "cut", "noise"]
)
def test_a_damaged_mark_of_a_study_is_told(content, search, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.json").write_bytes(content)
    with pytest.raises(InputError, match=r"study\.json: is damaged; remove it if"):
        search(distance, 1)
    assert (tmp_path / "out" / "study.json").read_bytes() == content


@pytest.mark.parametrize("file", ["study.json", "trials.csv", "slice.png"])
def test_a_file_that_is_cut_short_is_not_there(file, search, tmp_path, monkeypatch) -> None:
    replace = replacing.os.replace

    def stop(source: Path, target: Path) -> None:
        if target.name == file:
            raise RuntimeError("killed")
        replace(source, target)

    monkeypatch.setattr(replacing.os, "replace", stop)
    with pytest.raises(RuntimeError, match="killed"):
        search(distance, 1)
    assert not (tmp_path / "out" / file).exists() and not list((tmp_path / "out").glob(".part_*"))


def test_a_study_that_somebody_else_made_is_refused(search, tmp_path) -> None:
    storage = f"sqlite:///{tmp_path}/other.db"
    optuna.create_study(storage=storage, study_name="carde").optimize(lambda _: 1.0, n_trials=1)
    with pytest.raises(InputError, match="none of carde-monai"):
        search(distance, 2, storage=storage)


@pytest.mark.parametrize(
    "storage",
    ["nonsense", "sqlite:////no/such/folder/a.db", "oracle+no://host/a", "mysql+nodriver://u:secret@h/a"],
)
def test_a_storage_that_is_none(storage, search) -> None:
    with pytest.raises(InputError, match="Optuna cannot keep trials there") as error:
        search(distance, 1, storage=storage)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_storage_that_is_no_database(search, tmp_path) -> None:
    (tmp_path / "a.db").write_text("this is a text of more than sixteen characters\n" * 9)
    with pytest.raises(InputError, match="not a database"):
        search(distance, 1, storage=f"sqlite:///{tmp_path}/a.db")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rat": 1}, "did you mean --learning_rate"),
        ({"max_epochs": "many"}, "whole number"),
        ({"base": "train,no_overlay"}, "no such file"),
        ({"search_space": {"learning_rate": {"low": 1, "high": 0}}}, "above"),
        ({"search_space": {"no_id": {"low": 1, "high": 2}}}, "no setting"),
        ({"learning_rate": 1e-3, "lr_patience": 1, "batch_size": 8}, "names nothing to search"),
        ({"pruner#n_startup_trials": -1}, "pruner: cannot be made"),
        ({"sampler": {"_target_": "optuna.samplers.NoSampler"}}, "sampler: cannot be made"),
        ({"tracking_uri": "nonsense"}, "MLflow cannot keep runs there"),
    ],
)
def test_wrong_settings_are_told_before_the_first_trial(settings, said, search) -> None:
    def losses(_: Mapping[str, Any]) -> list[float]:
        raise AssertionError("a trial has begun")

    with pytest.raises(InputError, match=said):
        search(losses, 1, **settings)


def test_wrong_arguments(dataset, tmp_path) -> None:
    with pytest.raises(InputError, match="--trials 0"):
        tune(dataset, 0, tmp_path, BUNDLE)
    with pytest.raises(InputError, match=r"--workers 1\.5"):
        tune(dataset, 1, tmp_path, BUNDLE, workers=1.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="prepare"):
        tune(tmp_path / "nothing", 1, tmp_path, BUNDLE)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        tune(dataset, 1, tmp_path / "file", BUNDLE, overrides=SETTINGS)
