#!/usr/bin/python3
"""guest-exec.py VM SCRIPT [SECONDS] : inside the container: run a shell script in the test guest

Goes through the guest's side channel (guest/side-channel), so that it works with the agent stuck,
gone or busy with a freeze. VM is a name or a UUID. Prints what the script printed and exits with
its status; with 124 when the guest does not answer in time (default 30 s).
"""
import base64
import os
import socket
import subprocess
import sys
import time

if len(sys.argv) not in (3, 4):
    sys.exit(__doc__)
vm, script = sys.argv[1:3]
deadline = time.monotonic() + float(sys.argv[3] if len(sys.argv) == 4 else 30)
uuid = subprocess.run(["virsh", "-q", "domuuid", vm], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

# Replies to earlier requests, given up on, may still be on their way: ours has an ID of its own.
request = os.urandom(6).hex()
output = b""
with socket.socket(socket.AF_UNIX) as channel:
    channel.connect(f"/run/virtsnap-guest/{uuid}.sock")
    channel.sendall(f"\n{request} {base64.b64encode(script.encode()).decode()}\n".encode())
    pending = b""
    while True:
        channel.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            received = channel.recv(65536)
        except TimeoutError:
            sys.exit(124)
        if not received:
            sys.exit("the guest's side channel was closed")
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            fields = line.decode(errors="replace").split()
            if fields[:2] == ["@" + request, "+"]:
                output += base64.b64decode("".join(fields[2:]))
            elif fields[:1] == ["@" + request]:
                sys.stdout.buffer.write(output)
                sys.stdout.flush()
                sys.exit(int(fields[1]))
