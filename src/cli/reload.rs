//! `virtsnap reload`: the daemon reads its configuration again.

use serde::Serialize;
use zbus::Connection;

use super::{
    console::Console,
    exit::{Exit, Failure},
    proxy::{ManagerProxy, Options},
};

#[derive(Serialize)]
struct Reloaded {
    reloaded: bool,
}

/// Reloads; a mistake in a file is an error that names it, and the old settings stay.
pub(super) async fn reload(bus: &Connection, console: &mut Console<'_>) -> Result<Exit, Failure> {
    ManagerProxy::new(bus).await?.reload(Options::new()).await?;
    if console.json {
        console.answer(&Reloaded { reloaded: true })?;
    } else {
        console.line("the new configuration is in force")?;
    }
    Ok(Exit::Done)
}
