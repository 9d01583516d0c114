//! Account variables.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    http::Uri,
};
use nix::errno::Errno;
use serde::Deserialize;

use crate::{
    account_env::{EnvError, EnvStore, Managed},
    api::{Env, EnvUpdate, ErrorCode},
    server::{Agent, body, error::ApiError, query},
};

/// `GET /v1/env`.
pub(super) async fn list(State(agent): State<Arc<Agent>>) -> Result<Json<Env>, ApiError> {
    aside(&agent, EnvStore::read).await
}

/// `PUT /v1/env`.
pub(super) async fn set(State(agent): State<Arc<Agent>>, request: Request) -> Result<Json<Env>, ApiError> {
    let EnvUpdate { env, replace } = body::json(request).await?;
    aside(&agent, move |store| {
        store.change(true, |managed| {
            if replace {
                managed.clear();
            }
            managed.extend(env);
        })
    })
    .await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    keys: String,
}

/// `DELETE /v1/env?keys=A,B`. A key that is not there is as good as one that was.
pub(super) async fn unset(State(agent): State<Arc<Agent>>, uri: Uri) -> Result<Json<Env>, ApiError> {
    let Which { keys } = query::of(&uri)?;
    aside(&agent, move |store| {
        let keys: Vec<_> = keys.split(',').collect();
        store.change(true, |managed: &mut BTreeMap<_, _>| {
            managed.retain(|key: &String, _| !keys.contains(&key.as_str()))
        })
    })
    .await
}

async fn aside(
    agent: &Agent,
    work: impl FnOnce(&EnvStore) -> Result<Managed, EnvError> + Send + 'static,
) -> Result<Json<Env>, ApiError> {
    let store = Arc::clone(&agent.env);
    let done = tokio::task::spawn_blocking(move || work(&store)).await;
    let managed = done.map_err(|error| ApiError::new(ErrorCode::Internal, format!("the variables: {error}")))??;
    Ok(Json(Env { others: managed.others(), notes: managed.notes(), env: managed.env }))
}

impl From<EnvError> for ApiError {
    fn from(error: EnvError) -> Self {
        let code = match &error {
            EnvError::BadKey { .. } | EnvError::TooLong { .. } | EnvError::BadValue { .. } => ErrorCode::BadEnv,
            EnvError::FileTooLarge { .. } => ErrorCode::LimitReached,
            EnvError::NotAFile => ErrorCode::Conflict,
            EnvError::File(error) => match error.errno() {
                Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => ErrorCode::NoSpace,
                Some(Errno::EACCES | Errno::EPERM | Errno::EROFS) => ErrorCode::Permission,
                _ => ErrorCode::Internal,
            },
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::root_dir::RootDirError;

    #[test]
    fn what_keeps_the_file_from_being_written_has_its_own_code() {
        let code = |errno| {
            let file = RootDirError::Call { action: "write", path: "/etc/environment".into(), errno };
            ApiError::from(EnvError::from(file)).0.code
        };
        assert_eq!(code(Errno::ENOSPC), ErrorCode::NoSpace);
        assert_eq!(code(Errno::EROFS), ErrorCode::Permission);
        assert_eq!(code(Errno::EIO), ErrorCode::Internal);
    }
}
