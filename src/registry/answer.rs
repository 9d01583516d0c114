//! What the answer to a call means.

use std::{fmt, time::Duration};

use crate::limits;

/// A call to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// `POST /vms`.
    Register,
    /// `PATCH /vms/{id}`.
    Update,
    /// `POST /vms/{id}/heartbeat`.
    Heartbeat,
    /// `DELETE /vms/{id}`.
    Remove,
}

impl Call {
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Register | Self::Heartbeat => "POST",
            Self::Update => "PATCH",
            Self::Remove => "DELETE",
        }
    }

    /// Path below the registry's URL. An id has no character that a path would take for something else (`config`).
    pub(super) fn path(self, id: &str) -> String {
        match self {
            Self::Register => "/registry/vms".to_owned(),
            Self::Update | Self::Remove => format!("/registry/vms/{id}"),
            Self::Heartbeat => format!("/registry/vms/{id}/heartbeat"),
        }
    }
}

impl fmt::Display for Call {
    /// In a sentence's beginning: "the heartbeat …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Register => "registering this VM",
            Self::Update => "telling the registry what changed",
            Self::Heartbeat => "the heartbeat",
            Self::Remove => "taking this VM out of the registry",
        })
    }
}

/// An answer, as far as it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Retry-After, where it is in seconds. A date is not read: the clocks of VMs are not to be relied on.
    pub(super) retry_after: Option<Duration>,
    /// Beginning of its body, quoted, where that is worth showing.
    pub(super) excerpt: Option<String>,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoAnswer {
    pub(super) why: String,
    /// The request may have been carried out.
    pub(super) sent: bool,
}

/// What a call has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Done.
    Done,
    /// There is an entry of this id already.
    Known,
    /// There is none of this id.
    Unknown,
    /// Refused, and would be again.
    Refused {
        /// Status and what to do.
        why: String,
        /// The registry refuses what it was told, not who tells it.
        content: bool,
    },
    /// Worth another try.
    Again {
        /// What happened.
        why: String,
        /// The request may have been carried out.
        sent: bool,
        /// Not before this time has passed, says the registry.
        after: Option<Duration>,
    },
}

/// Reads the answer to `call`.
pub(super) fn read(call: Call, answer: Result<Answer, NoAnswer>) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(NoAnswer { why, sent }) => return Outcome::Again { why, sent, after: None },
    };
    let refused = |what_to_do: &str| {
        let shown = answer.excerpt.as_ref().map(|excerpt| format!(" ({excerpt})")).unwrap_or_default();
        let content = answer.status == 400;
        Outcome::Refused { why: format!("it answered {}{shown}: {what_to_do}", answer.status), content }
    };
    match (answer.status, call) {
        (200..=299, _) | (404, Call::Remove) => Outcome::Done,
        (409, Call::Register) => Outcome::Known,
        (404, Call::Update | Call::Heartbeat) => Outcome::Unknown,
        (404, Call::Register) => refused("there is no registry at this URL; look at `registry.url` (VERS_INFRA_URL)"),
        (300..=399, _) => refused(
            "it leads elsewhere, which is not followed, as the token is for this place alone; set `registry.url` to where it is",
        ),
        (400, _) => refused("it does not take what guestd says of this VM; its log should tell why"),
        (401, _) => refused("the token is missing or wrong; look at `auth_token` (VERS_AUTH_TOKEN)"),
        (403, _) => refused("the token does not allow it; look at `auth_token` (VERS_AUTH_TOKEN)"),
        (408 | 425 | 429 | 500..=599, _) => Outcome::Again {
            why: format!("it answered {}", answer.status),
            sent: true,
            after: answer.retry_after.map(|after| after.min(limits::REGISTRY_RETRY_AFTER)),
        },
        _ => refused("this is no answer of a registry; look at `registry.url` (VERS_INFRA_URL)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(call: Call, status: u16) -> Outcome {
        read(call, Ok(Answer { status, retry_after: Some(Duration::from_secs(9999)), excerpt: None }))
    }

    #[test]
    fn each_status_has_its_meaning() {
        use Call::{Heartbeat, Register, Remove, Update};
        for call in [Register, Update, Heartbeat, Remove] {
            assert!([200, 201, 204].into_iter().all(|status| answered(call, status) == Outcome::Done), "{call}");
            for status in [301, 302, 307, 308, 400, 401, 403, 405, 413, 100, 999] {
                assert!(matches!(answered(call, status), Outcome::Refused { .. }), "{call} {status}");
            }
            for status in [408, 425, 429, 500, 502, 503, 504] {
                let after = Some(limits::REGISTRY_RETRY_AFTER);
                assert_eq!(
                    answered(call, status),
                    Outcome::Again { why: format!("it answered {status}"), sent: true, after }
                );
            }
        }
        assert_eq!(answered(Register, 409), Outcome::Known);
        assert_eq!([answered(Update, 404), answered(Heartbeat, 404)], [Outcome::Unknown, Outcome::Unknown]);
        assert!(
            matches!(answered(Register, 404), Outcome::Refused { why, content: false } if why.contains("registry.url"))
        );
        assert_eq!(answered(Remove, 404), Outcome::Done);
    }

    #[test]
    fn a_refusal_of_the_content_is_told_from_one_of_the_token() {
        assert!(matches!(answered(Call::Update, 400), Outcome::Refused { content: true, .. }));
        assert!(
            matches!(answered(Call::Update, 401), Outcome::Refused { content: false, why } if why.contains("VERS_AUTH_TOKEN"))
        );
    }

    #[test]
    fn calls_go_where_the_contract_says() {
        let shown = |call: Call| format!("{} {}", call.method(), call.path("abc"));
        assert_eq!(shown(Call::Register), "POST /registry/vms");
        assert_eq!(shown(Call::Update), "PATCH /registry/vms/abc");
        assert_eq!(shown(Call::Heartbeat), "POST /registry/vms/abc/heartbeat");
        assert_eq!(shown(Call::Remove), "DELETE /registry/vms/abc");
    }
}
