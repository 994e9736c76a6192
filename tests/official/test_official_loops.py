"""The loops of the official trainers, samplers and scores, in our words: only the imports are of this package.

What theirs import from `datasets`, `models`, `diffusion`, `utils` and torch_geometric is of `geotdm_fast.official`.
"""

import copy
import pickle
import random

import pytest
import torch
from official_data import SUFFIX, write_md17, write_nbody, write_pedestrians
from torch import nn

from geotdm_fast.metrics import kmeans_representatives
from geotdm_fast.official import (
    EGTN,
    DataLoader,
    EqMotion,
    ETHNew,
    GeoTDM,
    LossType,
    MD17Traj,
    ModelMeanType,
    ModelVarType,
    NBody,
    gather_across_gpus,
    global_add_pool,
    global_mean_pool,
    set_seed,
)

DEVICE = "cpu"
NETWORK = {"n_layers": 1, "hidden_dim": 16, "time_emb_dim": 8, "act_fn": "silu", "n_layers_ref": 1, "pre_norm": True}


def nbody(root, project=False):
    """The data sections of an N-body training, by split."""
    section = lambda split: {"root": str(root), "name": f"nbody_{split}", "suffix": f"{split}_{SUFFIX}", "span": 10}
    for split in ("train", "valid", "test"):
        write_nbody(root, split, 6)
    about = {"project": True} if project else {}
    return {
        "train": section("train") | {"force_length": 6} | about,
        "val": section("valid") | {"force_length": 3} | about,
        "test": section("test") | {"return_index": True} | about,
    }


def molecule(root):
    section = {"root": str(root), "molecule_name": "ethanol", "down_sample_every": 2, "with_h": True, "span": 10}
    write_md17(root)
    return {
        "train": section | {"mode": "train", "force_length": 6},
        "val": section | {"mode": "val", "force_length": 3},
        "test": section | {"mode": "test", "force_length": 6, "return_index": True},
    }


def mask_of(intervals, x_start):
    cond_mask = torch.zeros(1, 1, x_start.size(-1)).to(x_start)
    for interval in intervals:
        cond_mask[..., interval[0] : interval[1]] = 1
    return cond_mask


def inputs_of(data, diffusion, train):
    """x_start of the diffusion, and the network's further arguments."""
    model_kwargs = {"h": data.h, "edge_index": data.edge_index, "edge_attr": data.edge_attr, "batch": data.batch}
    model_kwargs["x_given"] = data.x
    if diffusion.mode != "cond":
        return data.x[..., : train["tot_len"]], model_kwargs
    model_kwargs["cond_mask"] = mask_of(train["cond_mask"], data.x)
    return data.x[..., ~model_kwargs["cond_mask"].view(-1).bool()], model_kwargs


def train_nbody_or_md17(dataset, sections, network, diffusion_section, train, folder):
    """Epochs of training and validation, checkpoints, and the final test: {score: value}."""
    set_seed(train["seed"])
    dataset_train, dataset_val = dataset(**sections["train"]), dataset(**sections["val"])
    # Not pinned: without a GPU torch warns of that.
    loader_train = DataLoader(dataset_train, batch_size=train["batch_size"], shuffle=True, sampler=None)
    loader_val = DataLoader(dataset_val, batch_size=train["eval_batch_size"], shuffle=False, sampler=None)
    denoise_network = EGTN(**network).to(DEVICE)
    diffusion = GeoTDM(
        denoise_network=denoise_network, model_mean_type=ModelMeanType.EPSILON,
        model_var_type=ModelVarType.FIXED_LARGE, loss_type=LossType.MSE, device=DEVICE, rescale_timesteps=False,
        **diffusion_section,
    )  # fmt: skip
    optimizer = torch.optim.Adam(denoise_network.parameters(), lr=train["lr"])
    best_nll, epoch_losses = 1e10, []
    for epoch in range(1, train["num_epochs"] + 1):
        denoise_network.train()
        epoch_loss, counter = torch.zeros(1).to(DEVICE), torch.zeros(1).to(DEVICE)
        for data in loader_train:
            data = data.to(DEVICE)
            x_start, model_kwargs = inputs_of(data, diffusion, train)
            loss = diffusion.training_losses(x_start=x_start, t=None, model_kwargs=model_kwargs)["loss"]
            loss = global_mean_pool(loss, data.batch)  # [B]
            assert loss.shape == (data.num_graphs,)
            epoch_loss = epoch_loss + loss.sum()
            counter = counter + loss.size(0)
            loss.mean().backward()
            nn.utils.clip_grad_norm_(denoise_network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        total = gather_across_gpus(epoch_loss, None).sum().item()
        epoch_losses.append(total / gather_across_gpus(counter, None).sum().item())

        if epoch % train["eval_every_epoch"] != 0:
            continue
        denoise_network.eval()
        val_nll, val_mse, counter = (torch.zeros(1).to(DEVICE) for _ in range(3))
        for data in loader_val:
            data = data.to(DEVICE)
            x_start, model_kwargs = inputs_of(data, diffusion, train)
            results = diffusion.calc_bpd_loop(x_start=x_start, model_kwargs=model_kwargs)
            total_bpd = global_add_pool(results["total_bpd"], data.batch)
            val_nll += total_bpd.sum()
            val_mse += global_mean_pool(results["mse"].mean(dim=1), data.batch).sum()
            counter += total_bpd.size(0)
        if (val_nll / counter).item() < best_nll:
            best_nll = (val_nll / counter).item()
            torch.save(denoise_network.state_dict(), folder / "ckpt_best.pt")
    scores = {"losses": epoch_losses, "nll": best_nll}
    if diffusion.mode != "cond":
        return scores

    loader = DataLoader(dataset(**sections["test"]), batch_size=train["eval_batch_size"], shuffle=False, sampler=None)
    denoise_network.load_state_dict(torch.load(folder / "ckpt_best.pt"))
    ade_all, fde_all, ids = [], [], []
    for data in loader:
        data = data.to(DEVICE)
        x_target, model_kwargs = inputs_of(data, diffusion, train)
        ade, fde = [], []
        for _ in range(train["K"]):
            x_out = diffusion.p_sample_loop(shape=x_target.shape, progress=False, model_kwargs=model_kwargs)
            distance = (x_out - x_target).square().sum(dim=1).sqrt()  # [BN, T]
            distance = global_mean_pool(distance, data.batch)  # [B, T]
            ade.append(distance.mean(dim=1))
            fde.append(distance[..., -1])
        ade_all.append(torch.stack(ade, dim=-1).min(dim=-1).values)
        fde_all.append(torch.stack(fde, dim=-1).mean(dim=-1))
        ids.append(data.system_id)
    ids = torch.cat(ids)
    scores |= {"minADE": torch.cat(ade_all).mean().item(), "aveFDE": torch.cat(fde_all).mean().item()}
    return scores | {"system_id_range": [ids.min().item(), ids.max().item()]}


@pytest.mark.parametrize(
    ("dataset", "sections", "sizes"),
    [
        (NBody, nbody, {"node_dim": 1, "edge_dim": 1}),
        (MD17Traj, molecule, {"node_dim": 30, "edge_dim": 4}),
    ],
    ids=["nbody", "md17"],
)
def test_conditional_trainers(tmp_path, dataset, sections, sizes):
    train = {
        "seed": 1,
        "cond_mask": [[0, 4]],
        "num_epochs": 2,
        "eval_every_epoch": 1,
        "batch_size": 4,
        "eval_batch_size": 4,
        "lr": 1e-3,
        "K": 2,
    }
    scores = train_nbody_or_md17(
        dataset, sections(tmp_path), NETWORK | sizes | {"learn_ref_frame": True, "num_w": 6},
        {"beta_schedule_name": "linear", "num_timesteps": 25}, train, tmp_path,
    )  # fmt: skip
    assert all(0 < loss < 100 for loss in scores["losses"]) and abs(scores["nll"]) < 1e10
    assert 0 < scores["minADE"] < float("inf") and 0 < scores["aveFDE"] < float("inf")
    assert scores["system_id_range"] == [0, 5]


def unconditional_samples(folder, train):
    """What the official sampler pickles: batches with `x_pred`."""
    set_seed(100)
    loader = DataLoader(NBody(**nbody(folder, project=True)["test"]), batch_size=4, shuffle=False)
    network = NETWORK | {"node_dim": 1, "edge_dim": 1, "learn_ref_frame": False, "num_w": 6}
    denoise_network = EGTN(**network).to(DEVICE)
    denoise_network.load_state_dict(torch.load(folder / "ckpt_best.pt"))
    diffusion = GeoTDM(
        denoise_network=denoise_network, model_mean_type=ModelMeanType.EPSILON,
        model_var_type=ModelVarType.FIXED_LARGE, loss_type=LossType.MSE, device=DEVICE, rescale_timesteps=False,
        beta_schedule_name="linear", num_timesteps=60, mode="uncond",
    )  # fmt: skip
    denoise_network.eval()
    all_data = []
    for data in loader:
        data = data.to(DEVICE)
        x_start, model_kwargs = inputs_of(data, diffusion, train)
        data.x = x_start
        x_out = diffusion.p_sample_loop(shape=x_start.shape, progress=False, model_kwargs=model_kwargs)
        data["x_pred"] = x_out.detach()
        all_data.append(data.cpu())
    with open(folder / "samples.pkl", "wb") as file:
        pickle.dump(all_data, file)
    with open(folder / "samples.pkl", "rb") as file:
        return pickle.load(file)


def graphs_of(all_data):
    """Single graphs with `x_pred`, as the official scores take the batches apart."""
    graphs = []
    for batch in all_data:
        parts = batch.to_data_list()
        for j in range(batch.batch.max().item() + 1):
            parts[j].x_pred = batch.x_pred[batch.batch == j]
        graphs.extend(parts)
    return graphs


def eqmotion_inputs(data, n_nodes, frames_in):
    loc = data.x.view(-1, n_nodes, data.x.size(-2), data.x.size(-1)).permute(0, 1, 3, 2)  # [B, N, T, 3]
    nodes = data.h.view(-1, n_nodes, data.h.size(-1)).repeat(1, 1, frames_in)
    return nodes, loc


def classification(all_data, frames_in):
    """Test cross-entropy after two epochs."""
    real, fake = graphs_of(all_data), copy.deepcopy(graphs_of(all_data))
    for item in real:
        item["flag"] = torch.zeros(1)
    for item in fake:
        item["flag"] = torch.ones(1)
        item.x = item.x_pred
    graphs = real + fake
    random.shuffle(graphs)
    split = int(0.8 * len(graphs))
    n_nodes = graphs[0].x.size(0)
    model = EqMotion(
        in_node_nf=frames_in, in_edge_nf=2, hidden_nf=16, in_channel=frames_in, hid_channel=16, out_channel=1,
        device=DEVICE, n_layers=1, recurrent=True,
    ).to(DEVICE)  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(2):
        for data in DataLoader(graphs[:split], batch_size=128, shuffle=True):
            data = data.to(DEVICE)
            optimizer.zero_grad()
            nodes, loc = eqmotion_inputs(data, n_nodes, frames_in)
            _, h = model(nodes, loc.detach(), torch.zeros_like(loc), edge_attr=None)
            nn.BCEWithLogitsLoss()(h.mean(dim=(1, 2)), data.flag).backward()
            optimizer.step()
    losses = []
    with torch.no_grad():
        for data in DataLoader(graphs[split:], batch_size=128, shuffle=False):
            nodes, loc = eqmotion_inputs(data, n_nodes, frames_in)
            _, h = model(nodes, loc, torch.zeros_like(loc), edge_attr=None)
            losses.append(nn.BCEWithLogitsLoss()(h.mean(dim=(1, 2)), data.flag))
    return torch.stack(losses).mean().item()


def test_unconditional_trainer_sampler_and_scores(tmp_path):
    train = {
        "seed": 1,
        "tot_len": 6,
        "num_epochs": 20,
        "eval_every_epoch": 20,
        "batch_size": 4,
        "eval_batch_size": 4,
        "lr": 5e-3,
    }
    scores = train_nbody_or_md17(
        NBody, nbody(tmp_path, project=True),
        NETWORK | {"node_dim": 1, "edge_dim": 1, "learn_ref_frame": False, "num_w": 6},
        {"beta_schedule_name": "linear", "num_timesteps": 60, "mode": "uncond"}, train, tmp_path,
    )  # fmt: skip
    assert 0 < scores["losses"][0] < 100
    all_data = unconditional_samples(tmp_path, train)
    assert [batch.num_graphs for batch in all_data] == [4, 2] and all_data[1].system_id.tolist() == [4, 5]
    graphs = graphs_of(all_data)
    assert len(graphs) == 6 and graphs[5].x.shape == graphs[5].x_pred.shape == (5, 3, 6)
    assert graphs[3].x_pred.mean(dim=(0, 2)).abs().max() < 1e-4 * graphs[3].x_pred.abs().max()
    assert 0 < classification(all_data, 6) < float("inf")


def train_eth(sections, train, folder):
    """Epochs of training, each with a test by the best of K k-means representatives."""
    set_seed(train["seed"])
    dataset_train = ETHNew(return_index=False, **sections["train"])
    test_dataset = ETHNew(return_index=True, **sections["test"])
    test_loader = DataLoader(test_dataset, batch_size=train["eval_batch_size"], shuffle=False, sampler=None)
    loader_train = DataLoader(dataset_train, batch_size=train["batch_size"], shuffle=True, sampler=None)
    network = NETWORK | {"node_dim": 2, "edge_dim": 0, "learn_ref_frame": True, "num_w": 12}
    denoise_network = EGTN(**network).to(DEVICE)
    diffusion = GeoTDM(
        denoise_network=denoise_network, model_mean_type=ModelMeanType.EPSILON,
        model_var_type=ModelVarType.FIXED_LARGE, loss_type=LossType.MSE, device=DEVICE, rescale_timesteps=True,
        beta_schedule_name="linear", num_timesteps=60,
    )  # fmt: skip
    optimizer = torch.optim.Adam(denoise_network.parameters(), lr=train["lr"])

    def inputs(data):
        model_kwargs = {
            "h": data.h, "v": data.v, "edge_index": data.edge_index, "edge_attr": data.edge_attr,
            "batch": data.batch, "num": data.num, "cond_mask": mask_of(train["cond_mask"], data.x), "x_given": data.x,
        }  # fmt: skip
        return data.x[..., ~model_kwargs["cond_mask"].view(-1).bool()], model_kwargs

    lr_now, losses = train["lr"], []
    for epoch in range(1, train["num_epochs"] + 1):
        denoise_network.train()
        if epoch % train["lr_decay_every"] == 0:
            lr_now *= 0.8
            for group in optimizer.param_groups:
                group["lr"] = lr_now
        for data in loader_train:
            data = data.to(DEVICE)
            x_start, model_kwargs = inputs(data)
            loss = diffusion.training_losses(x_start=x_start, t=None, model_kwargs=model_kwargs)["loss"]
            loss = loss[data.select_index]
            assert loss.shape == (data.num_graphs,)
            losses.append(loss.mean().item())
            loss.mean().backward()
            nn.utils.clip_grad_norm_(denoise_network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    denoise_network.eval()
    best, nll, ids = [], [], []
    for data in test_loader:
        data = data.to(DEVICE)
        x_target, model_kwargs = inputs(data)
        results = diffusion.calc_bpd_loop(x_start=x_target, model_kwargs=model_kwargs)
        nll.append(results["total_bpd"][data.select_index])
        drawn = [
            diffusion.p_sample_loop(shape=x_target.shape, progress=False, model_kwargs=model_kwargs)[data.select_index]
            for _ in range(train["K"])
        ]
        drawn = torch.stack(drawn)  # [K, B, 2, T]
        kept = kmeans_representatives(drawn[..., -1], train["clusters"], progress=False)  # [R, B]
        error = (drawn - x_target[data.select_index]).square().sum(dim=-2).sqrt().mean(dim=-1)  # [K, B]
        best.append(error.gather(0, kept).min(dim=0).values)
        ids.append(data.system_id)
    torch.save(denoise_network.state_dict(), folder / "ckpt_best.pt")
    scale = sections["test"]["traj_scale"]
    return losses, torch.cat(best).mean().item() * scale, torch.cat(nll), torch.cat(ids).tolist()


def test_pedestrian_trainer(tmp_path, monkeypatch):
    write_pedestrians(tmp_path / "data/eth")
    monkeypatch.chdir(tmp_path)
    section = {"dataset": "zara1", "past_frames": 8, "future_frames": 12}
    sections = {
        "train": section | {"traj_scale": 1, "phase": "training"},
        "test": section | {"traj_scale": 1.4, "phase": "testing"},
    }
    train = {"seed": 1, "cond_mask": [[0, 8]], "num_epochs": 2, "batch_size": 4, "eval_batch_size": 4, "lr": 5e-4,
             "lr_decay_every": 2, "K": 4, "clusters": 2}  # fmt: skip
    losses, ade, nll, ids = train_eth(sections, train, tmp_path)
    assert len(losses) == 4 and all(0 < loss < 100 for loss in losses)
    assert 0 < ade < float("inf") and nll.shape == (6,) and nll.isfinite().all() and ids == [0, 1, 2, 3, 4, 5]
