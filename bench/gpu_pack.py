"""Build here what a check on a GPU elsewhere would wait for: `python -m bench.gpu_pack`, then carry .gpu/ along.

Run it with the torch and triton of the machine with the GPU. .gpu/ gets both compiled modules, the CUDA one for
--architectures alone, and Triton's cache with every kernel that the tests and benchmarks launch. `bench.gpu_check`
begins with `bench.common.build_in_place`, which unpacks what fits the machine and the sources there, or compiles them.
"""

import argparse
import hashlib
import importlib.metadata
import json
import lzma
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACK = ROOT / ".gpu"
MANIFEST, CACHE = "pack.json", "triton_cache"


def main(argv: list[str] | None = None) -> int:
    """Build and pack: 0, or 1 where something does not compile, with the reason in its line."""
    from bench.common import build_in_place
    from tools import cpu_module, cuda_module

    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--architectures", default="9.0a", help="as TORCH_CUDA_ARCH_LIST (default: %(default)s, an H100)"
    )
    parser.add_argument("--no-kernels", action="store_true", help="leave Triton's cache as it is")
    args = parser.parse_args(argv)
    os.environ["TORCH_CUDA_ARCH_LIST"] = args.architectures
    build_in_place.link_kernels()
    if not build_in_place.build_all({"C++": cpu_module, "CUDA": cuda_module}):
        return 1
    PACK.mkdir(exist_ok=True)
    modules = [cpu_module.IN_SOURCE, cuda_module.IN_SOURCE]
    for stale in PACK.glob("*.so.xz"):
        stale.unlink()
    with ThreadPoolExecutor() as pool:
        list(
            pool.map(
                lambda module: (PACK / f"{module.name}.xz").write_bytes(lzma.compress(module.read_bytes())), modules
            )
        )
    if not args.no_kernels and not compile_kernels(PACK / CACHE, args.architectures):
        return 1
    if (PACK / CACHE).exists():
        with tarfile.open(PACK / f"{CACHE}.tar.xz", "w:xz") as tar:
            tar.add(PACK / CACHE, CACHE)
    (PACK / MANIFEST).write_text(json.dumps(described() | {"commit": commit()}) + "\n", encoding="utf-8")
    sizes = ", ".join(
        f"{path.name} {path.stat().st_size / 2**20:.1f} MiB" for path in sorted(PACK.iterdir()) if path.is_file()
    )
    print(f"packed into {PACK.relative_to(ROOT)}: {sizes}")
    return 0


def compile_kernels(cache: pathlib.Path, architectures: str) -> bool:
    """Every launch of the tests and benchmarks into a cache of Triton's; whether that went well."""
    shutil.rmtree(cache, ignore_errors=True)
    environment = os.environ | {"TRITON_CACHE_DIR": str(cache), "TRITON_STORE_BINARY_ONLY": "1"}
    capability = architectures.split()[0].rstrip("af").replace(".", "")
    words = [sys.executable, "-m", "bench.gpu_variants", "--capability", capability]
    return subprocess.run(words, cwd=ROOT, env=environment).returncode == 0


def described() -> dict[str, str]:
    """What a pack is bound to: sources, processor, torch, which Triton's cache depends on."""
    return {
        "sources": digest(),
        "machine": platform.machine(),
        "torch": importlib.metadata.version("torch").split("+")[0],
    }


def digest() -> str:
    """Of everything that the modules are compiled from, and how."""
    found = hashlib.sha256()
    for folder, pattern in (("csrc", "*.[chi]*"), ("tools", "*_module.py")):
        for path in sorted((ROOT / folder).rglob(pattern)):
            if path.is_file():
                found.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def commit() -> str:
    from geotdm_fast.provenance import commit

    return commit()


def manifest() -> dict[str, str] | None:
    """What .gpu/ says of itself, or None where there is none."""
    try:
        return json.loads((PACK / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def unpack() -> str | None:
    """Put the packed modules into the package and Triton's cache into its folder; None, or why that cannot be."""
    packed = manifest()
    if packed is None:
        return f"nothing is packed in {PACK.name}/"
    for name, here in described().items():
        if packed.get(name) != here:
            return f"{PACK.name}/ is for {name} {packed.get(name)}, and here is {here}"
    for path in PACK.glob("*.so.xz"):
        module = ROOT / "geotdm_fast" / path.stem
        aside = module.with_name(module.name + ".new")
        aside.write_bytes(lzma.decompress(path.read_bytes()))
        aside.replace(module)
    if (PACK / f"{CACHE}.tar.xz").exists():
        with tarfile.open(PACK / f"{CACHE}.tar.xz") as tar:
            tar.extractall(PACK, filter="data")
        move_cache(PACK / CACHE)
    return None


def move_cache(cache: pathlib.Path) -> None:
    """Triton's cache names its files by where they were; now they are here."""
    for group in cache.glob("*/__grp__*.json"):
        known = json.loads(group.read_text())
        known["child_paths"] = {name: str(group.parent / name) for name in known["child_paths"]}
        group.write_text(json.dumps(known))


if __name__ == "__main__":
    sys.exit(main())
