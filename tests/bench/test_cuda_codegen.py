"""The CUDA kernels compiled for GPUs that need not be there, and the program that reads what came out."""

import importlib.util
import json
import re
import shutil

import pytest
from places import ROOT

from bench.common import machine_code
from bench.common.record import write_rows
from bench.ops import cuda_codegen
from tools import cuda_module

missing = cuda_module.what_is_missing()
if missing is None and importlib.util.find_spec("triton") is None:
    missing = "no triton, whose cuobjdump reads machine code"

SAID = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5firstv' for 'sm_90a'
ptxas info    : Function properties for _Z5firstv
    64 bytes stack frame, 56 bytes spill stores, 48 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 1024 bytes smem, 376 bytes cmem[0]
ptxas info    : Compiling entry function '_Z6secondv' for 'sm_90a'
ptxas info    : Function properties for _Z6secondv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers, used 0 barriers
"""
CODE = """
\t\tFunction : _Z5firstv
        /*0000*/                   LDSM.16.M88.4 R4, [R2] ;
        /*0010*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0020*/              @!P0 LDGSTS.E.128 [R5], desc[UR4][R6.64] ;
        /*0030*/                   MUFU.TANH R7, R7 ;
        /*0040*/                   STL.64 [R1], R2 ;
\t\tFunction : _Z6secondv
        /*0000*/                   HMMA.1688.F32.TF32 R8, R4, R6, R8 ;
        /*0010*/                   LDL R2, [R1] ;
"""
ROW = {
    "file": "forward_bf16",
    "capability": "90a",
    "kernel": "Forward<128>",
    "spilled": 0,
    "stack": 0,
    "serialized": False,
}


needs_nvcc = pytest.mark.skipif(missing is not None, reason=f"nothing for GPUs can be compiled: {missing}")


def test_every_kernel_stays_within_the_limits():
    """As `make cubins` recorded it; where a source, an option or nvcc has changed since, all are compiled again."""
    rows = cuda_codegen.recorded()
    if rows is None and missing:
        pytest.skip(f"nothing for GPUs can be compiled: {missing}")
    if rows is None:
        rows = list(cuda_codegen.compiled(ROOT / "build" / "cubin", "", cuda_codegen.CAPABILITIES))
    assert not cuda_codegen.over_limits(rows)
    found = {(row["file"], row["capability"]) for row in rows}
    # temporal_attention.cu only chooses among the others
    expected = {(p.stem, c) for p in cuda_module.sources() for c in cuda_codegen.CAPABILITIES}
    assert found == {(file, capability) for file, capability in expected if file != "temporal_attention"}
    assert not [row for row in rows if row["file"].startswith("forward_bf16_") and row["spilled"]]


@needs_nvcc
def test_a_file_compiled_here_has_the_counts_that_are_recorded(tmp_path, capsys):
    rows = cuda_codegen.recorded()
    out = tmp_path / "rows.json"
    words = ["--file", "forward_bf16_32", "--capability", "90a", "--folder", str(tmp_path), "--out", str(out)]
    assert cuda_codegen.main(words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert not out.exists(), "a run over a few kernels records nothing"
    assert re.fullmatch(r"\d+ kernels compiled, 0 over a limit", shown[-1])
    without_time = lambda line: line.rpartition(" seconds=")[0]
    if rows is not None:
        same = [row for row in rows if row["file"] == "forward_bf16_32" and row["capability"] == "90a"]
        assert sorted(map(without_time, shown[:-1])) == sorted(without_time(cuda_codegen.line(row)) for row in same)


def test_the_record_is_of_these_sources_and_this_compiler(tmp_path, monkeypatch):
    record = tmp_path / "cuda_codegen.json"
    here = {"cuda": "13.0.88", "sources": cuda_codegen.sources_sha256()}
    write = lambda about: write_rows(record, [{"what": "b"}, {"what": "a"}], about)
    nvcc = lambda release: monkeypatch.setattr(cuda_codegen, "release", lambda: release)
    write(here)
    for release, holds in (("13.0.88", True), ("13.0.96", False), (None, True)):  # None: no nvcc here
        nvcc(release)
        assert cuda_codegen.recorded(record) == ([{"what": "a"}, {"what": "b"}] if holds else None)
    write({"cuda": "13.0"})  # as it was before the sources were recorded
    assert cuda_codegen.recorded(record) is None

    write(here)
    copied = tmp_path / "cuda"
    shutil.copytree(cuda_module.FOLDER, copied)
    monkeypatch.setattr(cuda_module, "FOLDER", copied)
    assert cuda_codegen.recorded(record)
    for path, counts in (("emulation/block.h", False), ("ops.cpp", False), ("block.cuh", True)):
        with open(copied / path, "a") as file:
            file.write("// changed\n")
        assert (cuda_codegen.recorded(record) is None) == counts, path


def test_the_compiler_says_its_release(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert cuda_codegen.release() == "13.0.88"
    nvcc.unlink()
    assert cuda_codegen.release() is None


def test_without_nvcc_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match="cuda_codegen: no nvcc in CUDA_HOME="):
        cuda_codegen.main(["--no-out"])


def test_what_ptxas_says_is_read():
    found = cuda_codegen.said_of_kernels(SAID)
    assert found == {"_Z5firstv": (255, 56, 64, 1024), "_Z6secondv": (24, 0, 0, 0)}


def test_products_that_wait_for_one_another_are_found():
    said = "ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized due to "
    said += "insufficient register resources for the function '_Z5firstv'\n"
    assert cuda_codegen.said_to_be_serialized(said + SAID) == {"_Z5firstv"}
    assert not cuda_codegen.said_to_be_serialized(SAID)
    limits = {"spilled": 0, "stack": 0, "exceptions": []}
    assert cuda_codegen.problems(ROW | {"serialized": True}, limits) == ["its wgmma wait for one another"]


def test_instructions_are_counted_for_each_kernel():
    found = cuda_codegen.counted(CODE)
    first = {"hmma": 1, "hgmma": 0, "mufu": 1, "ldsm": 1, "ldgsts": 1, "ldl": 0, "stl": 1, "instructions": 5}
    assert found["_Z5firstv"] == first
    assert found["_Z6secondv"] == {**dict.fromkeys(first, 0), "hmma": 1, "ldl": 1, "instructions": 2}
    assert len(machine_code.instructions(CODE)) == 7


def test_kernels_are_named_as_in_their_source():
    mangled = "_ZN6geotdm4cuda12kernel_entryINS0_12_GLOBAL__N_17ForwardILNS0_9PrecisionE2ELi128ELb1EEEEEvNT_9ArgumentsE"
    assert cuda_codegen.readable(mangled) == "Forward<2, 128, true>"
    assert cuda_codegen.readable("_ZN6geotdm4cuda5scaleEPKfPflf") == "scale"
    assert cuda_codegen.readable("plain") == "plain"


def test_ninja_s_log_has_the_seconds():
    made = ["0 9838 17 sm_80/a.cubin ff", "12 1012 17 sm_90a/a.cubin fe", "10 510 18 sm_80/a.cubin fd"]
    log = "\n".join(["# ninja log v6", *(line.replace(" ", "\t") for line in made)])
    assert cuda_codegen.compile_seconds(log) == {"sm_80/a.cubin": 0.5, "sm_90a/a.cubin": 1.0}


def test_limits_bite_but_for_what_is_named():
    limits = {"spilled": 0, "stack": 0, "exceptions": []}
    assert not cuda_codegen.problems(ROW, limits)
    spilling = ROW | {"spilled": 8, "stack": 16}
    told = ["8 bytes a thread are spilled, over 0", "16 bytes a thread are on the stack, over 0"]
    assert cuda_codegen.problems(spilling, limits) == told
    for where, left in (({"kernel": "Forward"}, []), ({"kernel": "Back"}, told), ({"capability": "^80"}, told)):
        named = limits | {"exceptions": [{"where": where, "spilled": 8, "stack": 16, "why": ""}]}
        assert cuda_codegen.problems(spilling, named) == left


def test_every_exception_says_why():
    for exception in json.loads(cuda_codegen.LIMITS.read_text())["exceptions"]:
        assert len(exception["why"]) > 10 and set(exception["where"]) <= {"file", "capability", "kernel"}


def test_files_of_a_precision_use_the_matrix_units():
    row = lambda file, hmma: {"file": file, "capability": "80", "hmma": hmma, "kernel": "Forward<2, 128>"}
    assert not cuda_codegen.wrong_units([row("forward_bf16", 0), row("forward_bf16", 9), row("temporal_attention", 0)])
    assert cuda_codegen.wrong_units([row("backward_tf32", 0)]) == ["backward_tf32 sm_80: no matrix instruction"]


def test_kernels_of_warpgroups_have_their_products_where_there_are_any():
    about = {"file": "forward_bf16_128", "kernel": "WarpgroupForward<128>", "hmma": 9}
    row = lambda capability, hgmma: about | {"what": f"sm_{capability}", "capability": capability, "hgmma": hgmma}
    assert not cuda_codegen.wrong_units([row("80", 0), row("90a", 112), row("100", 0)])
    assert cuda_codegen.wrong_units([row("80", 0), row("90a", 0)]) == ["sm_90a: no wgmma"]
