//! Files and trees of the VM.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use tokio::time::{sleep, timeout};

use crate::api::{FileList, FileQuery, FileStat, OCTET_STREAM, TAR, TreeWritten, file_headers};

use super::http::{Connection, Question, Reply};
use super::{Call, Client, ClientError, Endpoint, Upload};

const FILES: &str = "/v1/files";
const TREE: &str = "/v1/tree";

/// How a file is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PutFile {
    /// Permission bits. None: those of the file that is replaced, else 0644.
    pub mode: Option<u32>,
    /// `UID[:GID]` or names. None: that of the file that is replaced, else root.
    pub owner: Option<String>,
    /// Make the directories that are missing on the way.
    pub create_dirs: bool,
}

impl PutFile {
    fn query(&self, path: &Path) -> FileQuery {
        let (mode, owner, create_dirs) = (self.mode, self.owner.clone(), self.create_dirs);
        FileQuery { mode, owner, create_dirs, ..query(path) }
    }
}

impl Client {
    /// What is at a path of the VM; a link is not followed. None where there is nothing.
    pub async fn stat(&self, path: &Path) -> Result<Option<FileStat>, ClientError> {
        let call = Call::get(FILES);
        let patience = Some(self.timeouts().answer);
        let question = Question::new(call).to(target(FILES, &FileQuery { stat: true, ..query(path) }));
        let reply = self.send(question, patience).await?;
        if reply.status == StatusCode::NOT_FOUND {
            return match self.failure(call, reply).await {
                // A 404 of guestd's own and not of what has no such endpoint.
                ClientError::Api { body, .. } if body.code == crate::api::ErrorCode::NotFound => Ok(None),
                other => Err(other),
            };
        }
        self.parsed(call, reply, patience).await.map(Some)
    }

    /// What is in a directory of the VM, by name: a page of it, after the name `after`.
    pub async fn list(&self, path: &Path, after: Option<&[u8]>) -> Result<FileList, ClientError> {
        let query = FileQuery { list: true, after: after.map(<[u8]>::to_vec), ..query(path) };
        let (call, patience) = (Call::get(FILES), Some(self.timeouts().answer));
        let reply = self.send(Question::new(call).to(target(FILES, &query)), patience).await?;
        self.parsed(call, reply, patience).await
    }

    /// Makes a directory. One that is there is an error, but with `create_dirs`.
    pub async fn mkdir(&self, path: &Path, options: &PutFile) -> Result<FileStat, ClientError> {
        let query = FileQuery { directory: true, ..options.query(path) };
        let (call, patience) = (Call::put(FILES), Some(self.timeouts().answer));
        let reply = self.send(Question::new(call).to(target(FILES, &query)), patience).await?;
        self.parsed(call, reply, patience).await
    }

    /// Removes a file, a link or an empty directory, or with `recursive` a directory with all that is in it, which takes as
    /// long as it takes.
    pub async fn remove(&self, path: &Path, recursive: bool) -> Result<(), ClientError> {
        let call = Call::delete(FILES);
        let patience = (!recursive).then_some(self.timeouts().answer);
        let question = Question::new(call).to(target(FILES, &FileQuery { recursive, ..query(path) }));
        let reply = self.send(question, patience).await?;
        self.succeed(call, reply).await.map(drop)
    }

    /// The content of a file, whole or from a byte on, as it comes.
    pub async fn get_file(&self, path: &Path, from: u64) -> Result<Download, ClientError> {
        let call = Call::get(FILES);
        let mut question =
            Question::new(call).to(target(FILES, &query(path))).header(ACCEPT, HeaderValue::from_static(OCTET_STREAM));
        if let (true, Ok(range)) = (from > 0, HeaderValue::from_str(&format!("bytes={from}-"))) {
            question = question.header(RANGE, range);
        }
        self.download(call, question).await
    }

    /// A directory of the VM, as `./` and names relative to it, or one entry by its name, as a tar stream. It is whole if it has
    /// tar's end mark.
    pub async fn get_tree(&self, path: &Path) -> Result<Download, ClientError> {
        let call = Call::get(TREE);
        self.download(call, Question::new(call).to(target(TREE, &query(path)))).await
    }

    /// Writes a file whole. Until it is, and where this fails, the VM has what it had.
    pub async fn put_file(&self, path: &Path, options: &PutFile, content: Upload) -> Result<FileStat, ClientError> {
        let target = target(FILES, &options.query(path));
        self.upload(Call::put(FILES), target, OCTET_STREAM, content).await
    }

    /// Extracts a tar stream into a directory of the VM, which is made where only it is missing. What is extracted before an
    /// error stays.
    pub async fn put_tree(&self, path: &Path, tree: Upload) -> Result<TreeWritten, ClientError> {
        self.upload(Call::put(TREE), target(TREE, &query(path)), TAR, tree).await
    }

    async fn download(&self, call: Call, question: Question) -> Result<Download, ClientError> {
        let patience = self.timeouts().answer;
        let reply = self.send(question, Some(patience)).await?;
        let reply = self.succeed(call, reply).await?;
        let length = reply.body.size_hint().exact();
        let Reply { headers, body, connection, .. } = reply;
        Ok(Download { endpoint: self.endpoint().clone(), call, patience, headers, length, body, connection })
    }

    async fn upload<T: serde::de::DeserializeOwned>(
        &self,
        call: Call,
        target: String,
        kind: &'static str,
        content: Upload,
    ) -> Result<T, ClientError> {
        let patience = self.timeouts().answer;
        let (body, watch) = content.watched();
        let question = Question::with_body(call, body).to(target).header(CONTENT_TYPE, HeaderValue::from_static(kind));
        let stalled = async {
            // The rest of the last try's time, until nothing moved in one of them.
            while let Some(left) = watch.left(patience) {
                sleep(left).await;
            }
        };
        let reply = tokio::select! {
            reply = self.send(question, None) => reply,
            () = stalled => Err(ClientError::Timeout { endpoint: self.endpoint().clone(), call, after: patience }),
        };
        let reply = match reply {
            Err(error) => return Err(watch.failure().map_or(error, |why| ClientError::Source { call, why })),
            Ok(reply) => reply,
        };
        self.parsed(call, reply, Some(patience)).await
    }
}

/// Content on its way. Dropping it closes the connection.
#[derive(Debug)]
pub struct Download {
    endpoint: Endpoint,
    call: Call,
    patience: Duration,
    headers: HeaderMap,
    length: Option<u64>,
    body: Incoming,
    connection: Connection,
}

impl Download {
    /// Bytes that will come, where that is known.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Permission bits of the file, where the guest said them.
    #[must_use]
    pub fn mode(&self) -> Option<u32> {
        u32::from_str_radix(self.headers.get(file_headers::MODE)?.to_str().ok()?, 8).ok()
    }

    /// The next piece; none at the end. May be dropped at any await and called again.
    ///
    /// # Errors
    /// [`ClientError::Disconnected`] where the content is cut off, [`ClientError::Timeout`] where nothing comes.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = timeout(self.patience, self.connection.drive(self.body.frame())).await;
            match frame {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(Some(Err(error))) => {
                    let (endpoint, call, source) = (self.endpoint.clone(), self.call, Box::new(error));
                    return Err(ClientError::Disconnected { endpoint, call, source });
                }
                Err(_) => {
                    let (endpoint, call, after) = (self.endpoint.clone(), self.call, self.patience);
                    return Err(ClientError::Timeout { endpoint, call, after });
                }
            }
        }
    }
}

fn query(path: &Path) -> FileQuery {
    FileQuery::path(path.as_os_str().as_encoded_bytes())
}

fn target(path: &str, query: &FileQuery) -> String {
    format!("{path}?{}", query.encode())
}
