# $1: how many of this package are installed now, 1 at the first installation.
systemd-sysusers virtsnap.conf || :
systemd-tmpfiles --create virtsnap.conf || :
# What `journalctl -x` explains.
journalctl --update-catalog || :
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    # The bus reads who may own the name, now that the user is there.
    systemctl reload dbus.service || :
fi
if [ "$1" = 1 ]; then
    # Enabled where the distribution's presets let it be; started by who installs it, or at the next boot.
    systemctl --no-reload preset virtsnapd.service || :
fi
