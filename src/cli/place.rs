//! The machine whose daemon is talked to: how commands that are printed reach it, for whoever pastes them.

use super::{
    remote,
    render::{pasted, quoted},
};

/// This machine, or what `--host` says.
#[derive(Debug, Clone, Default)]
pub struct Place(Option<String>);

impl Place {
    /// That of `--host`, if it is given.
    pub fn of(host: Option<&str>) -> Self {
        Self(host.map(str::to_owned))
    }

    /// `` `virtsnap -H far jobs` ``: a command of the client's, to that daemon. Names in the arguments are pasted ones.
    pub fn virtsnap(&self, arguments: &str) -> String {
        Self::client(self.0.as_deref(), arguments)
    }

    /// The same as root there; as usual on this machine, where `sudo` is the way.
    pub fn virtsnap_as_root(&self, arguments: &str) -> String {
        let root = self.0.as_deref().map(|host| {
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("root@{host}")
        });
        Self::client(root.as_deref(), arguments)
    }

    fn client(host: Option<&str>, arguments: &str) -> String {
        match host {
            None => format!("`virtsnap {arguments}`"),
            // What looks like an option is none behind a "=".
            Some(host) if host.starts_with('-') => format!("`virtsnap --host={} {arguments}`", pasted(host)),
            Some(host) => format!("`virtsnap -H {} {arguments}`", pasted(host)),
        }
    }

    /// `` `ssh far systemctl status virtsnapd` ``: a command that is to be run on that machine.
    pub fn command(&self, command: &str) -> String {
        match self.0.as_deref().map(|given| remote::parts(given).unwrap_or((given, None))) {
            None => format!("`{command}`"),
            Some((host, port)) => {
                let port = port.map(|port| format!("-p {} ", pasted(port))).unwrap_or_default();
                let dashes = if host.starts_with('-') { "-- " } else { "" };
                format!("`ssh {port}{dashes}{} {command}`", pasted(host))
            }
        }
    }

    /// `` on "far"``; nothing of this machine.
    pub fn on(&self) -> String {
        self.0.as_deref().map(|host| format!(" on {}", quoted(host))).unwrap_or_default()
    }

    /// Whether it is another machine.
    pub const fn is_far(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_leads_to_the_machine_that_is_talked_to() {
        for (host, client, root, other) in [
            (None, "`virtsnap jobs`", "`virtsnap jobs`", "`virsh list`"),
            (Some("far"), "`virtsnap -H far jobs`", "`virtsnap -H root@far jobs`", "`ssh far virsh list`"),
            (
                Some("me@far:2222"),
                "`virtsnap -H me@far:2222 jobs`",
                "`virtsnap -H root@far:2222 jobs`",
                "`ssh -p 2222 me@far virsh list`",
            ),
            (
                Some("a b"),
                "`virtsnap -H 'a b' jobs`",
                "`virtsnap -H 'root@a b' jobs`",
                "`ssh 'a b' virsh list`",
            ),
            (
                Some("-ox"),
                "`virtsnap --host='-ox' jobs`",
                "`virtsnap -H root@-ox jobs`",
                "`ssh -- '-ox' virsh list`",
            ),
        ] {
            let place = Place::of(host);
            assert_eq!(place.virtsnap("jobs"), client);
            assert_eq!(place.virtsnap_as_root("jobs"), root);
            assert_eq!(place.command("virsh list"), other);
        }
        assert_eq!(
            (Place::of(Some("f\n")).on(), Place::default().on()),
            (" on \"f\\n\"".into(), String::new())
        );
    }
}
