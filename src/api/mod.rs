//! Wire types: what travels between guestd and its clients, as JSON.
//!
//! Serde only. Field names are those of the platform's public REST interface, so that an orchestrator can
//! pass requests and streams through unchanged. Everything here is re-exported flat: `api::ExecRequest`.

mod bridge;
mod channel;
mod error;
mod exec;
mod files;
mod health;
mod info;
mod listener_events;
mod listeners;
mod probe;
mod udp;

pub use bridge::{Bridge, BridgePort, BridgePortState, BridgeRule, BridgeUpdate};
pub use channel::{Channel, ChannelStatus, SUBPROTOCOL, WEBSOCKET_KEY_SUFFIX};
pub use error::{ErrorBody, ErrorCode};
pub use exec::{
    AttachRequest, ExecExit, ExecLimits, ExecRequest, ExecResult, ExecState, ExecStatus, ExecUsage, LogEntry, Logs,
    OutputStream, SignalRequest, SignalTarget, StdinAccepted, StreamFrame, TtySize,
};
pub use files::{
    FileContent, FileList, FileMode, FileQuery, FileStat, FileType, FileWrite, OCTET_STREAM, TAR, TreeWritten,
    file_headers,
};
pub use health::{Check, CheckState, Health, Status};
pub use info::{BootTimings, Identity, Info};
pub use listener_events::ListenerEvent;
pub use listeners::{Cause, Container, ContainerRuntime, Exposure, Family, Listener, Process, Scope};
pub use probe::{Milliseconds, Probe, ProbeOutcome};
pub use udp::UdpSocket;
