//! HTTP/1.1 on a Unix socket: one connection, one request at a time, bodies as they come.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;

/// One JSON document.
const JSON: &str = "application/json";
/// One JSON document a line.
pub(crate) const NDJSON: &str = "application/x-ndjson";
/// Binary frames.
pub(crate) const OCTETS: &str = "application/octet-stream";

/// Far above what any answer takes, so that only a hang reaches it.
const DEADLINE: Duration = Duration::from_secs(120);

/// What is read from the socket at once. A chunk of output with its frame fits several times.
const BUFFER: usize = 256 * 1024;

/// A connection that is kept between requests.
#[derive(Debug)]
pub(crate) struct Http(BufReader<UnixStream>);

impl Http {
    /// Connects.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        Self::with_buffer(path, BUFFER)
    }

    /// Connects, to read this much at once.
    pub(crate) fn with_buffer(path: &Path, bytes: usize) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("connecting to {}", path.display()))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self(BufReader::with_capacity(bytes, stream)))
    }

    /// Sends a request whose answer should be of this media type.
    pub(crate) fn send(&mut self, method: &str, target: &str, accept: &str, body: &[u8]) -> Result<()> {
        let mut request = self.head(method, target, accept, JSON, Some(body.len()));
        request.extend_from_slice(body);
        self.0.get_mut().write_all(&request).with_context(|| format!("sending {method} {target}"))
    }

    /// Begins a request whose body is written to what this gives, and then ended by [`Upload::end`].
    pub(crate) fn upload(&mut self, method: &str, target: &str, body_type: &str) -> Result<Upload<'_>> {
        let head = self.head(method, target, JSON, body_type, None);
        self.0.get_mut().write_all(&head).with_context(|| format!("sending {method} {target}"))?;
        Ok(Upload(self))
    }

    /// The other end of the same connection, to write to it while an answer is read.
    pub(crate) fn socket(&self) -> Result<UnixStream> {
        Ok(self.0.get_ref().try_clone()?)
    }

    fn head(&self, method: &str, target: &str, accept: &str, body_type: &str, length: Option<usize>) -> Vec<u8> {
        let framing = match length {
            Some(length) => format!("Content-Length: {length}"),
            None => "Transfer-Encoding: chunked".to_owned(),
        };
        format!(
            "{method} {target} HTTP/1.1\r\nHost: guestd\r\nAccept: {accept}\r\nContent-Type: {body_type}\r\n{framing}\r\n\r\n"
        )
        .into_bytes()
    }

    /// Reads the head of an answer. The body is to be read before the next request.
    pub(crate) fn answer(&mut self) -> Result<Answer<'_>> {
        let head = self.line().context("reading an answer")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("no HTTP answer: {head:?}"))?;
        let (mut framing, mut media_type) = (Framing::Left(0), String::new());
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').with_context(|| format!("no header: {line:?}"))?;
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("content-length", length) => framing = Framing::Left(length.parse()?),
                ("content-type", found) => media_type = found.to_owned(),
                ("transfer-encoding", "chunked") => framing = Framing::Chunked(0),
                _ => {}
            }
        }
        Ok(Answer { status, media_type, body: Body { http: self, framing } })
    }

    /// Sends a request and reads the whole answer.
    pub(crate) fn call(&mut self, method: &str, target: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        self.send(method, target, JSON, body)?;
        self.answer()?.whole()
    }

    /// The same, of a request that must succeed, with an answer in JSON.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, method: &str, target: &str, body: &[u8]) -> Result<T> {
        let (status, body) = self.call(method, target, body)?;
        let text = String::from_utf8_lossy(&body);
        ensure!((200..300).contains(&status), "{method} {target} was answered {status}: {text}");
        serde_json::from_slice(&body).with_context(|| format!("the answer to {method} {target}: {text}"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        ensure!(line.ends_with("\r\n"), "the connection was closed after {line:?}");
        line.truncate(line.len() - 2);
        Ok(line)
    }
}

/// A request body in chunks.
#[derive(Debug)]
pub(crate) struct Upload<'http>(&'http mut Http);

impl<'http> Upload<'http> {
    /// Nothing follows; the answer is next.
    pub(crate) fn end(self) -> Result<Answer<'http>> {
        self.0.0.get_mut().write_all(b"0\r\n\r\n")?;
        self.0.answer()
    }
}

impl Write for Upload<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !bytes.is_empty() {
            let stream = self.0.0.get_mut();
            stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
            stream.write_all(bytes)?;
            stream.write_all(b"\r\n")?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(crate) struct Answer<'http> {
    /// Status.
    pub(crate) status: u16,
    /// Of the body.
    pub(crate) media_type: String,
    /// What follows.
    pub(crate) body: Body<'http>,
}

impl<'http> Answer<'http> {
    /// Reads it to its end.
    pub(crate) fn whole(mut self) -> Result<(u16, Vec<u8>)> {
        let mut body = Vec::new();
        self.body.read_to_end(&mut body)?;
        Ok((self.status, body))
    }

    /// The body of an answer that must be a success.
    pub(crate) fn success(self) -> Result<Body<'http>> {
        if self.status == 200 {
            return Ok(self.body);
        }
        let (status, body) = self.whole()?;
        bail!("answered {status}: {}", String::from_utf8_lossy(&body))
    }
}

/// A body; reading gives 0 at its end, and an error where the connection ends before.
#[derive(Debug)]
pub(crate) struct Body<'http> {
    http: &'http mut Http,
    framing: Framing,
}

#[derive(Debug)]
enum Framing {
    /// So many bytes are left.
    Left(u64),
    /// So many bytes are left of this chunk.
    Chunked(u64),
}

impl Body<'_> {
    /// Bytes that can be read before the next look at the framing; 0 at the end.
    fn left(&mut self) -> std::io::Result<u64> {
        let Framing::Chunked(left) = &mut self.framing else {
            let Framing::Left(left) = self.framing else { return Ok(0) };
            return Ok(left);
        };
        if *left == 0 {
            let line = self.http.line().map_err(std::io::Error::other)?;
            *left = u64::from_str_radix(&line, 16).map_err(std::io::Error::other)?;
            if *left == 0 {
                self.http.line().map_err(std::io::Error::other)?;
                self.framing = Framing::Left(0);
                return Ok(0);
            }
        }
        Ok(*left)
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.left()?;
        if left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.http.0.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let (Framing::Left(left) | Framing::Chunked(left)) = &mut self.framing;
        *left -= count as u64;
        if let Framing::Chunked(0) = self.framing {
            self.http.line().map_err(std::io::Error::other)?;
        }
        Ok(count)
    }
}
