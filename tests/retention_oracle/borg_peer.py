"""Borg, started once and asked often: its imports and its parser take ten times as long as a prune.

Reads one JSON object: "repository", "archives" ([name, seconds since 1970] each) and "questions" ([zone, arguments of
`borg prune`] each). Prints one JSON array: Borg's version, then what each question made it print. Archives are made by
Borg's own classes, in one transaction; a question is Borg's main(), in a process of its own, as the program `borg`
would run it.
"""

import gc
import json
import os
import sys
import time
from datetime import datetime, timezone

try:
    import borg
    import borg.archiver
    from borg.archive import Archive
    from borg.cache import Cache
    from borg.helpers import Manifest
    from borg.logger import setup_logging
    from borg.repository import Repository
except ImportError as error:
    sys.exit(f"this test needs Borg: install the package borgbackup ({error})")

# Made before the first question, so that all processes have it.
parser = borg.archiver.Archiver().build_parser()
borg.archiver.Archiver.build_parser = lambda self: parser


def run(zone, arguments):
    """What `borg` prints in this zone."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(reader)
        os.environ["TZ"] = zone
        time.tzset()
        sys.argv = ["borg", *arguments]
        borg.archiver.main()
        os._exit(99)
    os.close(writer)
    with os.fdopen(reader) as lines:
        text = lines.read()
    status = os.waitpid(child, 0)[1]
    if status != 0:
        sys.exit(f"borg {arguments}: status {status}\n{text}")
    return text


def make(path, archives):
    """A repository with these archives, all empty."""
    run("UTC", ["init", "--encryption", "none", path])
    setup_logging(level="warning")
    with Repository(path, exclusive=True) as repository:
        manifest, key = Manifest.load(repository, (Manifest.Operation.WRITE,))
        with Cache(repository, key, manifest) as cache:
            for name, seconds in archives:
                archive = Archive(repository, key, manifest, name, cache=cache, create=True)
                archive.save(timestamp=datetime.fromtimestamp(seconds, timezone.utc))


task = json.load(sys.stdin)
# In a process of its own: logging can be set up once only.
child = os.fork()
if child == 0:
    make(task["repository"], task["archives"])
    sys.exit(0)
if os.waitpid(child, 0)[1] != 0:
    sys.exit("the repository could not be made")
# What is here stays: no child needs to look for garbage in it, and so to copy it.
gc.freeze()
prune = ["prune", "--dry-run", "--list"]
answers = [run(zone, [*prune, *arguments, task["repository"]]) for zone, arguments in task["questions"]]
json.dump([borg.__version__, *answers], sys.stdout)
