//! One request and its answers over a NETLINK socket (netlink(7)).
//!
//! Synchronous: the kernel answers within the `send`, so a reply is there when the call returns. Owns nothing between
//! calls.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// Asks for a dump and returns its objects, but no more than the first `most`: the kernel is not asked for the rest.
///
/// An interrupted or failed dump is an error, never a short list.
pub(super) fn dump<T>(protocol: isize, request: T, most: usize) -> io::Result<Vec<T>>
where
    T: NetlinkSerializable + NetlinkDeserializable,
{
    exchange(protocol, request, NLM_F_REQUEST | NLM_F_DUMP, most)
}

/// Asks for one thing and returns the answer.
pub(super) fn ask<T>(protocol: isize, request: T) -> io::Result<Option<T>>
where
    T: NetlinkSerializable + NetlinkDeserializable,
{
    // The acknowledgement is the end of the answer.
    exchange(protocol, request, NLM_F_REQUEST | NLM_F_ACK, usize::MAX).map(|answers| answers.into_iter().next())
}

/// Asks for a change and waits for the kernel's word that it is done.
pub(super) fn change<T>(protocol: isize, request: T, flags: u16) -> io::Result<()>
where
    T: NetlinkSerializable + NetlinkDeserializable,
{
    exchange(protocol, request, NLM_F_REQUEST | NLM_F_ACK | flags, usize::MAX).map(drop)
}

fn exchange<T>(protocol: isize, request: T, flags: u16, most: usize) -> io::Result<Vec<T>>
where
    T: NetlinkSerializable + NetlinkDeserializable,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<T>::deserialize(rest).map_err(io::Error::other)?;
            if message.header.flags & netlink_packet_core::NLM_F_DUMP_INTR != 0 {
                return Err(io::Error::other("the table changed while the kernel dumped it (NLM_F_DUMP_INTR)"));
            }
            match message.payload {
                NetlinkPayload::InnerMessage(_) if answers.len() >= most => return Ok(answers),
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                // A dump that could not be done to its end says so here: without the protocol's part of the kernel (ENOENT), for one.
                NetlinkPayload::Done(done) if done.code < 0 => return Err(io::Error::from_raw_os_error(-done.code)),
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::Overrun(_) => {
                    return Err(io::Error::other("the kernel's answer was cut (NLMSG_OVERRUN)"));
                }
                _ => {}
            }
            // Messages are aligned to 4 bytes; the last one may end unpadded.
            let length = (message.header.length as usize).next_multiple_of(4).max(16);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
