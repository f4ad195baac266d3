//! `-H HOST`: the system bus of another machine, as `systemctl` reaches it: ssh runs `systemd-stdio-bridge` there.

use std::ffi::OsString;

use zbus::{
    Address,
    address::transport::{Transport, Unixexec},
};

use super::exit::Failure;

/// Runs on the other machine, where it is a part of systemd.
const BRIDGE: &str = "systemd-stdio-bridge";

/// How ssh goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// As it does; who is to be asked for a password is.
    Usual,
    /// So that the way stays when Ctrl-C is typed or the terminal goes.
    Steady,
    /// Without a question, and without much waiting.
    Silent,
}

/// The way to the bus of `[USER@]HOST[:PORT]`. For it to be steady ssh leaves alone what it finds ignored; in a process group
/// of its own it could not ask for a password.
pub(super) fn address(given: &str, manner: Manner) -> Result<Address, Failure> {
    let mut words = words(given, manner)?;
    let program = if manner == Manner::Steady {
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

fn words(given: &str, manner: Manner) -> Result<Vec<OsString>, Failure> {
    let (host, port) = parts(given).ok_or_else(|| {
        Failure::Usage(format!("--host {given:?} is no host; give it as [USER@]HOST[:PORT]"))
    })?;
    // No terminal there, no X11; ssh asks for a password on this one all the same.
    let mut words = vec!["-xT"];
    if manner == Manner::Silent {
        words.extend(["-o", "BatchMode=yes", "-o", "ConnectTimeout=2"]);
    }
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
            assert_eq!(words(given, Manner::Usual).unwrap(), [wanted, &["systemd-stdio-bridge"]].concat());
        }
        let silent =
            ["-xT", "-o", "BatchMode=yes", "-o", "ConnectTimeout=2", "--", "web", "systemd-stdio-bridge"];
        assert_eq!(words("web", Manner::Silent).unwrap(), silent);
        for wrong in ["", "web:", "web:ssh", ":22"] {
            assert!(matches!(words(wrong, Manner::Usual), Err(Failure::Usage(_))), "{wrong}");
        }
    }
}
