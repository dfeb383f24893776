"""Machines that fail: disks that are full, read-only or broken, memory that is not there, a clock that goes back."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import processes
from tests.robust.workshop import Workshop

STAGES = ("gguf", "mlx", "fp8")
ERROR = re.compile(r"^error: ", re.MULTILINE)
SHIM = Path(__file__).with_name("shim.c")
CALLS = ("write", "fsync", "rename", "open", "mkdir", "unlink")
BACK_SECONDS = 400 * 86400


@dataclass(frozen=True)
class Fault:
    """One try: what went wrong with it, empty where nothing did."""

    name: str
    refused: bool  # it ended with one clear error
    not_met: bool  # the run went through without meeting it
    went_on: bool  # and then, without the fault, to the same bytes
    wrong: str


def compiled(folder: Path) -> Path | None:
    """The library that makes calls fail; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    made = folder / "shim.so"
    processes.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(SHIM), "-ldl"], check=True)
    return made


def attempt(shop: Workshop, name: str, before: Callable[[], object] = lambda: None, **how: object) -> Fault:
    """Run with a fault, look at what is there, then go on without it (`before` takes it away)."""
    said = Path(shop.root).with_suffix(".said")
    with (
        open(said, "wb") as out,
        processes.started(
            shop.command(1, "-q"), cwd=shop.root, stdout=out, stderr=out, start_new_session=True, **how
        ) as process,
    ):
        code = process.wait(processes.LIMIT)
    text = said.read_text(errors="replace")
    errors = len(ERROR.findall(text))
    refused, through = code in (1, 2) and errors == 1, code == 0
    wrong = "a traceback" if "Traceback (most" in text else ""
    if not (refused or through) and code != -signal.SIGKILL:
        wrong = wrong or f"exit code {code} with {errors} errors: {text[-500:]!r}"
    wrong = wrong or shop.broken()
    before()
    after = shop.finish(1)
    return Fault(name, refused, through, not after, wrong or after)


def _shop(home: Path, stages: Sequence[str] = STAGES) -> Workshop:
    home.mkdir(exist_ok=True)
    shop = Workshop(home, stages)
    shop.learn()
    return shop


@contextlib.contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[bool]:
    """A small file system in memory at `folder`; False where this user may make none."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    done = processes.run(command, check=False, capture_output=True) if os.getuid() == 0 else None
    if done is None or done.returncode:
        yield False
        return
    try:
        yield True
    finally:
        processes.run(["umount", "-l", str(folder)], check=True)


def _remount(folder: Path, options: str) -> None:
    processes.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def full_disk(home: Path, shim: Path | None) -> list[Fault]:
    """A file system that is full after so many kilobytes."""
    shop = _shop(home / "shop")
    used = sum(path.stat().st_size for path in shop.out.rglob("*") if path.is_file()) >> 10
    found = []
    for share in (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97):
        shutil.rmtree(shop.root / "out")
        with mounted(shop.root / "out", max(40, int(used * share))) as there:
            if not there:
                return []
            name = f"{share:.0%} of what is needed"
            found.append(
                attempt(shop, name, lambda: _remount(shop.root / "out", f"size={used * 4}k"), env=shop.environment())
            )
    return found


def read_only(home: Path, shim: Path | None) -> list[Fault]:
    """A file system that takes nothing: from the start, and once some stages are made."""
    shop = _shop(home / "shop")
    found = []
    for made in ((), STAGES[:1], STAGES[:2]):
        shutil.rmtree(shop.root / "out")
        with mounted(shop.root / "out", 64 << 10) as there:
            if not there:
                return []
            (shop.root / "r.yaml").write_text(_only(shop, made)) if made else None
            if made:
                processes.run(shop.command(1), check=True, capture_output=True, cwd=shop.root, env=shop.environment())
            (shop.root / "r.yaml").write_text(_only(shop, STAGES))
            _remount(shop.root / "out", "ro")
            name = f"after {len(made)} stages"
            found.append(attempt(shop, name, lambda: _remount(shop.root / "out", "rw"), env=shop.environment()))
    return found


def _only(shop: Workshop, stages: Sequence[str]) -> str:
    from tests.robust.workshop import recipe

    return recipe(stages)


def _by_calls(errno: str) -> Callable[[Path, Path | None], list[Fault]]:
    def make(home: Path, shim: Path | None) -> list[Fault]:
        if shim is None:
            return []
        shop = _shop(home / "shop")
        found = []
        for call in CALLS:
            for number in (1, 2, 3, 5, 8, 13):
                shutil.rmtree(shop.root / "out")
                fault = {"FAULT": f"{call}:{number}:{errno}", "FAULT_PATH": "/out/r/", "LD_PRELOAD": str(shim)}
                found.append(attempt(shop, fault["FAULT"], env=shop.environment(**fault)))
        return found

    return make


def unreadable(home: Path, shim: Path | None) -> list[Fault]:
    """The model's files fail to be read."""
    if shim is None:
        return []
    shop = _shop(home / "shop")
    found = []
    for number in (1, 2, 4, 8, 16):
        shutil.rmtree(shop.root / "out")
        fault = {"FAULT": f"read:{number}:EIO", "FAULT_PATH": "/Tiny/", "LD_PRELOAD": str(shim)}
        found.append(attempt(shop, fault["FAULT"], env=shop.environment(**fault)))
    return found


def little_memory(home: Path, shim: Path | None) -> list[Fault]:
    """Of what a process may map, so much: `ulimit -v`."""
    shop = _shop(home / "shop")
    found = []
    for megabytes in (200, 300, 400, 600, 800, 1000, 1500, 2000, 3000):
        shutil.rmtree(shop.root / "out", ignore_errors=True)

        def confine(limit: int = megabytes << 20) -> None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

        found.append(attempt(shop, f"{megabytes} MB", env=shop.environment(), preexec_fn=confine))
    return found


def killed_for_memory(home: Path, shim: Path | None) -> list[Fault]:
    """A control group that is too small: the kernel kills."""
    group = _control_group()
    if group is None:
        return []
    shop = _shop(home / "shop")
    found = []
    try:
        for megabytes in (60, 90, 120, 160, 200, 300):
            shutil.rmtree(shop.root / "out", ignore_errors=True)
            _limit(group, megabytes << 20)
            found.append(attempt(shop, f"{megabytes} MB", env=shop.environment(), preexec_fn=lambda: _join(group)))
    finally:
        time.sleep(0.5)
        with contextlib.suppress(OSError):
            group.rmdir()
    return found


def _control_group() -> Path | None:
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        group = root / f"convert-crash-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if any((group / name).exists() for name in ("memory.limit_in_bytes", "memory.max")):
                return group
            group.rmdir()
    return None


def _limit(group: Path, size: int) -> None:
    name = "memory.limit_in_bytes" if (group / "memory.limit_in_bytes").exists() else "memory.max"
    (group / name).write_text(str(size))


def _join(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def clock_set_back(home: Path, shim: Path | None) -> list[Fault]:
    """The clock goes back a year between stages, and forward again; nothing that is made is made again."""
    if shim is None:
        return []
    shop = _shop(home / "shop")
    found = []
    for seconds in (-BACK_SECONDS, BACK_SECONDS, -3600, -(1 << 31)):
        shutil.rmtree(shop.out / STAGES[1], ignore_errors=True)
        words = {"FAULT_CLOCK": str(seconds), "LD_PRELOAD": str(shim)}
        before = _times(shop.out / STAGES[0])
        made = attempt(shop, f"{seconds} s", env=shop.environment(**words))
        again = "" if _times(shop.out / STAGES[0]) == before else "a finished stage was made again"
        found.append(Fault(made.name, made.refused, made.not_met, made.went_on, made.wrong or again))
    return found


def _times(folder: Path) -> Mapping[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


KINDS: Mapping[str, Callable[[Path, Path | None], list[Fault]]] = {
    "full disk": full_disk,
    "read-only folder": read_only,
    "EIO while writing": _by_calls("EIO"),
    "ENOSPC while writing": _by_calls("ENOSPC"),
    "EIO while reading the model": unreadable,
    "ulimit -v": little_memory,
    "memory of a control group": killed_for_memory,
    "clock set back": clock_set_back,
}
