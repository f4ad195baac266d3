#!/usr/bin/gjs
// Takes a snapshot of a VM over D-Bus, waits until it is there, and says what came of it: snapshot.js web1
// Needs gjs.

const {Gio, GLib} = imports.gi;

const vm = ARGV[0] ?? 'web1';
const bus = Gio.DBus.system;

function call(path, where, method, parameters, seconds = 25) {
    return bus.call_sync('org.virtsnap1', path, where, method, parameters, null,
        Gio.DBusCallFlags.ALLOW_INTERACTIVE_AUTHORIZATION, seconds * 1000, null).recursiveUnpack();
}

const [path] = call('/org/virtsnap1', 'org.virtsnap1.Manager', 'LookupVM', new GLib.Variant('(s)', [vm]));
// The last argument of whatever may grow: names and values; unknown ones are refused.
const options = {
    quiesce: new GLib.Variant('s', 'prefer'),
    description: new GLib.Variant('s', 'of an example'),
};
// Without a name it gets one of the time.
const [job] = call(path, 'org.virtsnap1.VM', 'CreateSnapshot', new GLib.Variant('(sa{sv})', ['', options]));
// Answers once, whenever it has ended; if it failed, with the error.
const [result, made] = call(job, 'org.virtsnap1.Job', 'Wait', new GLib.Variant('(a{sv})', [{}]), 3600);
const [snapshot] = call(made, 'org.freedesktop.DBus.Properties', 'GetAll',
    new GLib.Variant('(s)', ['org.virtsnap1.Snapshot']));
print(`${result}: snapshot ${snapshot.Name} of ${vm}, ${snapshot.Consistency} consistent`);
