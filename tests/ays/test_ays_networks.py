"""Networks of Align Your Structures: symmetries, batches, gradients, frozen parts, and what they refuse."""

import pytest
import torch
from ays_models import FRAMES, GIVEN, NETWORKS, in_float64, molecules, network
from tolerances import assert_same
from torch import nn

from geotdm_fast import ays, backend
from geotdm_fast.graphs import Graph

CASES = [(name, "none") for name in NETWORKS]
CASES += [(name, kind) for name in NETWORKS if name != "structure" for kind in ("forward", "interpolation")]


def called(model, x, about, **more):
    return model(x=x, **(about | more))


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("reflects", [False, True])
def test_turned_moved_and_renumbered_inputs_give_results_that_are(name, kind, reflects):
    """x_out turns with x and does not see where the molecule is; h_out sees neither. Reflections turn nothing else."""
    model = network(name, kind).double()
    x, about = molecules(given=GIVEN[kind])
    x, about = x.double(), in_float64(about)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    turn = turn * torch.linalg.det(turn) * (-1 if reflects else 1)
    place = lambda v: torch.einsum("de,net->ndt", turn, v) + torch.tensor([3.0, -1, 2]).double()[:, None]
    x_out, h_out = called(model, x, about)
    x_turned, h_turned = called(model, place(x), about, original_frames=place(about["original_frames"]))
    assert_same(x_turned, torch.einsum("de,net->ndt", turn, x_out), 1e-8)
    assert_same(h_turned, h_out, 1e-8)

    order = torch.tensor([3, 0, 4, 2, 1, 5, 9, 6, 8, 7])  # within molecules
    where = order.argsort()
    renumbered = {key: about[key][order] for key in ("diffusion_t", "h", "f", "batch", "original_frames")}
    renumbered["edge_index"] = where[about["edge_index"]]
    x_new, h_new = called(model, x[order], about | renumbered)
    assert_same(x_new, x_out[order], 1e-9)
    assert_same(h_new, h_out[order], 1e-9)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_batch_is_its_molecules_one_by_one(name, kind):
    model, sizes = network(name, kind), (5, 1, 4)
    x, about = molecules(sizes, GIVEN[kind])
    x_out, h_out = called(model, x, about)
    for graph in range(len(sizes)):
        own = about["batch"] == graph
        edges = own[about["edge_index"][0]]
        start = int(own.nonzero()[0])
        alone = {key: about[key][own] for key in ("diffusion_t", "h", "f", "original_frames")}
        alone |= {"edge_index": about["edge_index"][:, edges] - start, "edge_attr": about["edge_attr"][edges]}
        alone["batch"] = about["batch"][own] - graph
        x_alone, h_alone = called(model, x[own], about | alone)
        assert_same(x_alone, x_out[own], 2e-5)
        assert_same(h_alone, h_out[own], 2e-6)


@pytest.mark.parametrize("name", ["structure", "interpolator", "heads", "simple", "stack", "egtn"])
def test_gradients_in_float64(name):
    kind = "none" if name == "structure" else "forward"
    model = network(name, kind, hidden_dim=4, num_heads=2, n_layers=1 if name == "stack" else 2).double()
    x, about = molecules((3,), GIVEN[kind], num_frames=3)
    about = in_float64(about)
    chosen = [p for p in model.parameters() if p.requires_grad and p.numel() <= 8][:12]

    def run(x, *_):
        return called(model, x, about)

    assert torch.autograd.gradcheck(run, (x.double().requires_grad_(), *chosen), fast_mode=True)


def test_compiled_ops_agree_with_the_reference_in_numbers_and_gradients():
    model, (x, about) = network("interpolator", "forward"), molecules(given=(0,))

    def run(dtype):
        model.to(dtype).zero_grad()
        given = about if dtype == torch.float32 else in_float64(about)
        x_out, h_out = called(model, x.to(dtype), given)
        (x_out.square().sum() + h_out.square().sum()).backward()
        return [x_out.detach(), h_out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    ours = run(torch.float32)
    with backend("reference"):
        expected = run(torch.float64)
    floor = 1e-3 * max(float(v.norm()) for v in expected[2:])
    assert len(ours) == len(expected) > 60
    for a, b in zip(ours, expected, strict=True):
        assert_same(a, b, 1e-4, floor)


@pytest.mark.parametrize("name", ["interpolator", "simple"])
@pytest.mark.parametrize("kind", ["none", "forward"])
def test_set_zero_is_the_structure_model_on_every_noisy_frame(name, kind):
    model, plain = network(name, kind, set_zero=True), network("structure")
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key in plain.state_dict()})
    x, about = molecules(given=GIVEN[kind])
    alone = {key: value for key, value in about.items() if key not in ("cond_mask", "original_frames")}
    for ours, expected in zip(called(model, x, about), plain(x=x, **alone), strict=True):
        assert_same(ours, expected, 1e-6)


def test_shares_of_lambda_zero_are_the_structure_model_too():
    model, plain = network("interpolator", "forward"), network("structure")
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key in plain.state_dict()})
    model.load_state_dict(ays.scale_alphas(model.state_dict(), 0.0))
    x, about = molecules(given=(0,))
    alone = {key: value for key, value in about.items() if key not in ("cond_mask", "original_frames")}
    for ours, expected in zip(called(model, x, about), plain(x=x, **alone), strict=True):
        assert_same(ours, expected, 1e-6)


def test_frozen_structure_layers_get_no_gradient_and_change_none():
    x, about = molecules(given=(0,))

    def gradients(freezes):
        model = network("interpolator", "forward")
        frozen = ("s_modules.", "input_linear.", "embedding.")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not (freezes and name.startswith(frozen)))
        x_out, h_out = called(model, x, about)
        (x_out.sum() + h_out.sum()).backward()
        return {name: p.grad for name, p in model.named_parameters() if not name.startswith(frozen)}, model

    all_learn, _ = gradients(False)
    some_learn, model = gradients(True)
    assert all(p.grad is None for name, p in model.named_parameters() if name.startswith("s_modules."))
    assert some_learn.keys() == all_learn.keys()
    for name, expected in all_learn.items():
        assert torch.equal(some_learn[name], expected), name


@pytest.mark.parametrize("name", ["interpolator", "simple"])
def test_blocks_computed_again_give_the_same_bits(name):
    x, about = molecules(given=(0,))

    def run(recompute):
        model = network(name, "forward")
        model.recompute = recompute
        calls = []
        model.s_modules[1].gv_ff.register_forward_hook(lambda *_: calls.append(1))
        x_out, h_out = called(model, x, about)
        (x_out.sum() + h_out.square().sum()).backward()
        return [x_out, h_out, *(p.grad for p in model.parameters() if p.grad is not None)], len(calls)

    (kept, once), (anew, twice) = run(False), run(True)
    assert (once, twice) == (1, 2) and len(kept) == len(anew)
    assert all(torch.equal(a, b) for a, b in zip(kept, anew, strict=True))


@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [(*case, {}) for case in CASES] + [(name, "forward", {"use_kabsch": True}) for name in ("interpolator", "stack")],
    ids=str,
)
def test_runs_under_autocast(name, kind, more):
    """Numbers to the rounding of bfloat16, and gradients come."""
    model, (x, about) = network(name, kind, **more), molecules(given=GIVEN[kind])
    expected = called(model, x, about)
    with torch.autocast("cpu", torch.bfloat16):
        ours = called(model, x, about)
        loss = sum(value.square().mean() for value in ours)
    loss.backward()
    for value, exact in zip(ours, expected, strict=True):
        assert_same(value.float(), exact, 0.02)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_given_frames_do_not_move_and_only_noisy_ones_come_back():
    model, (x, about) = network("interpolator", "interpolation"), molecules(given=(0, FRAMES - 1))
    seen = []
    for layer in model.t_modules:
        layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().clone()))
    x_out, h_out = called(model, x, about)
    assert x_out.shape == (10, 3, FRAMES - 2) and h_out.shape == (10, 16, FRAMES - 2)
    assert len(seen) == 2
    for positions in seen:
        assert torch.equal(positions[..., [0, -1]], about["original_frames"][..., [0, -1]])


def test_layers_with_hooks_are_called_and_give_the_same_numbers():
    x, about = molecules(given=(0,))
    expected = called(network("interpolator", "forward"), x, about)
    model, calls = network("interpolator", "forward"), []
    for layer in (model.s_modules[0].gv_ff.gvp1, model.s_modules_new[1], model.t_modules[0].q_mlp, model.input_linear):
        layer.register_forward_hook(lambda *_: calls.append(1))
    for ours, value in zip(called(model, x, about), expected, strict=True):
        assert_same(ours, value, 1e-5)
    assert len(calls) == 4


@pytest.mark.parametrize("part", ["t_modules.0.v_out", "s_modules.0.gv_ff.gvp1", "s_modules_new.1.gv_ff.gvp2"])
@pytest.mark.parametrize("linear", ["Wh.vector_proj", "Wu.vector_proj", "to_feats_out.0", "scalar_to_vector_gates"])
def test_a_parametrised_weight_of_a_perceptron_of_vectors_is_seen(part, linear):
    """It is plain, so nothing is called: numbers are those of a call of the parts."""
    model, (x, about) = network("heads", "forward"), molecules(given=(0,))
    before = called(model, x, about)
    target = model.get_submodule(f"{part}.{linear}")
    nn.utils.parametrizations.weight_norm(target)
    for ours, value in zip(called(model, x, about), before, strict=True):
        assert_same(ours, value, 1e-5)
    with torch.no_grad():
        target.parametrizations.weight.original0.mul_(3)
    ours = called(model, x, about)
    assert (ours[0] - before[0]).abs().max() > 1e-6
    model.get_submodule(part).register_forward_hook(lambda *_: None)
    for value, expected in zip(ours, called(model, x, about), strict=True):
        assert_same(value, expected, 1e-5)


def test_a_normalised_shift_is_not_rounded_to_what_positions_have_room_for():
    """With a hook, in float32, of a layer whose shifts are small, beside float64."""
    torch.manual_seed(0)
    layer = ays.ESLayer(16, 0, 16, nn.SiLU())
    with torch.no_grad():
        for parameter in layer.coord_mlp.parameters():
            parameter.mul_(1e-2)
    x, h, edges = 40 + torch.randn(5, 3, 6), torch.randn(5, 16, 6), torch.cartesian_prod(*[torch.arange(5)] * 2).T
    x_out, h_out = layer.double()(x.double(), h.double(), edges, None)
    layer.float().coord_mlp.register_forward_hook(lambda *_: None)
    ours = layer(x, h, edges, None)
    assert (x_out - x).norm() > 1
    assert_same(ours[0] - x, x_out - x, 2e-5)
    assert_same(ours[1], h_out, 1e-6)


def test_a_sorted_graph_in_place_of_edges():
    model, (x, about) = network("interpolator", "forward"), molecules(given=(0,))
    expected = called(model, x, about)
    graph = Graph.static(about["edge_index"], len(x))
    for ours, value in zip(called(model, x, about, edge_index=None, graph=graph), expected, strict=True):
        assert torch.equal(ours, value)


def test_one_frame_alone_and_frames_in_the_middle():
    model = network("interpolator", "none")
    x, about = molecules(num_frames=1)
    assert all(torch.isfinite(v).all() for v in called(model, x, about))
    # Any frame may be the given one: it is not always the first.
    model = network("interpolator", "forward")
    x, about = molecules(given=(2,))
    assert called(model, x, about)[0].shape == x.shape


def test_uncond_leaves_out_frame_0():
    model = network("interpolator", "unconditional_forward")
    x, about = molecules(given=(0,))
    ours = called(model, x, about, uncond=True)
    nothing = torch.zeros(FRAMES - 1, dtype=torch.bool)
    expected = called(model, x, about, cond_mask=nothing, original_frames=about["original_frames"][..., 1:])
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cond_mask": torch.zeros(FRAMES, dtype=torch.bool)}, "'forward' takes 1 given frames, got 0"),
        ({"cond_mask": torch.ones(1, 1, FRAMES)}, r"cond_mask must be \[T\]"),
        ({"original_frames": torch.zeros(10, 3, 4)}, r"original_frames must be \[10, 3, 6\]"),
        ({"original_frames": torch.full((10, 3, FRAMES), torch.nan)}, "original_frames must be finite"),
        ({"uncond": True}, "uncond=True is of conditioning 'unconditional_forward'"),
        ({"x": torch.zeros(10, 3, FRAMES)}, "x must have 5 noisy of 6 frames, got 6"),
        ({"x": torch.zeros(10, 2, FRAMES - 1)}, r"x must be \[N, 3, M\]"),
        ({"f": torch.zeros(10, 4)}, r"f must be \[10, 5\]"),
        ({"h": torch.full((10,), 100)}, "h must be in 0..99, got 100"),
        ({"edge_attr": torch.zeros(3, dtype=torch.int64)}, "edge_attr must be"),
        ({"batch": torch.zeros(4, dtype=torch.int64)}, "batch must be"),
    ],
)
def test_calls_that_do_not_fit_are_refused_by_name(change, message):
    model, (x, about) = network("interpolator", "forward"), molecules(given=(0,))
    with pytest.raises(ValueError, match=message):
        model(**({"x": x} | about | change))


def test_unknown_keywords_are_refused_with_the_nearest_known_one():
    model, (x, about) = network("interpolator", "forward"), molecules(given=(0,))
    with pytest.raises(TypeError, match="unexpected keyword 'cond_maks'; did you mean 'cond_mask'"):
        called(model, x, about, cond_maks=None)
    with pytest.raises(TypeError, match="unexpected keyword 'use_norms'; did you mean 'use_norm'"):
        network("structure", use_norms=True)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("interpolator", {"act_fn": "relu"}, "act_fn must be 'silu'"),
        ("interpolator", {"n_layers": 0}, "n_layers must be at least 1"),
        ("interpolator", {"scale": 0}, "scale must not be 0"),
        ("simple", {"use_extra": False}, "use_extra and use_double must be true"),
        ("simple", {"use_kabsch": True}, "use_kabsch must be false"),
        ("simple", {"residual": True}, "residual must be false"),
        ("heads", {"hidden_dim": 20, "num_heads": 4}, "kq_dim must be even"),
    ],
)
def test_constructors_refuse_by_name(name, more, message):
    with pytest.raises(ValueError, match=message):
        network(name, **more)


def test_unknown_conditioning_is_refused():
    with pytest.raises(ValueError, match="conditioning must be one of none, forward"):
        network("interpolator", "backward")


def test_layers_refuse_other_activations_and_widths():
    with pytest.raises(ValueError, match=r"act_fn must be nn\.SiLU"):
        ays.BasicESLayer(16, 4, 16, nn.ReLU())
    with pytest.raises(ValueError, match="hidden_dim must equal node_dim 16, got 8"):
        ays.BasicESLayer(16, 4, 8, nn.SiLU())
