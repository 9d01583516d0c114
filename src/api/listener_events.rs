//! Changes of the listeners, as they come.

use serde::{Deserialize, Serialize};

use super::Listener;

/// One line of the NDJSON that `GET /v1/listeners/watch` answers.
///
/// First an `added` for each listener that is there and then `synced`; from then on changes as they come. A reader that is slow
/// misses what was undone meanwhile and never the state at the end. The key of a listener is its `port`, `family`, `address`, `v6only`,
/// `netns` and `inode` together, as a socket can come to listen on another port. The last line is `end`; a stream without it was cut off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ListenerEvent {
    /// It listens. Who owns it and that it is bridged may follow, as a change.
    Added {
        /// As it is now. Its accept queue is left out, here and below: it changes all the time.
        listener: Box<Listener>,
    },
    /// It still listens, and something else about it has changed: its exposure, say, or its owner.
    Changed {
        /// As it is now.
        listener: Box<Listener>,
    },
    /// It listens no more.
    Removed {
        /// As it was told last.
        listener: Box<Listener>,
    },
    /// What was told up to here is the whole truth. Comes after the first listeners, and when a look has worked again.
    Synced,
    /// A look has failed: until the next `synced`, what was told may be out of date.
    Unknown {
        /// Why.
        message: String,
    },
    /// The agent ends, and the stream with it.
    End,
    /// A line that this version of the client does not know.
    #[serde(other)]
    Other,
}
