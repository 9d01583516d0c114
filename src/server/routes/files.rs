//! Files: raw content as a stream, or JSON as the platform has it.

use axum::{
    Json,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::{
    api::{ErrorCode, FileContent, FileQuery, FileStat, FileWrite, OCTET_STREAM, file_headers},
    files::{self, FileError, OpenFile, Owner, Upload, WriteOptions},
    limits,
    server::{body, error::ApiError},
};

/// `GET /v1/files`: what is there (`stat`), what is in it (`list`), or its content.
pub(super) async fn get(request: Request) -> Result<Response, ApiError> {
    let query = query(&request)?;
    let path = path(&query)?;
    if query.stat {
        return Ok(Json(blocking(move || files::stat(path)).await?).into_response());
    }
    if query.list {
        return Ok(Json(blocking(move || files::list(path, query.after)).await?).into_response());
    }
    let file = blocking(move || OpenFile::open(path)).await?;
    if accepts_raw(request.headers()) {
        return raw(file, request.headers());
    }
    let content = blocking(move || file.read_whole()).await?;
    Ok(Json(FileContent { content_b64: STANDARD.encode(content) }).into_response())
}

/// `PUT /v1/files`: a file whole, or with `type=directory` a directory.
pub(super) async fn put(request: Request) -> Result<Json<FileStat>, ApiError> {
    let query = query(&request)?;
    let owner = query.owner.as_deref().map(Owner::parse).transpose()?.unwrap_or_default();
    let options = WriteOptions { mode: query.mode, owner, create_dirs: query.create_dirs };
    if query.directory {
        let path = path(&query)?;
        return Ok(Json(blocking(move || files::make_directory(path, options)).await?));
    }
    if is_raw(request.headers()) {
        return upload(path(&query)?, options, request.into_body()).await.map(Json);
    }
    let write: FileWrite = body::json(request).await?;
    let wrong = |field: &str, why: &str| ApiError::new(ErrorCode::InvalidField, format!("field `{field}` {why}"));
    let content = STANDARD.decode(&write.content_b64).map_err(|_| wrong("content_b64", "is no standard base64"))?;
    let mode = match &write.mode {
        Some(mode) => Some(mode.bits().ok_or_else(|| wrong("mode", "is no octal text up to \"7777\""))?),
        None => options.mode,
    };
    let owner = write.owner.as_deref().map(Owner::parse).transpose()?.unwrap_or(options.owner);
    let options = WriteOptions { mode, owner, create_dirs: write.create_dirs || options.create_dirs };
    let stat = blocking(move || {
        let mut upload = Upload::begin(write.path.into_bytes(), options)?;
        upload.write(&content)?;
        upload.finish()
    });
    Ok(Json(stat.await?))
}

/// `DELETE /v1/files`.
pub(super) async fn delete(request: Request) -> Result<StatusCode, ApiError> {
    let query = query(&request)?;
    let path = path(&query)?;
    blocking(move || files::remove(path, query.recursive)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The query of a request.
pub(super) fn query(request: &Request) -> Result<FileQuery, ApiError> {
    FileQuery::parse(request.uri().query().unwrap_or_default())
        .map_err(|why| ApiError::new(ErrorCode::BadRequest, format!("the query cannot be read: {why}")))
}

/// The path of a query, which must have one.
pub(super) fn path(query: &FileQuery) -> Result<Vec<u8>, ApiError> {
    query.path.clone().ok_or_else(|| ApiError::new(ErrorCode::BadRequest, "the query has no `path`; give ?path=/…"))
}

/// Work that may wait for the disk, where waiting holds up nothing else.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(ApiError::new(ErrorCode::Internal, "guestd failed while it worked on a file; see its log")),
    }
}

/// Writes a body as it comes. No thread waits for the client, who may type it.
async fn upload(path: Vec<u8>, options: WriteOptions, mut content: Body) -> Result<FileStat, ApiError> {
    let begun = blocking(move || Upload::begin(path, options)).await;
    let mut upload = match begun {
        Ok(upload) => upload,
        Err(error) => {
            body::discard(content);
            return Err(error);
        }
    };
    let mut gathered = BytesMut::new();
    loop {
        let frame = content.frame().await.transpose();
        let frame = frame.map_err(|error| FileError::CutOff { path: upload.path(), why: error.to_string() })?;
        let ended = frame.is_none();
        if let Some(data) = frame.and_then(|frame| frame.into_data().ok()) {
            gathered.extend_from_slice(&data);
        }
        if gathered.len() >= limits::FILE_CHUNK_BYTES || (ended && !gathered.is_empty()) {
            let piece = gathered.split().freeze();
            let written = blocking(move || {
                upload.write(&piece)?;
                Ok(upload)
            });
            upload = match written.await {
                Ok(upload) => upload,
                Err(error) => {
                    body::discard(content);
                    return Err(error);
                }
            };
        }
        if ended {
            return blocking(move || upload.finish()).await;
        }
    }
}

fn accepts_raw(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split([',', ';']).any(|kind| kind.trim().eq_ignore_ascii_case(OCTET_STREAM))
}

fn is_raw(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(OCTET_STREAM))
}

/// A file as a stream: whole, or the range that was asked for.
fn raw(file: OpenFile, request: &HeaderMap) -> Result<Response, ApiError> {
    let stat = file.stat;
    let asked = request.get(header::RANGE).and_then(|value| value.to_str().ok()).filter(|_| file.has_length());
    let range = match asked.and_then(|text| range(text, stat.size)) {
        Some(Some(range)) => Some(range),
        Some(None) => {
            let why = format!("the range {} begins after the file's end at {}", asked.unwrap_or_default(), stat.size);
            let mut response = ApiError::new(ErrorCode::BadRange, why).into_response();
            insert(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{}", stat.size));
            return Ok(response);
        }
        None => None,
    };
    let (start, end) = range.unwrap_or((0, if file.has_length() { stat.size } else { u64::MAX }));
    let mut response = Body::from_stream(content(file.clone(), start, end)).into_response();
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let headers = response.headers_mut();
    insert(headers, header::CONTENT_TYPE, OCTET_STREAM);
    insert(headers, header::ACCEPT_RANGES, "bytes");
    if file.has_length() {
        insert(headers, header::CONTENT_LENGTH, &(end - start).to_string());
    }
    if range.is_some() {
        insert(headers, header::CONTENT_RANGE, &format!("bytes {start}-{}/{}", end - 1, stat.size));
    }
    insert(headers, HeaderName::from_static(file_headers::MODE), &format!("{:04o}", stat.mode));
    insert(headers, HeaderName::from_static(file_headers::UID), &stat.uid.to_string());
    insert(headers, HeaderName::from_static(file_headers::GID), &stat.gid.to_string());
    let mtime = format!("{}.{:09}", stat.mtime.secs, stat.mtime.nanos);
    insert(headers, HeaderName::from_static(file_headers::MTIME), &mtime);
    Ok(response)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Numbers and constants are all visible ASCII.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// One range of RFC 9110, section 14.1.2, as start and end; an inner none where nothing of the file is in it, and none
/// where it is no such range: then the file is sent whole, as the RFC allows.
fn range(text: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first.trim(), last.trim()) {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), size),
        (first, "") => (first.parse().ok()?, size),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse::<u64>().ok()?);
            if last < first {
                return None;
            }
            (first, last.saturating_add(1).min(size))
        }
    };
    Some((start < end).then_some((start, end)))
}

/// The bytes from `start` to `end`, or to the file's end where it has no length. A file that became shorter is an error:
/// the connection ends before Content-Length.
fn content(file: OpenFile, start: u64, end: u64) -> impl futures_util::Stream<Item = Result<Bytes, FileError>> {
    futures_util::stream::try_unfold(start, move |position| {
        let file = file.clone();
        async move {
            if position >= end {
                return Ok(None);
            }
            let path = || FileError::Lost { path: "a file".into() };
            let read = tokio::task::spawn_blocking(move || file.read_at(position, end - position));
            let piece = read.await.map_err(|_| path())??;
            let next = position + piece.len() as u64;
            Ok((!piece.is_empty()).then(|| (Bytes::from(piece), next)))
        }
    })
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn a_single_range_is_understood_and_anything_else_is_ignored() {
        assert_eq!(range("bytes=0-4", 10), Some(Some((0, 5))));
        assert_eq!(range("bytes=5-", 10), Some(Some((5, 10))));
        assert_eq!(range("bytes=-3", 10), Some(Some((7, 10))));
        assert_eq!(range("bytes=-30", 10), Some(Some((0, 10))));
        assert_eq!(range("bytes=8-99999999999999999999", 10), None);
        assert_eq!(range("bytes=8-18446744073709551615", 10), Some(Some((8, 10))));
        assert_eq!(range("bytes=10-", 10), Some(None));
        assert_eq!(range("bytes=-0", 10), Some(None));
        for ignored in ["bytes=0-1,3-4", "bytes=4-1", "bytes=-", "lines=1-2", "bytes=a-b", ""] {
            assert_eq!(range(ignored, 10), None, "{ignored}");
        }
    }
}
