//! The transports: a Unix socket for root in the guest, vsock for the host.

use std::{
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use nix::sys::stat::{Mode, umask};
use tokio::net::{UnixListener, UnixStream};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};

use super::accept::{Accept, Peer};
use crate::health::Part;

/// The Unix socket, mode 0600. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct UnixEndpoint {
    listener: UnixListener,
    path: PathBuf,
}

impl UnixEndpoint {
    /// Binds `path`, over a socket that a dead agent left there.
    ///
    /// # Errors
    /// The path cannot be bound, holds something that is no socket, or another agent answers on it.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let with_path = |error: io::Error| io::Error::new(error.kind(), format!("binding {}: {error}", path.display()));
        remove_stale(path).map_err(with_path)?;
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        Ok(Self { listener: bound.map_err(with_path)?, path: path.to_owned() })
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::other(
            "there is something else than a socket; remove it or set `socket` to another path",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::other("another agent answers there; stop it first")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

impl Drop for UnixEndpoint {
    fn drop(&mut self) {
        // A path that somebody else removed is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Accept for UnixEndpoint {
    type Connection = UnixStream;

    async fn accept(&mut self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        Ok((stream, Peer::Unix { uid }))
    }
}

/// The vsock port, on whatever CID the VM has: it changes when the VM is restored from a snapshot.
#[derive(Debug)]
pub struct VsockEndpoint(VsockListener);

impl VsockEndpoint {
    /// Binds `port` on VMADDR_CID_ANY.
    ///
    /// # Errors
    /// The kernel has no vsock (EAFNOSUPPORT), or the port is taken.
    pub fn bind(port: u32) -> io::Result<Self> {
        VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port)).map(Self)
    }
}

impl Accept for VsockEndpoint {
    type Connection = VsockStream;

    async fn accept(&mut self) -> io::Result<(VsockStream, Peer)> {
        let (stream, address) = self.0.accept().await?;
        Ok((stream, Peer::Vsock { cid: address.cid() }))
    }
}

/// Can the host reach `port`? The kernel is asked each time, because the device can come and go.
pub fn vsock_state(port: u32) -> Part {
    const NO_VSOCK: &str = "the kernel has no vsock (/dev/vsock is missing); load vmw_vsock_virtio_transport or add the \
                            device to the VM";
    const NO_TRANSPORT: &str =
        "the VM has no vsock device, so the host cannot reach guestd; add one to the VM's configuration";
    match vsock::get_local_cid() {
        // VMADDR_CID_ANY: no transport; 1: the loopback transport alone.
        Ok(VMADDR_CID_ANY | 1) => Part::Failed(NO_TRANSPORT.to_owned()),
        Ok(cid) => Part::Ok(format!("port {port} on CID {cid}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Part::Failed(NO_VSOCK.to_owned()),
        Err(error) => Part::Failed(format!("asking /dev/vsock for the CID failed: {error}")),
    }
}
