//! `-H HOST`: the system bus of another machine, as `systemctl` reaches it: ssh runs `systemd-stdio-bridge` there.

use std::ffi::OsString;

use zbus::{
    Address,
    address::transport::{Transport, Unixexec},
};

use super::exit::Failure;

/// Runs on the other machine, where it is a part of systemd.
const BRIDGE: &str = "systemd-stdio-bridge";

/// The way to the bus of `[USER@]HOST[:PORT]`; a steady one stays when Ctrl-C is typed or the terminal goes. ssh leaves
/// alone what it finds ignored, and in a process group of its own it could not ask for a password.
pub(super) fn address(given: &str, steady: bool) -> Result<Address, Failure> {
    let mut words = words(given)?;
    let program = if steady {
        let run = ["-c", "trap '' INT HUP QUIT; exec ssh \"$@\"", "ssh"];
        words.splice(..0, run.into_iter().map(OsString::from));
        "sh"
    } else {
        "ssh"
    };
    // Not as text: zbus takes what is escaped there as it is.
    Ok(Transport::Unixexec(Unixexec::new(program.into(), None, words)).into())
}

/// `[USER@]HOST`, as ssh takes it, and the port.
pub(super) fn parts(given: &str) -> Option<(&str, Option<&str>)> {
    let (host, port) = match given.rsplit_once(':') {
        // An IPv6 address has colons of its own.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (given, None),
    };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let sound = !host.is_empty() && port.is_none_or(|port| port.parse::<u16>().is_ok());
    sound.then_some((host, port))
}

fn words(given: &str) -> Result<Vec<OsString>, Failure> {
    let (host, port) = parts(given).ok_or_else(|| {
        Failure::Usage(format!("--host {given:?} is no host; give it as [USER@]HOST[:PORT]"))
    })?;
    // No terminal there, no X11; ssh asks for a password on this one all the same.
    let mut words = vec!["-xT"];
    words.extend(port.map(|port| ["-p", port]).into_iter().flatten());
    words.extend(["--", host, BRIDGE]);
    Ok(words.into_iter().map(OsString::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_word_of_ssh_s_whatever_it_is_called() {
        for (given, wanted) in [
            ("web", &["-xT", "--", "web"][..]),
            ("root@web:2222", &["-xT", "-p", "2222", "--", "root@web"]),
            ("::1", &["-xT", "--", "::1"]),
            ("[::1]:22", &["-xT", "-p", "22", "--", "::1"]),
            ("-oProxyCommand=x,y", &["-xT", "--", "-oProxyCommand=x,y"]),
        ] {
            assert_eq!(words(given).unwrap(), [wanted, &["systemd-stdio-bridge"]].concat());
        }
        for wrong in ["", "web:", "web:ssh", ":22"] {
            assert!(matches!(words(wrong), Err(Failure::Usage(_))), "{wrong}");
        }
    }
}
