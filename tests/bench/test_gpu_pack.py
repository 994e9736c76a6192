"""What is built in one place for a check on a GPU in another: packed, and unpacked only where it fits."""

import json
import lzma
import tarfile
from types import SimpleNamespace

import pytest

from bench import gpu_pack
from bench.common import build_in_place
from tools import cpu_module, cuda_module


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A tree with a source of each kind, and modules that are compiled in no time."""
    for folder in ("csrc/cuda", "tools", "geotdm_fast"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "csrc" / "cuda" / "kernel.cu").write_text("source")
    (tmp_path / "tools" / "cuda_module.py").write_text("options")
    monkeypatch.setattr(gpu_pack, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_pack, "PACK", tmp_path / ".gpu")
    monkeypatch.setattr(gpu_pack, "commit", lambda: "abc")
    monkeypatch.setattr(build_in_place, "link_kernels", lambda: "linked")
    for recipe, text in ((cpu_module, b"cpu"), (cuda_module, b"cuda")):
        monkeypatch.setattr(recipe, "IN_SOURCE", tmp_path / "geotdm_fast" / recipe.IN_SOURCE.name)
        recipe.IN_SOURCE.write_bytes(text)
    monkeypatch.setattr(build_in_place, "build_all", lambda recipes: set(recipes) == {"C++", "CUDA"})

    def compile_kernels(cache, architectures):
        assert architectures == "9.0a"
        (cache / "KEY").mkdir(parents=True)
        (cache / "KEY" / "kernel.cubin").write_bytes(b"code")
        known = {"child_paths": {"kernel.cubin": "/elsewhere/KEY/kernel.cubin"}}
        (cache / "KEY" / "__grp__kernel.json").write_text(json.dumps(known))
        return True

    monkeypatch.setattr(gpu_pack, "compile_kernels", compile_kernels)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")  # the pack's own goes before it
    return tmp_path


def test_what_is_packed_is_put_into_its_places(place, capsys, monkeypatch):
    assert gpu_pack.unpack() == "nothing is packed in .gpu/"
    assert gpu_pack.main([]) == 0
    assert "packed into .gpu: _C" in capsys.readouterr().out
    modules = [cpu_module.IN_SOURCE, cuda_module.IN_SOURCE]
    for module in modules:
        assert lzma.decompress((place / ".gpu" / f"{module.name}.xz").read_bytes()) == module.read_bytes()
        module.unlink()
    monkeypatch.setattr(gpu_pack, "PACK", place / ".gpu")
    with tarfile.open(place / ".gpu" / "triton_cache.tar.xz") as tar:
        assert "triton_cache/KEY/kernel.cubin" in tar.getnames()
    assert gpu_pack.unpack() is None
    assert [module.read_bytes() for module in modules] == [b"cpu", b"cuda"]
    cache = place / ".gpu" / "triton_cache" / "KEY"
    known = json.loads((cache / "__grp__kernel.json").read_text())
    assert known["child_paths"] == {"kernel.cubin": str(cache / "kernel.cubin")}, "the cache knows where it is now"
    assert build_in_place.main([]) == 0
    assert "unpacked .gpu/, commit abc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("sources", "is for sources "),
        ("machine", "is for machine .other"),
        ("torch", "is for torch 1.0, and here is 2."),
    ],
)
def test_what_does_not_fit_is_compiled_instead(place, changed, told, capsys, monkeypatch):
    assert gpu_pack.main(["--no-kernels"]) == 0
    cpu_module.IN_SOURCE.unlink()
    if changed == "sources":
        (place / "csrc" / "cuda" / "kernel.cu").write_text("another source")
    else:
        manifest = place / ".gpu" / "pack.json"
        said = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(said | {changed: {"machine": ".other", "torch": "1.0"}[changed]}))
    assert gpu_pack.unpack().startswith(f".gpu/ {told}")
    built = []
    monkeypatch.setattr(build_in_place, "build_all", lambda recipes, dry_run: built.append(set(recipes)) or True)
    assert build_in_place.main([]) == 0 and len(built) == 1
    assert told in capsys.readouterr().out and not cpu_module.IN_SOURCE.exists()


def test_what_does_not_compile_is_not_packed(place, monkeypatch):
    monkeypatch.setattr(gpu_pack, "compile_kernels", lambda cache, architectures: False)
    assert gpu_pack.main([]) == 1 and gpu_pack.manifest() is None
    monkeypatch.setattr(build_in_place, "build_all", lambda recipes: False)
    assert gpu_pack.main(["--no-kernels"]) == 1 and gpu_pack.manifest() is None


def test_kernels_are_compiled_for_the_architecture(tmp_path, monkeypatch):
    ran = []
    run = lambda words, cwd, env: ran.append((words, env)) or SimpleNamespace(returncode=0)
    monkeypatch.setattr(gpu_pack.subprocess, "run", run)
    assert gpu_pack.compile_kernels(tmp_path / "cache", "9.0a 10.0+PTX")
    (words, env) = ran[0]
    assert words[1:] == ["-m", "bench.gpu_variants", "--capability", "90"]
    assert env["TRITON_CACHE_DIR"] == str(tmp_path / "cache")
