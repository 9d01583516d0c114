//! Wire types: what travels between guestd and its clients, as JSON.
//!
//! Serde only. Field names are those of the platform's public REST interface, so that an orchestrator can
//! pass requests and streams through unchanged. Everything here is re-exported flat: `api::ExecRequest`.

mod bridge;
mod bridge_rule;
mod channel;
mod disk;
mod env;
mod error;
mod exec;
mod files;
mod generation;
mod health;
mod info;
mod keys;
mod listener_events;
mod listeners;
mod probe;
mod services;
mod udp;

pub use bridge::{Bridge, BridgeClient, BridgeCut, BridgeLeftOut, BridgePort, BridgePortState, BridgeUpdate};
pub use bridge_rule::{BadRule, BridgeListen, BridgeMode, BridgeRule, BridgeTarget};
pub use channel::{Channel, ChannelStatus, SUBPROTOCOL, WEBSOCKET_KEY_SUFFIX};
pub use disk::{DiskGrow, DiskGrown};
pub use env::{Env, EnvUpdate};
pub use error::{ErrorBody, ErrorCode, ForkPoint};
pub use exec::{
    AttachRequest, ExecExit, ExecLimits, ExecRequest, ExecResult, ExecState, ExecStatus, ExecUsage, LogEntry, Logs,
    OnBranch, OutputStream, SignalRequest, SignalTarget, StdinAccepted, StreamFrame, TtySize,
};
pub use files::{
    FileContent, FileList, FileMode, FileQuery, FileStat, FileType, FileWrite, OCTET_STREAM, TAR, TreeWritten,
    file_headers,
};
pub use generation::{
    ClockMended, GENERATION_HEADER, GenerationKind, GenerationNet, GenerationPhase, GenerationReport,
    GenerationRequest, GenerationSsh, GenerationState, IdentityPolicy, RestoreSign, SnapshotPrepare, SnapshotReport,
    SnapshotThaw, StepOutcome, StepReport,
};
pub use health::{Check, CheckState, Health, Status};
pub use info::{BootTimings, Identity, Info};
pub use keys::{
    AddKeys, AuthorizedKey, DEFAULT_KEY_SOURCE, DEFAULT_KEY_USER, HostKeyPolicy, IdentityKey, Keys, KeysChanged,
    PublicSshKey,
};
pub use listener_events::ListenerEvent;
pub use listeners::{Cause, Container, ContainerRuntime, Exposure, Family, Listener, Process, Scope};
pub use probe::{Milliseconds, Probe, ProbeOutcome};
pub use services::{
    AgentCrash, BootStep, PowerAccepted, PowerAction, PowerRequest, Service, ServiceAction, ServiceState,
};
pub use udp::UdpSocket;
