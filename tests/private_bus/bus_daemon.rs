//! A bus as a system has it.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// What an administrator adds to the policy that is shipped, beside the socket.
pub const LOCAL: &str = "local.conf";

/// A `dbus-daemon` of our own, which ends with this.
#[derive(Debug)]
pub struct BusDaemon(Child);

impl BusDaemon {
    /// In this directory, with the policy that is shipped.
    pub fn start(directory: &Path) -> Self {
        let socket = directory.join("bus");
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("dbus/org.virtsnap1.conf");
        // As a system bus comes: everybody may connect, nobody may own a name or call anyone but the bus, unless a
        // file that is included allows it, such as polkit's.
        let config = format!(
            r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
                "https://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
            <busconfig>
              <type>system</type>
              <listen>unix:path={}</listen>
              <auth>EXTERNAL</auth>
              <policy context="default">
                <allow user="*"/>
                <deny own="*"/>
                <deny send_type="method_call"/>
                <allow send_type="signal"/>
                <allow send_requested_reply="true" send_type="method_return"/>
                <allow send_requested_reply="true" send_type="error"/>
                <allow receive_type="method_call"/>
                <allow receive_type="method_return"/>
                <allow receive_type="error"/>
                <allow receive_type="signal"/>
                <allow send_destination="org.freedesktop.DBus"/>
                <allow send_destination="org.freedesktop.PolicyKit1"/>
              </policy>
              <policy user="root">
                <allow own="org.freedesktop.PolicyKit1"/>
              </policy>
              <include>{}</include>
              <include ignore_missing="yes">{}</include>
            </busconfig>"#,
            socket.display(),
            shipped.display(),
            directory.join(LOCAL).display()
        );
        let file = directory.join("bus.conf");
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new("dbus-daemon")
            .arg("--nofork")
            .arg("--nopidfile")
            .arg("--print-address")
            .arg(format!("--config-file={}", file.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // It warns of what only a root of the real system may do.
            .stderr(std::fs::File::create(directory.join("bus.log")).unwrap())
            .spawn()
            .expect("dbus-daemon is installed");
        // It says its address when it listens, and nothing if it does not.
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(
            line.starts_with("unix:"),
            "dbus-daemon did not start: {:?}",
            std::fs::read_to_string(directory.join("bus.log"))
        );
        Self(child)
    }
}

impl Drop for BusDaemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
