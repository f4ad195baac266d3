#!/usr/bin/python3
"""compare.py VM COPIES : in the full VM: whether the VM and each of its snapshots hold what they should

COPIES holds a raw copy of each disk: SNAPSHOT-DISK.raw, and now-DISK.raw for the VM itself. Says what is wrong, and
fails if anything is: other data, an image that QEMU finds fault with, one that nobody has, a block job.
"""
import glob
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import libvirt

name, copies = sys.argv[1:]
domain = libvirt.open("qemu:///system").lookupByName(name)
wrong = []


def disks(devices):
    """The disks; a drive may have no medium."""
    written = [d for d in devices.iter("disk") if d.get("device", "disk") == "disk"]
    return [(d.find("target").get("dev"), d) for d in written]


def image(*arguments):
    done = subprocess.run(["qemu-img", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout.strip()


def compare(what, path, copy):
    status, said = image("compare", "-U", "-f", "raw", "-F", "qcow2", copy, path)
    if status:
        wrong.append(f"{what}: {path}: {said}")


def sources(devices):
    return [(target, disk.find("source").get("file")) for target, disk in disks(devices)]


live = ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))
active = sources(live.find("devices"))
known = {path for _, path in active}
for target, path in active:
    compare("the VM", path, f"{copies}/now-{target}.raw")
if domain.isActive():
    for target, _ in active:
        if domain.blockJobInfo(target):
            wrong.append(f"a block job runs on {target}")
for snapshot in domain.listAllSnapshots():
    text = ET.fromstring(snapshot.getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE))
    for target, path in sources(text.find("domain/devices")):
        known.add(path)
        compare(f"snapshot {snapshot.getName()}", path, f"{copies}/{snapshot.getName()}-{target}.raw")
for path in sorted(known):
    # What QEMU has open for writing it need not have written down in full.
    if domain.isActive() and path in dict(active).values():
        continue
    status, said = image("check", "-q", "-U", path)
    if status:
        wrong.append(f"{path}: {said}")
there = set(glob.glob(f"{os.path.dirname(active[0][1])}/{name}-vd*"))
if there != known:
    wrong.append(f"images that nobody has: {sorted(there - known)}; that are not there: {sorted(known - there)}")
sys.exit("\n".join(wrong) or 0)
