"""Packed weights that are kept: right after whatever changes a weight, and not packed anew where nothing did."""

import copy
import gc
import io
import threading

import pytest
import torch
from layer_networks import calls_of, inputs_of, network
from native_cases import draw, needs_native
from torch import nn

from geotdm_fast.ops import packed_pairs

pytestmark = [needs_native, pytest.mark.usefixtures("no_gradients")]


def truth(net: nn.Module, inputs: dict) -> torch.Tensor:
    """The output by the ops one by one, which keep nothing."""
    with torch.enable_grad():
        return net(**inputs)[0].detach()


def packings(net: nn.Module, inputs: dict) -> int:
    return calls_of(lambda: net(**inputs)).count("packed_layer_pair")


def weight_of(net: nn.Module) -> nn.Parameter:
    return net.s_modules[1].node_mlp.actions[2].weight


def step_of_an_optimiser(net):
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.1)
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    optimiser.step()


def through_data(net):
    weight_of(net).data.mul_(1.5)


def through_numpy(net):
    weight_of(net).detach().numpy()[3, 5] += 1.0


def one_bit(net):
    weight_of(net).data.view(torch.int32)[0, 0] ^= 1 << 22


def other_data(net):
    weight_of(net).data = weight_of(net) * 2


def other_parameter(net):
    net.s_modules[1].node_mlp.actions[2].weight = nn.Parameter(weight_of(net) * 2)


def other_module(net):
    net.t_modules[2].q_mlp.actions[0] = nn.Linear(32, 32)


def loaded(net):
    net.load_state_dict({name: value * 1.25 for name, value in net.state_dict().items()})


def averaged(net):
    average = torch.optim.swa_utils.AveragedModel(copy.deepcopy(net))
    average.module.s_modules[0].edge_mlp.actions[0].weight.mul_(1.5)
    for param, mean in zip(net.parameters(), average.module.parameters(), strict=True):
        param.data, mean.data = mean.data, param.data


def there_and_back_in_double(net):
    net.double()
    weight_of(net).mul_(1.5)
    net.float()


def order_of_layers(net):
    net.s_modules[0], net.s_modules[1] = net.s_modules[1], net.s_modules[0]


CHANGES = (
    step_of_an_optimiser, through_data, through_numpy, one_bit, other_data, other_parameter, other_module, loaded,
    averaged, there_and_back_in_double, order_of_layers,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_a_weight_is_seen(change):
    net, inputs = network(), inputs_of()
    before = net(**inputs)[0]
    assert torch.equal(before, truth(net, inputs))
    change(net)
    after = net(**inputs)[0]
    assert torch.equal(after, truth(net, inputs)) and not torch.equal(after, before)
    assert packings(net, inputs) == 0


def test_a_parametrised_weight_is_seen():
    net, inputs = network(), inputs_of()
    net(**inputs)
    torch.nn.utils.parametrizations.weight_norm(net.s_modules[1].node_mlp.actions[2])
    net.s_modules[1].node_mlp.actions[2].parametrizations.weight.original0.mul_(1.5)
    assert torch.equal(net(**inputs)[0], truth(net, inputs))
    assert packings(net, inputs) == 0


def test_a_pair_is_packed_anew_where_it_changed_and_only_then():
    net, inputs = network(), inputs_of()
    assert packings(net, inputs) == 3
    assert packings(net, inputs) == 0
    weight_of(net).add_(1.0)
    assert packings(net, inputs) == 1
    assert packings(net, inputs_of(num_frames=12)) == 3, "the packed weights are for a number of frames"
    net.s_modules[0].set_precision("bf16")
    assert torch.equal(net(**inputs)[0], truth(net, inputs))


def test_a_copy_has_its_own():
    net, inputs = network(), inputs_of()
    expected = net(**inputs)[0]
    other = copy.deepcopy(net)
    assert packings(other, inputs) == 3
    weight_of(other).data.mul_(2)
    assert torch.equal(other(**inputs)[0], truth(other, inputs))
    assert torch.equal(net(**inputs)[0], expected) and packings(net, inputs) == 0


def test_what_was_prepared_keeps_the_weights_of_then():
    net, inputs = network(), inputs_of()
    about = {name: value for name, value in inputs.items() if name != "diffusion_t"}
    prepared = net.prepare(**about)
    x, z = draw(7, 10, 3), draw(7, 10, 32)
    expected = prepared.pairs.run(x, z)
    through_data(net)
    net(**inputs)
    assert all(torch.equal(a, b) for a, b in zip(prepared.pairs.run(x, z), expected, strict=True))


def test_files_hold_no_packed_weights_and_they_go_with_the_network():
    net, inputs = network(), inputs_of()
    sizes = []
    for _ in range(2):
        file = io.BytesIO()
        torch.save(net, file)
        sizes.append(len(file.getvalue()))
        net(**inputs)
    assert sizes[0] == sizes[1]
    gc.collect()
    before = len(packed_pairs._OF_OWNER)
    del net
    gc.collect()
    assert len(packed_pairs._OF_OWNER) < before


def test_within_inference_mode_and_behind_it():
    net, inputs = network(), inputs_of()
    with torch.inference_mode():
        inside = net(**inputs)[0].clone()
    assert torch.equal(net(**inputs)[0], inside) and torch.equal(inside, truth(net, inputs))
    assert packings(net, inputs) == 0


def test_threads_that_ask_at_once():
    net, inputs = network(), inputs_of()
    expected, found = truth(net, inputs), []

    def ask():
        with torch.no_grad():
            found.extend(net(**inputs)[0] for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80 and all(torch.equal(value, expected) for value in found)


def test_the_op_that_compares():
    same = torch.ops.geotdm_fast.same_numbers
    a, b = draw(3, 4), torch.tensor([float("nan"), -0.0])
    kept, sizes = torch.cat([a.flatten(), b]), torch.tensor([[3, 4], [2, 0]])
    torch.library.opcheck(same.default, ([a, b], kept, sizes), test_utils="test_schema")  # a trace knows no numbers
    assert same([a, b], kept, sizes) and same([], kept[:0], sizes[:0])
    assert same([b[:0], a, b], kept, torch.tensor([[0, 0], [3, 4], [2, 0]]))
    assert not same([a, b.abs()], kept, sizes), "0 is not -0"
    for others in ([a], [a, b, b], [b, a], [a.view(4, 3), b], [a.view(12), b], [a, b[:, None]]):
        assert not same(others, kept, sizes)
    for others in ([a.t().contiguous().t(), b], [a.double(), b], [a, b.to("meta")]):
        assert not same(others, kept, sizes)
    for numbers in (kept[:-1], torch.cat([kept, b])):
        with pytest.raises(ValueError, match=r"same_numbers: kept must hold the numbers of all tensors.*, got 1[36]"):
            same([a, b], numbers, sizes)
    with pytest.raises(ValueError, match="same_numbers: kept must be Float, got Long"):
        same([a, b], kept.long(), sizes)
    with pytest.raises(ValueError, match=r"same_numbers: sizes must be \[2, 2\], got \[2, 1\]"):
        same([a, b], kept, sizes[:, :1])
