//! The least relay that can be written with `realm_io`, for the bench to compare with: `bench-bridge-realm LISTEN TO`.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// As many as the others have.
const THREADS: usize = 2;

/// As large as the others' pipes.
const PIPE_BYTES: usize = 256 * 1024;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut address = || -> Result<SocketAddr> { Ok(arguments.next().context("LISTEN TO")?.parse()?) };
    let (listen, to) = (address()?, address()?);
    realm_io::set_pipe_size(PIPE_BYTES);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    // Accepting on a worker, and not on the thread that waits for it.
    runtime.block_on(async move { tokio::spawn(serve(listen, to)).await? })
}

async fn serve(listen: SocketAddr, to: SocketAddr) -> Result<()> {
    let socket = TcpSocket::new_v6()?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    let listener: TcpListener = socket.listen(4096)?;
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            client.set_nodelay(true)?;
            let mut service = TcpStream::connect(to).await?;
            service.set_nodelay(true)?;
            realm_io::bidi_zero_copy(&mut client, &mut service).await?;
            anyhow::Ok(())
        });
    }
}
