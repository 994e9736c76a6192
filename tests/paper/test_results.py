"""The file of results and its tables; the published rows."""

import json
import multiprocessing

import pytest
from places import ROOT

from geotdm_fast.paper.results import append_row, read_results, results_table
from geotdm_fast.scores.published import ROWS, paper_result, paper_rows


def test_a_row_is_appended_once_and_a_torn_line_is_cut(tmp_path):
    path = tmp_path / "deep" / "r.jsonl"
    assert append_row(path, {"id": "a", "n": 1})
    assert not append_row(path, {"id": "a", "n": 2})
    with open(path, "a") as file:
        file.write('{"id": "b", "n":')
    assert read_results(path) == [{"id": "a", "n": 1}]
    assert append_row(path, {"id": "c"})
    assert path.read_text() == '{"id": "a", "n": 1}\n{"id": "c"}\n'


def _append(path, name):
    for i in range(10):
        append_row(path, {"id": f"{name}{i}"})


def test_processes_take_turns(tmp_path):
    path = tmp_path / "r.jsonl"
    start = multiprocessing.get_context("fork").Process
    processes = [start(target=_append, args=(path, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(row["id"] for row in read_results(path)) == sorted(f"{name}{i}" for name in "abc" for i in range(10))


def test_damaged_files(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "a"}\n[1]\n')
    with pytest.raises(ValueError, match="line 2 must be a JSON object, got list"):
        read_results(path)
    path.write_text("{\n")
    with pytest.raises(ValueError, match="line 1 must be a JSON object"):
        read_results(path)
    with pytest.raises(OSError, match="cannot write"):
        append_row(tmp_path, {"id": "a"})


def test_the_document_is_made_of_the_results():
    results = ROOT / "bench" / "results" / "reproduce.jsonl"
    assert (ROOT / "docs" / "results.md").read_text() == results_table(read_results(results))


def test_table():
    call = {"machine": {"cpu": "a CPU", "threads": 2}, "versions": {}, "commit": "c", "calls": 1}
    row = {
        "experiment": "charged", "task": "conditional", "preset": "small", "data": "simulated", "changes": ["a.b=1"],
        "unit": "", "scores": {"mean of 5": {"ade": 0.123456, "fde": 0.3, "num_graphs": 7, "seconds": 61.0}},
        "baselines": {"constant_velocity": {"ade": 0.5, "fde": 1.0}},
        "beats": {"constant_velocity": True, "EGNN": False},
        "paper": [{"method": "GeoTDM", "protocol": "mean of 5", "ade": 0.11, "fde": 0.258}],
        "settings": {"denoise_model": {"n_layers": 4, "hidden_dim": 64}, "diffusion": {"num_timesteps": 100},
                     "train": {}, "data": {"train": {}}},
        "training": {"steps": 10, "seconds": 7200.0}, "sampling": {"method": "ddpm", "steps": 100}, "calls": [call],
    }  # fmt: skip
    drawn = row | {"task": "unconditional", "scores": {"20 frames": {"num_graphs": 2, "seconds": 1}}}
    drawn["sampling"] = {"method": "dpmpp_2m_sde", "steps": 50, "spacing": "log_snr"}
    preset = row | {"changes": [], "scores": {"mean of 5": {"ade": 0.45, "fde": 0.8, "num_graphs": 7, "seconds": 61.0}}}
    older = preset | {"scores": {"mean of 5": {"ade": 0.777, "fde": 0.8, "num_graphs": 7, "seconds": 61.0}}}
    by_muon = row["settings"] | {"train": {"optimizer": "muon"}, "data": {"train": {"stride": 1}}}
    springs = preset | {"experiment": "springs", "settings": by_muon}
    text = results_table([springs, drawn, row, older, preset])
    assert "## charged, conditional" in text and "## charged, unconditional" in text
    assert "(simulated; 4 layers of 64, adam, 100 steps, ddpm 100), `a.b=1`; mean of 5 | 0.1235 | 0.3000 | 7 |" in text
    assert "(simulated; 4 layers of 64, muon, all windows, 100 steps, ddpm 100); mean of 5 | 0.4500" in text
    assert "100 steps, dpmpp_2m_sde 50 by log_snr), `a.b=1`; 20 frames |" in text
    assert "| 10 steps, 2.0 h | 61 s | a CPU, threads: 2 |" in text
    assert "| GeoTDM, published (mean of 5) | 0.11 | 0.258 |" in text
    assert "The ADE of preset small (mean of 5) is below constant velocity and not below EGNN." in text
    assert "0.777" not in text, "the newest of the same request alone"
    assert text.index("0.4500") < text.index("`a.b=1`") < text.index("## charged, unc") < text.index("## springs")
    other = row | {"data": "mine", "baselines": {"constant_velocity": {"ade": 0.25, "fde": 0.6}}}
    found = results_table([row, other]).splitlines()
    lines = [line.split("|")[1:3] for line in found if "**ours**" in line or "constant velocity |" in line]
    assert [float(ade) for _, ade in lines] == [0.1235, 0.5, 0.1235, 0.25], "baselines behind the rows of their data"
    assert "no rows yet of: charged conditional, charged unconditional, springs conditional." in " ".join(text.split())
    paper = results_table([springs | {"preset": "paper"}])
    assert "no rows yet" not in paper and "preset paper (simulated; 4 layers of 64, muon" in paper
    assert json.loads(json.dumps(row)) == row


def test_published_rows():
    assert len(ROWS) == len({(row.experiment, row.task, row.method) for row in ROWS})
    assert [row.method for row in paper_rows("charged", "conditional")][:3] == ["GeoTDM", "EqMotion", "EGNN"]
    (zara,) = paper_rows("zara1", "conditional")
    assert zara.scores == {"ade": 0.21, "fde": 0.39} and zara.protocol == "best of 20"
    assert paper_rows("zara1", "interpolation") == []
    steps = {row.method: row.scores for row in paper_rows("md:aspirin", "conditional")}
    assert steps["GeoTDM, 100 steps"] == {"ade": 0.110, "fde": 0.198, "nll": -2125.7}


def test_an_interpolation_is_not_read_against_the_forecast():
    assert paper_result("charged", "cond", 10, 20, prefix=False) == {"protocol": "mean of 5", "ade": 0.055}
    assert paper_result("springs", "cond", 10, 20, prefix=False) is None
    assert paper_result("md:ethanol", "uncond", 0, 20)["classification"] == 0.463
