"""The benchmark of the scores of molecules: both sides have the same numbers, and a line says what it was."""

import json

import numpy as np
import pytest

pytest.importorskip("mdtraj")

from bench.scores import molecules


def test_a_line(tmp_path, capsys):
    out = tmp_path / "scores.jsonl"
    assert molecules.main(["--samples", "10", "--frames", "5", "--repeats", "1", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "10 samples x 5 frames x 22 atoms" in said and "sample after sample" in said
    row = json.loads(out.read_text())
    assert row["atoms"] == 22 and row["clock"] == "process_time" and set(row["cpu_seconds"]) == {"ours", "mdtraj"}
    assert row["machine"] and row["commit"] and row["cpu_seconds_table"] > 0


def test_other_numbers_are_told():
    same = {"lengths": np.ones(4), "torsions": np.full(4, np.pi)}
    molecules.check(same, same | {"torsions": np.full(4, -np.pi)})
    with pytest.raises(RuntimeError, match=r"lengths differ by 0\.1 on average, of at most 1\.1"):
        molecules.check(same, same | {"lengths": np.full(4, 1.1)})


def test_the_molecule_is_heptyl():
    from geotdm_fast.scores.md.ensemble import ensembles

    (found,) = ensembles(molecules.made_samples(3, 4))
    assert len(found.topology.bonds) == 21 and (found.topology.piece == 0).all()
    assert len(found.topology.torsions) == 51 and found.num_atoms == 22
