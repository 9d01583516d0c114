//! Where requests begin and end in a client's bytes, read more strictly than any parser that comes after.
//!
//! hyper reads requests leniently in places: it prefers `Transfer-Encoding` where there is a `Content-Length` too, and takes a bare
//! LF for an end of line. Two readers that disagree about where a request ends are what request smuggling lives on (RFC 9112, section
//! 11.2), so that what can be read in two ways is refused here, and hyper sees only what all read alike. Pure: bytes in, verdict out.

use crate::limits;

/// Reads a client's bytes as a row of requests.
#[derive(Debug, Default)]
pub(super) struct Requests {
    state: State,
    /// Of the bytes that are held back, how many were looked at.
    scanned: usize,
    /// Requests whose head was read.
    heads: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a head, which is held back until it is whole.
    #[default]
    Head,
    /// In a body of which so many bytes are to come.
    Sized(u64, Then),
    Chunks(Chunk, Then),
    /// After a request that may turn the connection into something else; what comes now is nobody's until that is decided.
    Undecided,
}

/// What comes after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Request,
    /// Whatever the service agrees to by 101, or by 2xx to CONNECT.
    PerhapsOther,
}

/// Where in a chunked body (RFC 9112, section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size {
        value: u64,
        digits: u8,
    },
    /// After the size; ignored, and bounded with the line.
    Extension {
        value: u64,
        length: u16,
    },
    SizeLf {
        value: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    /// At the beginning of a line after the last chunk, of which so many bytes came.
    Trailer {
        bytes: u32,
    },
    TrailerLine {
        bytes: u32,
    },
    TrailerLf {
        bytes: u32,
    },
    EndLf,
}

/// What to do with the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// So many can be passed on.
    pub(super) pass: usize,
    pub(super) next: Next,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// More bytes are needed.
    More,
    /// Nothing is to be read until it is decided whether the request of this number turns the connection into something else.
    Decide(u64),
    /// The head is longer than it may be.
    TooLarge,
    /// What follows can be read in two ways, or in none; in a head, or else in a body.
    Refuse { in_head: bool, why: &'static str },
}

/// The longest line of a chunk's size with its extensions, in bytes. Nobody sends any.
const CHUNK_LINE: u16 = 1024;

impl Requests {
    /// Judges the bytes that were not passed on yet, of which those before are the same as at the last call.
    pub(super) fn judge(&mut self, bytes: &[u8]) -> Verdict {
        let mut pass = 0;
        loop {
            let pending = &bytes[pass..];
            let state = self.state;
            let next = match state {
                State::Head => match self.head(pending) {
                    Ok(Some(length)) => {
                        pass += length;
                        continue;
                    }
                    Ok(None) => Next::More,
                    Err(next) => next,
                },
                State::Sized(0, then) => {
                    self.scanned = 0;
                    self.state = if then == Then::Request { State::Head } else { State::Undecided };
                    continue;
                }
                State::Sized(left, then) if !pending.is_empty() => {
                    let taken = pending.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    pass += taken;
                    self.state = State::Sized(left - taken as u64, then);
                    continue;
                }
                State::Chunks(chunk, then) if !pending.is_empty() => match chunk.take(pending) {
                    Ok((taken, chunk)) => {
                        pass += taken;
                        self.state = chunk.map_or(State::Sized(0, then), |chunk| State::Chunks(chunk, then));
                        continue;
                    }
                    Err(why) => Next::Refuse { in_head: false, why },
                },
                State::Sized(..) | State::Chunks(..) => Next::More,
                State::Undecided => Next::Decide(self.heads),
            };
            return Verdict { pass, next };
        }
    }

    /// The connection stays one of requests.
    pub(super) fn go_on(&mut self) {
        self.state = State::Head;
    }

    /// The length of the head that the bytes begin with, once it is whole.
    fn head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Next> {
        let refuse = |why| Next::Refuse { in_head: true, why };
        for at in self.scanned..bytes.len() {
            let before = at.checked_sub(1).map(|before| bytes[before]);
            match bytes[at] {
                b'\n' if before != Some(b'\r') => return Err(refuse("a line feed without a carriage return")),
                b'\n' => {}
                _ if before == Some(b'\r') => return Err(refuse("a carriage return within a line")),
                0 => return Err(refuse("a zero byte")),
                _ => {}
            }
            // Empty lines before a request are no part of it (RFC 9112, section 2.2).
            let whole = bytes[at] == b'\n' && (at == 1 || bytes[..at].ends_with(b"\r\n\r"));
            if whole && at > 1 {
                let framing = Framing::of(&bytes[..=at]).map_err(refuse)?;
                self.heads += 1;
                self.state = framing.state();
                self.scanned = 0;
                return Ok(Some(at + 1));
            }
            if whole {
                self.scanned = 0;
                return Ok(Some(2));
            }
        }
        self.scanned = bytes.len();
        if bytes.len() >= limits::BRIDGE_HTTP_HEAD_BYTES { Err(Next::TooLarge) } else { Ok(None) }
    }
}

impl Chunk {
    /// Takes some bytes; none is left of the body where there is no next place.
    fn take(self, bytes: &[u8]) -> Result<(usize, Option<Self>), &'static str> {
        let byte = bytes[0];
        let trailer = |bytes: u32| match usize::try_from(bytes) {
            Ok(bytes) if bytes < limits::BRIDGE_HTTP_HEAD_BYTES => Ok(()),
            _ => Err("trailers longer than they may be"),
        };
        let next = match (self, byte) {
            (Self::Size { value, digits }, _) if byte.is_ascii_hexdigit() => {
                // 15 digits are more than can ever come, and cannot overflow.
                if digits == 15 {
                    return Err("a chunk of a size that cannot be");
                }
                let digit = u64::from((byte as char).to_digit(16).unwrap_or_default());
                Self::Size { value: value * 16 + digit, digits: digits + 1 }
            }
            (Self::Size { digits: 0, .. }, _) => return Err("a chunk without a size"),
            (Self::Size { value, .. }, b'\r') => Self::SizeLf { value },
            (Self::Size { value, .. }, b';') => Self::Extension { value, length: 0 },
            (Self::Size { .. }, _) => return Err("a size of a chunk that is no number"),
            (Self::Extension { value, .. }, b'\r') => Self::SizeLf { value },
            (Self::Extension { value, length }, _) if byte != b'\n' && byte != 0 && length < CHUNK_LINE => {
                Self::Extension { value, length: length + 1 }
            }
            (Self::Extension { .. }, _) => return Err("an extension of a chunk that is none"),
            (Self::SizeLf { value: 0 }, b'\n') => Self::Trailer { bytes: 0 },
            (Self::SizeLf { value }, b'\n') => Self::Data(value),
            (Self::Data(left), _) => {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - taken as u64;
                return Ok((taken, Some(if left == 0 { Self::DataCr } else { Self::Data(left) })));
            }
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { value: 0, digits: 0 },
            (Self::DataCr | Self::DataLf, _) => return Err("a chunk longer than its size"),
            (Self::Trailer { .. }, b'\r') => Self::EndLf,
            (Self::Trailer { bytes }, _) if byte != b'\n' && byte != b' ' && byte != b'\t' => {
                trailer(bytes)?;
                Self::TrailerLine { bytes: bytes + 1 }
            }
            (Self::TrailerLine { bytes }, b'\r') => Self::TrailerLf { bytes },
            (Self::TrailerLine { bytes }, _) if byte != b'\n' && byte != 0 => {
                trailer(bytes)?;
                Self::TrailerLine { bytes: bytes + 1 }
            }
            (Self::TrailerLf { bytes }, b'\n') => Self::Trailer { bytes },
            (Self::EndLf, b'\n') => return Ok((1, None)),
            _ => return Err("a line that does not end as it must"),
        };
        Ok((1, Some(next)))
    }
}

/// How a request goes on after its head.
#[derive(Debug, Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    may_become_other: bool,
}

impl Framing {
    fn state(&self) -> State {
        let then = if self.may_become_other { Then::PerhapsOther } else { Then::Request };
        if self.chunked {
            State::Chunks(Chunk::Size { value: 0, digits: 0 }, then)
        } else {
            State::Sized(self.length.unwrap_or(0), then)
        }
    }

    /// Reads a whole head, its last empty line with it.
    fn of(head: &[u8]) -> Result<Self, &'static str> {
        // Every line ends by CR LF, and has neither within.
        let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let request = lines.next().unwrap_or_default();
        let mut parts = request.split(|byte| *byte == b' ');
        let (method, target, version) = (parts.next(), parts.next(), parts.next());
        let is_1_1 = match version {
            Some(b"HTTP/1.1") => true,
            Some(b"HTTP/1.0") => false,
            _ => return Err("no request line of HTTP/1"),
        };
        let method = method.filter(|method| is_token(method)).ok_or("a method that is none")?;
        if parts.next().is_some()
            || target.is_none_or(|target| target.is_empty() || !target.iter().all(u8::is_ascii_graphic))
        {
            return Err("a request line with a target that is none");
        }
        let is_connect = method == b"CONNECT";
        let mut framing = Self { may_become_other: is_connect, ..Self::default() };
        let mut hosts = 0;
        for line in lines.take_while(|line| !line.is_empty()) {
            if line.starts_with(b" ") || line.starts_with(b"\t") {
                return Err("a header folded over two lines");
            }
            let colon = line.iter().position(|byte| *byte == b':').ok_or("a header without a colon")?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if !is_token(name) {
                return Err("a header's name that is none, or has a blank before the colon");
            }
            let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
            if is(b"host") {
                hosts += 1;
            } else if is(b"content-length") {
                let length = digits(value).ok_or("a Content-Length that is no number")?;
                if framing.length.replace(length).is_some() {
                    return Err("more than one Content-Length");
                }
            } else if is(b"transfer-encoding") {
                if !is_1_1 {
                    return Err("Transfer-Encoding in HTTP/1.0");
                }
                if !value.eq_ignore_ascii_case(b"chunked") || framing.chunked {
                    return Err("a Transfer-Encoding other than chunked");
                }
                framing.chunked = true;
            } else if is(b"upgrade") && is_1_1 {
                framing.may_become_other = true;
            }
        }
        if framing.chunked && framing.length.is_some() {
            return Err("both Content-Length and Transfer-Encoding");
        }
        if is_connect && (framing.chunked || framing.length.is_some()) {
            return Err("CONNECT with a body");
        }
        if hosts > 1 || (hosts == 0 && is_1_1) {
            return Err("not exactly one Host");
        }
        Ok(framing)
    }
}

/// 18 digits are more than any body has, and cannot overflow.
fn digits(value: &[u8]) -> Option<u64> {
    let valid = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    valid.then(|| value.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(part)
}

#[cfg(test)]
mod tests;
