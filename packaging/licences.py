#!/usr/bin/python3
"""Prints the licences of the crates that are linked into the binaries, each text once, with the crates it is of.

Their licences want the text to come with the binaries.
"""

import json
import pathlib
import subprocess
import sys

METADATA = ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform"]


def linked(metadata):
    """The packages that end up in the binaries: neither for tests nor for the build alone."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    todo, seen = [metadata["resolve"]["root"]], set()
    while todo:
        package = todo.pop()
        if package in seen:
            continue
        seen.add(package)
        for dependency in nodes[package]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                todo.append(dependency["pkg"])
    seen.discard(metadata["resolve"]["root"])
    return [package for package in metadata["packages"] if package["id"] in seen]


def texts(package):
    """The files that hold its licences and notices."""
    folder = pathlib.Path(package["manifest_path"]).parent
    found = {
        path
        for pattern in ("LICEN[SC]E*", "COPYING*", "COPYRIGHT*", "NOTICE*", "UNLICENSE*", "license*")
        for path in folder.glob(pattern)
        if path.is_file()
    }
    return [path.read_text(encoding="utf-8", errors="replace").strip() for path in sorted(found)]


def main():
    """Prints them all."""
    host = next(
        line.split()[1]
        for line in subprocess.check_output(["rustc", "-vV"], text=True).splitlines()
        if line.startswith("host:")
    )
    metadata = json.loads(subprocess.check_output(METADATA + [host], text=True))
    packages = sorted(linked(metadata), key=lambda package: (package["name"], package["version"]))
    owners = {}
    print("virtsnap is linked with these crates:\n")
    for package in packages:
        print(f"  {package['name']} {package['version']}: {package['license']}")
        for text in texts(package):
            owners.setdefault(text, []).append(package["name"])
    for text, names in owners.items():
        print("\n" + "=" * 100)
        print(", ".join(dict.fromkeys(names)))
        print("=" * 100 + "\n")
        print(text)
    return 0


sys.exit(main())
