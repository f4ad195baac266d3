//! What the daemon tells by itself, kept until it is read.

use futures_util::StreamExt as _;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use zbus::{Connection, MatchRule, Message, MessageStream};

use super::exit::Failure;

/// All signals of that kind from now on.
///
/// zbus keeps 64 messages of a stream that nobody reads, and then takes nothing more from the bus, no reply either: who
/// waited for one while signals come would wait for ever.
pub(super) async fn signals(
    rule: MatchRule<'static>,
    bus: &Connection,
) -> Result<UnboundedReceiver<zbus::Result<Message>>, Failure> {
    let mut stream = MessageStream::for_match_rule(rule, bus, None).await?;
    let (send, news) = unbounded_channel();
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                () = send.closed() => return,
            };
            let Some(signal) = next else { return };
            if send.send(signal).is_err() {
                return;
            }
        }
    });
    Ok(news)
}
