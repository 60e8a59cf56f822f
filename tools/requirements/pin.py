"""``python -m tools.requirements.pin`` (``make pin``): make ``release.txt`` again, with the newest versions.

It needs the network: what registries say, over uv's ordinary settings.
"""

import subprocess
import sys
import tomllib

from tools.requirements.pins import FILE, ROOT

HEAD = """\
# Every dependency that fedws[s3] runs with, direct or not, for every Python and system that it supports, with hashes of
# its files. Made by 'make pin', checked by 'make audit'; not edited by hand. To install a release on it:
#
#   pip install --require-hashes --requirement requirements/release.txt
#   pip install --no-deps fedws
#
# The CUDA libraries that torch asks for on Linux are in it, since the registry's torch for Linux wants them whether or
# not there is a GPU. Another build of torch (for the CPU alone, from PyTorch's own registry) has other hashes; who
# installs that one leaves torch, torchvision, triton and the cuda-* and nvidia-* lines out, and checks it another way.
"""


def main() -> int:
    """Write the file, or leave it as it is when uv fails, which says why."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=")
    extra = ["--extra", "s3"]  # the other extras are for people who work on fedws
    settings = ["--universal", "--python-version", oldest, "--generate-hashes", "--no-header", "--no-config", "--quiet"]
    made = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", *extra, *settings],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    if made.returncode == 0:
        FILE.write_text(HEAD + made.stdout, encoding="utf-8")
        print(f"{FILE.relative_to(ROOT)}: look at what has changed, then make test and make audit")
    return made.returncode


if __name__ == "__main__":
    sys.exit(main())
