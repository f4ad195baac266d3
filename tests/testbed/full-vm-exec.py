#!/usr/bin/python3
"""full-vm-exec.py SOCKET SCRIPT : on the host: run a bash script as root in a full VM

Prints what the script printed, on stdout and stderr, and exits with its status. Without a time limit: use timeout(1).
"""
import base64
import os
import socket
import sys

if len(sys.argv) != 3:
    sys.exit(__doc__)
path, script = sys.argv[1:]

# Answers to earlier requests, given up on, may still be on their way: ours has an ID of its own.
request = os.urandom(6).hex()
with socket.socket(socket.AF_UNIX) as channel:
    channel.connect(path)
    channel.sendall(f"\n{request} {base64.b64encode(script.encode()).decode()}\n".encode())
    pending = b""
    while True:
        received = channel.recv(65536)
        if not received:
            sys.exit("the full VM went away")
        *lines, pending = (pending + received).split(b"\n")
        for fields in (line.split() for line in lines):
            if fields[:1] == [f"@{request}".encode()]:
                status, *outputs = fields[1:]
                for to, output in zip((sys.stdout.buffer, sys.stderr.buffer), outputs):
                    to.write(base64.b64decode("" if output == b"=" else output))
                    to.flush()
                sys.exit(int(status))
