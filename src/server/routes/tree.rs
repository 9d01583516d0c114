//! Trees: tar streams out and in.

use std::{io, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use http_body_util::BodyExt;

use super::files::{blocking, path, query};
use crate::{
    api::{TAR, TreeWritten},
    limits,
    server::{Agent, body, error::ApiError},
};

/// `GET /v1/tree`: a directory as `./` and names relative to it, or one entry by its name.
pub(super) async fn get(State(agent): State<Arc<Agent>>, request: Request) -> Result<Response, ApiError> {
    let path = path(&query(&request)?)?;
    let trees = agent.trees.clone();
    let chunks = blocking(move || trees.open(path)).await?.stream();
    let chunks = stream::unfold(chunks, |mut chunks| async move { Some((chunks.recv().await?, chunks)) });
    Ok(([(header::CONTENT_TYPE, TAR)], Body::from_stream(chunks)).into_response())
}

/// `PUT /v1/tree`: extracts into a directory, and answers when all of it is there.
pub(super) async fn put(State(agent): State<Arc<Agent>>, request: Request) -> Result<Json<TreeWritten>, ApiError> {
    let query = query(&request)?;
    let (sender, work) = agent.trees.extract(path(&query)?, query.create_dirs)?;
    let mut content = request.into_body();
    loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(limits::TREE_STALL_TIME, content.frame()) => frame,
            // It failed, and will say why.
            () = sender.closed() => break,
        };
        let chunk = match frame {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Ok(data),
                Err(_) => continue,
            },
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Err(_) => {
                let seconds = limits::TREE_STALL_TIME.as_secs();
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {seconds} s")))
            }
        };
        let broken = chunk.is_err();
        if sender.send(chunk).await.is_err() || broken {
            break;
        }
    }
    drop(sender);
    let result = work.finish().await;
    body::discard(content);
    Ok(Json(result?))
}
