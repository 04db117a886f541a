"""Let atheris look for inputs that take new ways through the library: `python tests/fuzzing_atheris.py TARGET [CORPUS] [OPTIONS]`.

`pip install atheris` first. Options are libFuzzer's: -runs=100000, -max_total_time=600, -timeout=20, -rss_limit_mb=4096. Found new
ways are kept in the folder CORPUS, and what went wrong in a file `crash-...` of the working folder.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["dsara_lib"]):
    import torch
    from fuzzing import RAW, TARGETS, Files, written

LONGEST = 4096  # bytes; as many decisions as are ever taken, or most of a small file


def main(name: str, arguments: list[str]) -> None:
    """Fuzz one target for ever, or as the options say."""
    torch.set_num_threads(1)
    target = TARGETS[name]
    folders = [each for each in arguments if not each.startswith("-")]
    if folders and not isinstance(target.whole, Files):
        with open(f"{folders[0]}/whole", "wb") as file:
            file.write(bytes([RAW]) + written(target.whole))
    atheris.Setup([sys.argv[0], f"-max_len={LONGEST}", "-timeout=30", "-rss_limit_mb=6000", *arguments], target.attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
