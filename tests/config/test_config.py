"""Configurations: the official shapes and ours are read, everything else is refused by name."""

import pytest
import yaml
from places import ROOT

from geotdm_fast.config.files import load_config, load_sampling_config, normalise_config, override, write_yaml
from geotdm_fast.config.settings import DENOISE_MODEL, MOST_STEPS
from geotdm_fast.diffusion import schedules

CONFIGS = ROOT / "configs"

WANDB = "wandb: {wandb_usr: someone, no_wandb: true, project: any}\n"

# The official project's keys, section by section.
NBODY = """
data:
  train: {root: some/where, name: nbody_train, suffix: train_charged5_initvel1, force_length: 40, span: 30%(project)s}
  val: {root: some/where, name: nbody_valid, suffix: valid_charged5_initvel1, span: 30, force_length: 20%(project)s}
  test: {root: some/where, name: nbody_test, suffix: test_charged5_initvel1, span: 30, return_index: true%(project)s}
denoise_model: {n_layers: 6, node_dim: 1, edge_dim: 1, hidden_dim: 128, time_emb_dim: 32, act_fn: silu,
                learn_ref_frame: %(learned)s, n_layers_ref: 2, num_w: 20}
diffusion: {beta_schedule_name: linear, num_timesteps: 1000%(mode)s}
train: {exp_name: charged, output_base_path: outputs/, seed: 1, %(frames)s, num_epochs: 4000, batch_size: 128,
        eval_batch_size: 512, lr: 0.0001, save_model: true, save_every_epoch: 400, eval_every_epoch: 100,
        log_every_step: 20, final_test: true, final_test_ckpt: best, K: 5}
"""
CONDITIONAL = NBODY % {"project": "", "learned": "true", "mode": "", "frames": "cond_mask: [[0, 10]]"} + WANDB
PROJECTED = {"project": ", project: true", "learned": "false", "mode": ", mode: uncond"}
UNCONDITIONAL = NBODY % (PROJECTED | {"frames": "tot_len: 20"}) + WANDB
MOLECULE = (
    """
data:
  train: {root: mol, molecule_name: aspirin, down_sample_every: 10, with_h: true, span: 30, mode: train}
  val: {root: mol, molecule_name: aspirin, down_sample_every: 10, with_h: true, span: 30, mode: val, force_length: 256}
  test: {root: mol, molecule_name: aspirin, down_sample_every: 10, with_h: true, span: 30, mode: test,
         return_index: true}
denoise_model: {n_layers: 6, node_dim: 30, edge_dim: 4, hidden_dim: 128, time_emb_dim: 32, act_fn: silu,
                learn_ref_frame: true, n_layers_ref: 2, num_w: 20}
diffusion: {beta_schedule_name: linear, num_timesteps: 100}
train: {exp_name: aspirin, output_base_path: outputs/, seed: 100, cond_mask: [[0, 10]], num_epochs: 5000,
        batch_size: 128, eval_batch_size: 256, lr: 0.0001, save_model: true, save_every_epoch: 500,
        eval_every_epoch: 100, log_every_step: 20, final_test: true, final_test_ckpt: best, K: 5}
"""
    + WANDB
)
PEDESTRIAN = (
    """
data:
  train: {dataset: eth, past_frames: 8, future_frames: 12, traj_scale: 1, phase: training}
  test: {dataset: eth, past_frames: 8, future_frames: 12, traj_scale: 1.4, phase: testing}
denoise_model: {n_layers: 4, node_dim: 2, edge_dim: 0, hidden_dim: 64, time_emb_dim: 32, act_fn: silu,
                learn_ref_frame: true, n_layers_ref: 2, num_w: 12, pre_norm: true}
diffusion: {beta_schedule_name: linear, num_timesteps: 100}
train: {exp_name: eth, output_base_path: outputs/, seed: 1, cond_mask: [[0, 8]], num_epochs: 100, batch_size: 100,
        eval_batch_size: 1024, lr: 0.0005, save_model: true, save_every_epoch: 50, eval_every_epoch: 2,
        log_every_step: 20, final_test: true, final_test_ckpt: best, K: 60, lr_decay_every: 10, cluster: true}
"""
    + WANDB
)
EVAL = """
eval: {train_exp_name: run, model_ckpt: best, eval_exp_name: null, output_base_path: outputs/, cond_mask: null,
       cond: false, seed: 100, model: GeoTDM, batch_size: 128, sampling_timesteps: 1000}
"""
NBODY_SAMPLING = (
    "data: {root: some/where, name: nbody_test, suffix: test_charged5_initvel1, span: 30, return_index: true, "
    "project: true}\n" + EVAL + WANDB
)
MOLECULE_SAMPLING = (
    "data: {root: mol, molecule_name: aspirin, down_sample_every: 10, with_h: true, span: 30, mode: test, "
    "return_index: true, project: true}\n" + EVAL + WANDB
)

ignored_wandb = pytest.mark.filterwarnings("ignore:config section 'wandb'")


def _written(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def _ours(**sections) -> dict:
    raw = yaml.safe_load(CONDITIONAL)
    del raw["wandb"]
    for name, values in sections.items():
        raw[name] |= values
    return raw


@ignored_wandb
@pytest.mark.parametrize(
    "text, kind, schedule, rescaled",
    [
        (CONDITIONAL, "nbody", "none", False),
        (UNCONDITIONAL, "nbody", "none", False),
        (MOLECULE, "md17", "none", False),
        (PEDESTRIAN, "pedestrian", "step", True),
    ],
    ids=["conditional", "unconditional", "molecule", "pedestrian"],
)
def test_official_training_files(tmp_path, text, kind, schedule, rescaled):
    config = load_config(_written(tmp_path, text))
    raw = yaml.safe_load(text)
    assert list(config) == ["data", "denoise_model", "diffusion", "train"]
    assert config["data"].keys() == raw["data"].keys()
    assert {section["kind"] for section in config["data"].values()} == {kind}
    for name in ("denoise_model", "diffusion", "train"):
        given = {key: config[name][key] for key in raw[name]}
        assert given == raw[name]
    assert config["diffusion"]["rescale_timesteps"] is rescaled
    assert config["diffusion"]["mode"] == ("uncond" if "tot_len" in raw["train"] else "cond")
    assert config["train"]["schedule"] == schedule and config["train"]["lr_decay"] == 0.8
    assert config["train"]["ema_decay"] == 0 and config["train"]["clip"] == 1


@ignored_wandb
@pytest.mark.parametrize("text, kind", [(NBODY_SAMPLING, "nbody"), (MOLECULE_SAMPLING, "md17")])
def test_official_sampling_files(tmp_path, text, kind):
    path = _written(tmp_path, text)
    config = load_sampling_config(path)
    assert config["data"]["kind"] == kind and config["data"]["project"] is True
    assert config["eval"] == yaml.safe_load(EVAL)["eval"] | {"K": 1}
    with pytest.raises(ValueError, match="this is a sampling config"):
        load_config(path)


def test_wandb_is_ignored_aloud(tmp_path):
    with pytest.warns(UserWarning, match=r"'wandb' is ignored: train\.logger=wandb sends"):
        config = load_config(_written(tmp_path, CONDITIONAL))
    assert "wandb" not in config


@ignored_wandb
@pytest.mark.parametrize("text", [CONDITIONAL, UNCONDITIONAL, MOLECULE, PEDESTRIAN])
def test_normal_form_is_a_fixed_point_through_a_file(tmp_path, text):
    config = load_config(_written(tmp_path, text))
    assert normalise_config(config) == config
    write_yaml(tmp_path / "copy.yaml", config)
    assert load_config(tmp_path / "copy.yaml") == config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_files(path):
    config = load_config(path)
    assert config["train"]["exp_name"] == path.stem
    assert set(config["data"]) >= {"train", "test"}


@pytest.mark.parametrize(
    "section, key, meant",
    [
        ("train", "num_epoch", "num_epochs"),
        ("train", "batchsize", "batch_size"),
        ("denoise_model", "hiden_dim", "hidden_dim"),
        ("diffusion", "num_timestep", "num_timesteps"),
    ],
)
def test_a_typo_names_section_and_nearest_key(section, key, meant):
    with pytest.raises(ValueError, match=rf"here: {section}: unknown key '{key}'; did you mean '{meant}'\?"):
        normalise_config(_ours(**{section: {key: 3}}), where="here")


def test_typos_in_section_names_and_data():
    raw = _ours()
    raw["difusion"] = raw.pop("diffusion")
    with pytest.raises(ValueError, match=r"unknown key 'difusion'; did you mean 'diffusion'\?"):
        normalise_config(raw)
    raw = _ours()
    raw["data"]["vall"] = raw["data"].pop("val")
    with pytest.raises(ValueError, match=r"section data: unknown key 'vall'; did you mean 'val'\?"):
        normalise_config(raw)
    raw = _ours()
    raw["data"]["val"]["spann"] = 3
    with pytest.raises(ValueError, match=r"config: data\.val: unknown key 'spann'; did you mean 'span'\?"):
        normalise_config(raw)


@pytest.mark.parametrize(
    "section, key, value, expected",
    [
        ("train", "batch_size", "many", r"train\.batch_size must be a whole number, got str 'many'"),
        ("train", "batch_size", 2.5, r"train\.batch_size must be a whole number, got float 2\.5"),
        ("train", "batch_size", True, r"train\.batch_size must be a whole number, got bool True"),
        ("train", "batch_size", 0, r"train\.batch_size must be at least 1, got 0"),
        ("train", "batch_size", None, r"train\.batch_size must be a whole number, got nothing"),
        ("train", "lr", [1], r"train\.lr must be a number, got list \[1\]"),
        ("train", "lr", float("nan"), r"train\.lr must be a number, got float nan"),
        ("train", "cond_mask", [0, 10], r"train\.cond_mask must be a list of frame ranges .* got list \[0, 10\]"),
        ("train", "cond_mask", [[5, 5]], r"train\.cond_mask must be a list of frame ranges"),
        ("train", "save_model", "often", r"train\.save_model must be true or false, got str 'often'"),
        ("train", "precision", "fp61", r"train\.precision must be one of fp32, tf32, bf16; got 'fp61'"),
        ("train", "exp_name", "", r"train\.exp_name must be a name or a number"),
        ("train", "ema_decay", 1.0, r"train\.ema_decay must be below 1, got 1"),
        ("denoise_model", "cutoff", 0, r"denoise_model: cutoff must be finite and over 0, got 0"),
        ("denoise_model", "cutoff", -1, r"denoise_model\.cutoff must be at least 0, got -1"),
        ("denoise_model", "envelope", "cosine", r"denoise_model\.envelope must be one of polynomial"),
        ("train", "tot_len", 20, r"train\.tot_len does not go with diffusion\.mode cond"),
        ("train", "schedule", "step", r"train\.schedule step needs train\.lr_decay_every"),
        ("denoise_model", "learn_ref_frame", 1, r"denoise_model\.learn_ref_frame must be true or false, got int 1"),
        ("denoise_model", "act_fn", "relu", r"denoise_model\.act_fn must be one of silu; got 'relu'"),
        ("diffusion", "mode", "conditional", r"diffusion\.mode must be one of cond, uncond"),
        ("diffusion", "mode", "uncond", r"diffusion\.mode uncond needs train\.tot_len"),
        ("diffusion", "beta_schedule_name", "liner", r"diffusion\.beta_schedule_name.*liner.*did you mean 'linear'"),
        ("diffusion", "num_timesteps", 5, r"diffusion\.num_timesteps.*at least 2.*got 5"),
        ("diffusion", "num_timesteps", 100_001, r"config: diffusion\.num_timesteps must be at most 100000, got 100001"),
    ],
)
def test_wrong_values_name_key_expected_and_given(section, key, value, expected):
    with pytest.raises(ValueError, match=expected):
        normalise_config(_ours(**{section: {key: value}}))


@pytest.mark.parametrize(
    ("section", "key", "most"),
    [
        ("denoise_model", "n_layers", 1000),
        ("denoise_model", "hidden_dim", 1_000_000),
        ("train", "seed", 2**63 - 1),
        ("train", "batch_size", 2**63 - 1),
    ],
)
def test_numbers_that_nobody_means(section, key, most):
    normalise_config(_ours(**{section: {key: most}}))
    for value in (most + 1, 1e30):
        with pytest.raises(ValueError, match=rf"{section}\.{key} must be at most {most}, got {int(value)}"):
            normalise_config(_ours(**{section: {key: value}}))


def test_settings_must_agree():
    raw = _ours(denoise_model={"learn_ref_frame": False}, diffusion={"prior": "learned"})
    with pytest.raises(ValueError, match=r"prior learned needs denoise_model\.learn_ref_frame true"):
        normalise_config(raw)
    raw = _ours(train={"num_epochs": None})
    with pytest.raises(ValueError, match=r"train must have one of num_epochs, num_steps, max_minutes, got none"):
        normalise_config(raw)
    raw["train"] |= {"max_minutes": 1, "schedule": "cosine"}
    with pytest.raises(ValueError, match=r"schedule cosine needs train\.num_epochs or train\.num_steps"):
        normalise_config(raw)
    with pytest.raises(ValueError, match=r"nll_every_step goes with train\.eval loss; eval_every_step says when"):
        normalise_config(_ours(train={"eval": "nll", "nll_every_step": 10}))


@pytest.mark.parametrize("section, key", [("denoise_model", "num_w"), ("diffusion", "num_timesteps")])
def test_a_missing_key_is_named(section, key):
    raw = _ours()
    del raw[section][key]
    with pytest.raises(ValueError, match=rf"config: {section}: required key '{key}' .* is missing"):
        normalise_config(raw)


def test_missing_sections():
    raw = _ours()
    del raw["diffusion"]
    with pytest.raises(ValueError, match=r"section 'diffusion' is missing; found data, denoise_model, train"):
        normalise_config(raw)
    raw = _ours()
    del raw["data"]["train"]
    with pytest.raises(ValueError, match=r"section data must have the key 'train', got val, test"):
        normalise_config(raw)
    raw = _ours()
    raw["train"] = None
    with pytest.raises(ValueError, match=r"config: train must be a section of keys and values, got nothing"):
        normalise_config(raw)
    with pytest.raises(ValueError, match="config must be a section"):
        normalise_config([1])


def test_the_most_diffusion_steps_are_those_of_schedules():
    assert MOST_STEPS == schedules.MOST_STEPS


def test_files_that_are_no_configuration(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml: no such file"):
        load_config(tmp_path / "absent.yaml")
    for text in ("data: [1", "data: !!python/object/apply:os.getcwd []"):
        with pytest.raises(ValueError, match=r"config\.yaml must be YAML: .*line 1"):
            load_config(_written(tmp_path, text))
    with pytest.raises(ValueError, match=r"must be YAML with sections, got str 'hello'"):
        load_config(_written(tmp_path, "hello"))
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00data")
    with pytest.raises(
        ValueError, match=r"config\.yaml must be YAML, which is text in UTF-8, got other bytes; files of data"
    ):
        load_config(tmp_path / "config.yaml")


def test_numbers_as_yaml_reads_them():
    config = normalise_config(_ours(train=yaml.safe_load("{lr: 1e-3, num_steps: 1e3, checkpoint_every_minutes: null}")))
    assert config["train"]["lr"] == 0.001
    assert config["train"]["num_steps"] == 1000 and isinstance(config["train"]["num_steps"], int)
    assert config["train"]["checkpoint_every_minutes"] is None


@ignored_wandb
def test_overrides(tmp_path):
    path = _written(tmp_path, CONDITIONAL)
    config = load_config(path, ["train.lr=1e-2", "data.train.root=/else where", "train.cond_mask=[[0, 4], [26, 30]]"])
    assert config["train"]["lr"] == 0.01
    assert config["data"]["train"]["root"] == "/else where"
    assert config["train"]["cond_mask"] == [[0, 4], [26, 30]]
    for text, expected in (
        ("train.lr", "override must be section.key=value, got 'train.lr'"),
        ("lr=3", "override must be section.key=value, got 'lr=3'"),
        ("train.lr.x=3", "train.lr is not a section"),
        ("train.lr=[", "the value must be YAML"),
        ("train.lrr=3", "unknown key 'lrr'; did you mean 'lr'"),
    ):
        with pytest.raises(ValueError, match=expected):
            load_config(path, [text])
    raw = {}
    override(raw, "data.val.kind=npz")
    assert raw == {"data": {"val": {"kind": "npz"}}}


def test_every_key_of_a_data_section_is_listed_with_its_meaning():
    from geotdm_fast.config.data_settings import DATA, data_manual
    from geotdm_fast.data.section_keys import KEYS

    assert DATA.keys() == KEYS.keys()
    for kind, keys in KEYS.items():
        assert set(keys) <= set(DATA[kind]), kind
    text = data_manual()
    assert max(map(len, text.splitlines())) <= 130
    assert "  stride             frames between the starts of windows (default 1)" in text


def test_layers_are_those_that_there_are():
    from geotdm_fast.nn.spatial_layers import SPATIAL
    from geotdm_fast.nn.temporal_layers import TEMPORAL

    assert DENOISE_MODEL["spatial"].choices == tuple(SPATIAL)
    assert DENOISE_MODEL["temporal"].choices == tuple(TEMPORAL)
