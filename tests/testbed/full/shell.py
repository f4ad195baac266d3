#!/usr/bin/python3
"""In the full VM: runs the scripts that full-vm-exec.py sends, as root, one after the other.

A request is a line `ID BASE64`, its answer a line `@ID STATUS STDOUT STDERR` with both outputs in base64.
"""
import base64
import os
import subprocess
import tempfile
import time

PORT = "/dev/virtio-ports/org.virtsnap.shell"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}


def run(script):
    # Files rather than pipes: something that the script leaves running may hold them open without holding us up.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        done = subprocess.run(
            ["/bin/bash", "-c", script],
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=ENVIRONMENT, cwd="/", start_new_session=True,
        )
        answer = []
        for output in (stdout, stderr):
            output.seek(0)
            answer.append(base64.b64encode(output.read()).decode() or "=")
        # By a signal, as a shell has it.
        status = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return status, *answer


with open(PORT, "r+b", buffering=0) as port:
    pending = b""
    while True:
        received = port.read(65536)
        if not received:
            # Nobody is connected, and nothing says when that is over.
            time.sleep(0.05)
            continue
        *lines, pending = (pending + received).split(b"\n")
        for request, script in (line.split() for line in lines if line.count(b" ") == 1):
            answer = " ".join(map(str, run(base64.b64decode(script))))
            left = f"\n@{request.decode()} {answer}\n".encode()
            while left:
                left = left[port.write(left) :]
