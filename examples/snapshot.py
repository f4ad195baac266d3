#!/usr/bin/python3
"""Takes a snapshot of a VM over D-Bus, waits until it is there, and says what came of it: snapshot.py web1

Needs python3-dbus."""

import sys

import dbus

vm = sys.argv[1] if len(sys.argv) > 1 else "web1"
bus = dbus.SystemBus()


def interface(path, name):
    return dbus.Interface(bus.get_object("org.virtsnap1", path), name)


# The last argument of whatever may grow: names and values; unknown ones are refused.
none = dbus.Dictionary(signature="sv")
options = dbus.Dictionary({"quiesce": "prefer", "description": "of an example"}, signature="sv")
try:
    path = interface("/org/virtsnap1", "org.virtsnap1.Manager").LookupVM(vm)
    # Without a name it gets one of the time.
    job = interface(path, "org.virtsnap1.VM").CreateSnapshot("", options)
    # Answers once, whenever it has ended; if it failed, with the error. python3-dbus itself waits 25 s if not told.
    result, made = interface(job, "org.virtsnap1.Job").Wait(none, timeout=3600)
except dbus.DBusException as error:
    sys.exit(f"{error.get_dbus_name()}: {error.get_dbus_message()}")
snapshot = interface(made, "org.freedesktop.DBus.Properties").GetAll("org.virtsnap1.Snapshot")
print(f"{result}: snapshot {snapshot['Name']} of {vm}, {snapshot['Consistency']} consistent")
