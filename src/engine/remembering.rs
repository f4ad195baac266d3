//! What the machine wants written down: kept until the store takes it.

use super::Engine;
use crate::{
    core::machine::{Entry, Refusal, Reply},
    logging::message,
    store::StoreError,
};

/// So much is kept at most for a store that takes nothing, and then the newest: each is as long as it is true.
const MOST: usize = 50_000;

impl Engine {
    /// Writes it down, after what could not be before. A millisecond or two, once per step; before its jobs start.
    pub(super) fn remember(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let again = !self.unstored.is_empty();
        self.unstored.extend(entries);
        if self.unstored.is_empty() {
            return Ok(());
        }
        match self.tools.store.remember(&self.unstored) {
            Ok(()) => {
                self.unstored.clear();
                if again {
                    tracing::info!("how far the policies got is stored again");
                }
                Ok(())
            }
            Err(e) => {
                let too_many = self.unstored.len().saturating_sub(MOST);
                self.unstored.drain(..too_many);
                if !again {
                    tracing::error!(
                        MESSAGE_ID = message::STORE_FAILED, error = %e,
                        "cannot store how far the policies got, which is tried again with each change and each minute: a \
                         restart before that goes on with what was stored last"
                    );
                }
                Err(e)
            }
        }
    }

    /// Tries again what could not be stored.
    pub(super) fn remember_again(&mut self) {
        let _told = self.remember(Vec::new());
    }
}

/// What a client is told of a change that could not be stored.
pub(super) fn not_stored(answer: &mut Result<Reply, Refusal>, e: &StoreError) {
    if let Ok(Reply::Done) = answer {
        let text = format!(
            "it is done, but cannot be stored: {e}. It holds until virtsnapd is restarted, and for good once the state \
             database can be written again (see `journalctl -u virtsnapd`)"
        );
        *answer = Err(Refusal::new("Failed", text));
    }
}
