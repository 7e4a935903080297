"""Means over symmetries and networks, and their mutual information: against values worked out by hand."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import pytest
import torch
from engines import CPU, loader, trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import Tensor, nn

from carde_monai.errors import InputError
from carde_monai.networks import autocast
from carde_monai.uncertainty import (
    SYMMETRIES,
    Combined,
    Ensemble,
    EnsembleLoader,
    SymmetryInferer,
    combine,
    read_weights,
    weight_files,
)


def network(seed: int, outputs: int = 1) -> nn.Sequential:
    """One that tells up from down, with batch norm, which has statistics beside its parameters."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, outputs, 3, padding=1)
    )
    net(torch.rand(4, 2, 8, 8) * (1 + seed))  # statistics that differ
    return net.eval()


def entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def logits(*probabilities: float) -> Tensor:
    return torch.logit(torch.tensor(probabilities, dtype=torch.float64)).float()


def turned(image: Tensor, turns: int, flip: bool) -> Tensor:
    return torch.rot90(image.flip(-1) if flip else image, turns, (-2, -1))


def test_equal_members_keep_their_logit_and_share_no_information() -> None:
    logit = torch.linspace(-80, 80, 161)
    found, information = combine(torch.stack([logit] * 5))
    torch.testing.assert_close(found, logit, rtol=1e-6, atol=1e-5)
    assert information.max() < 1e-6


def test_two_certain_opposite_members_share_ln_2() -> None:
    found, information = combine(torch.tensor([[100.0], [-100.0]]))
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert information.item() == pytest.approx(math.log(2), abs=1e-6)


def test_mean_and_information_worked_out_by_hand() -> None:
    found, information = combine(logits(0.2, 0.6))
    assert torch.sigmoid(found).item() == pytest.approx(0.4, abs=1e-6)
    assert information.item() == pytest.approx(entropy(0.4) - (entropy(0.2) + entropy(0.6)) / 2, abs=1e-6)


def test_extreme_logits_stay_finite() -> None:
    found, information = combine(torch.tensor([[-1e4, 1e4, 0.0], [-1e4, 1e4, 0.0]]))
    assert torch.isfinite(found).all() and torch.isfinite(information).all()
    assert found.tolist() == pytest.approx([-87.3, 87.3, 0], abs=0.1)


@settings(max_examples=100, deadline=None)
@given(members=st.lists(st.floats(-40, 40, width=32), min_size=1, max_size=8))
def test_bounds_and_order(members: list[float]) -> None:
    values = torch.tensor(members)
    found, information = combine(values)
    assert 0 <= information.item() <= math.log(2) + 1e-6
    assert min(members) - 1e-4 <= found.item() <= max(members) + 1e-4
    again = combine(values.flip(0))
    assert found.item() == pytest.approx(again[0].item(), abs=1e-4)
    assert information.item() == pytest.approx(again[1].item(), abs=1e-6)


def test_transform_keeps_meta_data_and_adds_the_map() -> None:
    pred = MetaTensor(torch.randn(3, 5, 7), meta={"filename_or_obj": "a.tif"})
    item = Combined(map_key="map")({"pred": pred, "label": 1})
    mean, information = combine(pred.as_tensor())
    for key, expected in (("pred", mean), ("map", information)):
        assert item[key].shape == (1, 5, 7) and item[key].meta["filename_or_obj"] == "a.tif"
        torch.testing.assert_close(item[key][0].as_tensor(), expected)
    assert item["label"] == 1 and pred.shape == (3, 5, 7)


@pytest.mark.parametrize(("turns", "flip"), SYMMETRIES)
def test_turning_the_image_turns_the_result(turns: int, flip: bool) -> None:
    """With a sliding window, too, whose places are not symmetric."""
    window = SlidingWindowInferer((16, 16), sw_batch_size=4, overlap=0.25, mode="gaussian")
    image, net, combined = torch.rand(1, 2, 27, 38), network(0), Combined()
    with torch.no_grad():
        plain = window(image, net)
        found, seen = (
            combined({"pred": SymmetryInferer(window)(one, net)[0]})
            for one in (image, turned(image, turns, flip).contiguous())
        )
        seen_plain = window(turned(image, turns, flip), net)
    for key in ("pred", "mutual_information"):
        torch.testing.assert_close(turned(found[key], turns, flip), seen[key], rtol=0, atol=1e-6)
    assert found["mutual_information"].max() > 1e-4, "the network itself is not symmetric"
    if (turns, flip) != (0, False):
        assert (turned(plain, turns, flip) - seen_plain).abs().max() > 1e-2


def test_a_symmetric_network_is_left_as_it_is() -> None:
    net, image = nn.Conv2d(2, 1, 1), torch.rand(1, 2, 6, 9)
    with torch.no_grad():
        found = SymmetryInferer(SimpleInferer())(image, net)
        assert found.shape == (1, 8, 6, 9)
        torch.testing.assert_close(found, net(image).expand_as(found))


def test_inferer_keeps_the_meta_data() -> None:
    image = MetaTensor(torch.rand(1, 2, 6, 9), meta={"filename_or_obj": "a.tif"})
    with torch.no_grad():
        found = SymmetryInferer(SlidingWindowInferer((8, 8)))(image, network(0))
    assert isinstance(found, MetaTensor) and found.meta["filename_or_obj"] == "a.tif"


def test_members_of_an_ensemble_are_the_networks_one_by_one() -> None:
    one, two, image = network(1), network(2), torch.rand(2, 2, 8, 8)
    own = {name: value.clone() for name, value in one.state_dict().items()}
    with torch.no_grad():
        found = Ensemble(one, [one.state_dict(), two.state_dict()]).eval()(image)
        torch.testing.assert_close(found, torch.cat([one(image), two(image)], dim=1))
        assert (found[:, 0] - found[:, 1]).abs().max() > 0.01
    for name, value in one.state_dict().items():
        assert torch.equal(value, own[name])


def test_the_same_network_twice_is_one() -> None:
    net, image = network(1), torch.rand(1, 2, 8, 8)
    with torch.no_grad():
        item = Combined()({"pred": Ensemble(net, [net.state_dict()] * 2).eval()(image)[0]})
        torch.testing.assert_close(item["pred"], net(image)[0], rtol=1e-5, atol=1e-6)
    assert item["mutual_information"].max() < 1e-6


def test_an_ensemble_computes_in_bfloat16_where_its_network_does() -> None:
    one, two, image = network(1), network(2), torch.rand(1, 2, 8, 8)
    states = [one.state_dict(), two.state_dict()]
    with torch.no_grad():
        exact = Ensemble(one, states).eval()(image)
        mixed = Ensemble(autocast(one, True), states).eval()(image)
    assert mixed.dtype == torch.float32 and not torch.equal(mixed, exact)
    torch.testing.assert_close(mixed, exact, rtol=0.05, atol=0.05)


def test_symmetries_of_an_ensemble() -> None:
    one, two, image = network(1), network(2), torch.rand(1, 2, 8, 12)
    ensemble = Ensemble(one, [one.state_dict(), two.state_dict()]).eval()
    inferer = SymmetryInferer(SimpleInferer())
    with torch.no_grad():
        found = combine(inferer(image, ensemble)[0])
        expected = combine(torch.cat([inferer(image, net)[0] for net in (one, two)]))
    torch.testing.assert_close(found, expected)


def test_a_mean_variance_network_is_no_member() -> None:
    net, image = network(1, outputs=2), torch.rand(1, 2, 8, 8)
    for found in (
        lambda: SymmetryInferer(SimpleInferer())(image, net),
        lambda: Ensemble(net, [net.state_dict()])(image),
    ):
        with pytest.raises(
            InputError, match=r"one output, this one has 2; use it without mean_variance\.json"
        ):
            found()


def evaluator(net: nn.Module) -> SupervisedEvaluator:
    return SupervisedEvaluator(device=CPU, val_data_loader=loader([0.0]), network=net)


def test_loader_puts_the_ensemble_into_the_evaluator(tmp_path: Path) -> None:
    one, two, net = network(1), network(2), network(3)
    torch.save(one.state_dict(), tmp_path / "a.pt")
    torch.save({"model": two.state_dict()}, tmp_path / "b.pt")
    engine = evaluator(net)
    EnsembleLoader(f"{tmp_path / 'a.pt'}, {tmp_path / 'b.pt'}", {"model": net})(engine)
    image = torch.rand(1, 2, 8, 8)
    with torch.no_grad():
        found = engine.network.eval()(image)
        torch.testing.assert_close(found, torch.cat([one(image), two(image)], dim=1))


def test_an_ensemble_is_not_trained(tmp_path: Path) -> None:
    net = network(1)
    torch.save(net.state_dict(), tmp_path / "a.pt")
    for engine in (trainer([]), Engine(lambda engine, batch: None)):
        with pytest.raises(InputError, match="an ensemble: cannot be trained"):
            EnsembleLoader(str(tmp_path / "a.pt"), {"model": net})(engine)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    net = network(1)
    torch.save(network(1, outputs=2).state_dict(), tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Path("x"), protocol=2))
    for name, told in {
        "no.pt": "there are no such weights",
        "other.pt": r"of another network than the configs' \(first difference: 3.bias\)",
        "list.pt": r"of another network than the configs' \(first difference: 0.bias\)",
        "cut.pt": "cannot be read as weights",
        "evil.pt": "cannot be read as weights",
    }.items():
        with pytest.raises(InputError, match=told) as error:
            read_weights(tmp_path / name, net)
        assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


def test_a_comma_separates_files_unless_it_belongs_to_one(tmp_path: Path) -> None:
    assert weight_files("a.pt") == [Path("a.pt")]
    assert weight_files("x/a.pt, b.pt,c.pt") == [Path("x/a.pt"), Path("b.pt"), Path("c.pt")]
    odd = tmp_path / "a,b.pt"
    odd.touch()
    assert weight_files(odd) == weight_files(str(odd)) == [odd]
