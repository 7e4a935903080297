"""Checkpoints that are whole at any moment."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import trainer
from ignite.engine import Events

from carde_monai.errors import InputError
from carde_monai.handlers import saving
from carde_monai.handlers.saving import BestModel, Replace


def test_the_old_file_stays_when_the_new_one_cannot_be_written(tmp_path: Path, monkeypatch: Any) -> None:
    save = Replace(tmp_path / "sub" / "last.pt")
    save({"a": torch.ones(2)}, "ignored")
    save.remove("ignored")

    def full(checkpoint: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(InputError, match=r"last\.pt: cannot be written \(.*No space left.*--resume"):
            save({"a": torch.zeros(2)}, "ignored")
    assert torch.load(save.path, weights_only=True)["a"].tolist() == [1, 1]
    assert [path.name for path in save.path.parent.iterdir()] == ["last.pt"]


def test_only_the_first_process_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving.idist, "get_rank", lambda: 1)
    Replace(tmp_path / "last.pt")({"a": 1}, "ignored")
    assert not list(tmp_path.iterdir())


def test_the_best_model_is_the_file_and_its_score_can_be_resumed(tmp_path: Path) -> None:
    def saved(scores: list[float], state: Any = None) -> tuple[float, Any]:
        """Run an epoch with each score, which is the network's weight, too; what is saved, and the state."""
        engine = trainer([], epochs=len(scores))
        engine.state.key_metric_name = "dice"

        @engine.on(Events.EPOCH_COMPLETED)
        def measure() -> None:
            score = scores[engine.state.epoch - 1]
            engine.state.metrics = {"dice": score}
            torch.nn.init.constant_(engine.network.weight, score)

        best = BestModel(tmp_path, {"model": engine.network})
        best.attach(engine)
        if state is not None:
            best.load_state_dict(state)
        engine.run()
        weights = torch.load(tmp_path / "model.pt", weights_only=True)
        return round(weights["weight"].item(), 6), best.state_dict()

    score, state = saved([0.2, 0.1, 0.5, 0.4])
    assert score == 0.5
    assert saved([0.4, 0.3], state)[0] == 0.5
    assert saved([0.4, 0.6], state)[0] == 0.6
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
